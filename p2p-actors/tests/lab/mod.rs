//! What tests need of this machine. Shared by the tests of several crates.
//!
//! Without it a test says so and passes; with `P2P_LAB=require` it fails.
#![allow(dead_code, reason = "not every test needs everything")]

pub(crate) mod mosquitto;

use std::io::Write;
use std::path::PathBuf;

/// This machine lacks something, and nobody requires it.
///
/// # Panics
/// When somebody does.
pub(crate) fn skip(lacks: &str) {
    let required = std::env::var("P2P_LAB").is_ok_and(|lab| lab == "require");
    assert!(!required, "{lacks} on this machine, and P2P_LAB=require");
    // Past the capture of the test harness, so that a skipped test is seen.
    writeln!(std::io::stderr(), "SKIPPED: {lacks} on this machine").expect("stderr takes a line");
}

/// Where this program is; `None`, and the test is skipped, when it is nowhere.
pub(crate) fn binary(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        skip(&format!("there is no {name}"));
    }
    found
}
