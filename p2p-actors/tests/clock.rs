//! A clock that is set, or stands still.

mod nodes;

use std::time::Duration;

use nodes::{address, alone, status};
use p2p_actors::spawn_local;
use p2p_core::node::Status;
use tokio::task::LocalSet;
use tokio::time::sleep;

/// The runtime's clock runs ahead by hours while the system's stands nearly still: as after a correction of the
/// system's clock, or the other way round after a machine was suspended.
#[test]
fn an_address_is_dated_by_the_systems_clock() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let node = spawn_local(alone(1), None).unwrap();
        status(&node, Status::is_ready).await;
        let before = address(&node);
        for hours in 1..4 {
            sleep(Duration::from_secs(3_600)).await;
            let after = address(&node);
            assert_ne!(after.issued(), before.issued(), "published with the right date after {hours} h");
            let apart = after.issued().since(before.issued());
            assert!(apart < Duration::from_secs(600), "by the system's clock");
        }
    });
}
