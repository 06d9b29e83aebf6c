//! Rules of the house that a compiler does not check: which room may use which, and that a name is one thing.
//!
//! The sources of the crates are read as text, code for tests apart: tests may use the simulated world and
//! whatever else they need.

mod layers;
mod names;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::Crate;

/// The crates and the root files of each.
const CRATES: [(&str, &[&str]); 4] = [
    ("p2p-core", &["lib.rs"]),
    ("p2p-actors", &["lib.rs"]),
    ("p2p-node", &["lib.rs"]),
    ("p2p-node/command", &["main.rs"]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn read(name: &str) -> Vec<Crate> {
    let (name, roots) = CRATES.iter().find(|known| known.0 == name).expect("a crate of ours");
    roots.iter().map(|root| Crate::read(&workspace().join(name).join("src").join(root))).collect()
}

fn architecture() -> String {
    fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md")
}
