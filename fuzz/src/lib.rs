//! The bodies of all fuzz targets, so that the same code runs under libFuzzer and in the replay.
//!
//! | purpose | command, in `fuzz/` |
//! |---|---|
//! | fuzz a target on stable | `cargo fuzz run -s none peer_addr` |
//! | replay all corpora, mutated | `cargo test` |
//! | write the seeds anew | `cargo run --example seeds` |
//!
//! A new target is a function here, a line in [`TARGETS`], a file in `fuzz_targets/`, a `[[bin]]` and a few
//! seeds in `corpus/<target>/`.

mod broker;
mod machines;
mod mqtt_link;
mod node_world;
mod ntp_wire;
mod peer_addr;
mod proof;
mod relay_circuit;
mod relay_stream;
mod signal;
mod stun_wire;
mod turn_server;
mod turn_wire;

pub use broker::broker;
pub use machines::machines;
pub use mqtt_link::mqtt_link;
pub use node_world::node_world;
pub use ntp_wire::ntp_wire;
pub use peer_addr::peer_addr;
pub use proof::{hello, proof};
pub use relay_circuit::relay_circuit;
pub use relay_stream::relay_stream;
pub use signal::{RECEIVER, SENDERS, signal};
pub use stun_wire::stun_wire;
pub use turn_server::turn_server;
pub use turn_wire::turn_wire;

/// A fuzz target: its name, and its function for any bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All fuzz targets.
pub const TARGETS: [Target; 13] = [
    ("broker", broker),
    ("machines", machines),
    ("mqtt_link", mqtt_link),
    ("node_world", node_world),
    ("ntp_wire", ntp_wire),
    ("peer_addr", peer_addr),
    ("proof", proof),
    ("relay_circuit", relay_circuit),
    ("relay_stream", relay_stream),
    ("signal", signal),
    ("stun_wire", stun_wire),
    ("turn_server", turn_server),
    ("turn_wire", turn_wire),
];
