//! A node on a machine that is out of descriptors. One test, for a process has one limit of them.
#![cfg(target_os = "linux")]

mod nodes;

use nodes::{failure, in_memory, in_time, meet, only, story};
use p2p_node::{MemoryBroker, Node, PeerAddr, Way, WayFailure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A limit that leaves no descriptor above the highest one that is open.
fn no_more() -> Rlimit {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let highest = open.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
    Rlimit { current: Some(highest + 1), ..getrlimit(Resource::Nofile) }
}

#[tokio::test]
async fn a_punch_without_descriptors_is_told_and_the_node_lives() {
    let broker = MemoryBroker::new();
    let anna = Node::bind(in_memory(&broker)).await.unwrap();
    let bert = Node::bind(in_memory(&broker)).await.unwrap();
    let usual = getrlimit(Resource::Nofile);
    let addr = bert.addr().unwrap();
    // Numbers below the highest one are free: they are taken first.
    let mut fillers = Vec::new();
    setrlimit(Resource::Nofile, no_more()).unwrap();
    while let Ok(filler) = std::fs::File::open("/dev/null") {
        fillers.push(filler);
    }
    // That the system cannot be asked is no answer, and whoever has a socket to ask through can still ask.
    let unanswered = p2p_actors::interface::nics().unwrap_err();
    assert_eq!(unanswered.raw_os_error(), Some(24), "{unanswered}");
    bert.refresh().await;
    let error = in_time(anna.connect_with(&addr, only(Way::Punch))).await.unwrap_err();
    let report = story(&error);
    let told = report.to_string();
    assert!(matches!(failure(report, Way::Punch), WayFailure::Punch(_)), "{told}");
    assert!(told.contains("Too many open files"), "{told}");
    drop(fillers);
    setrlimit(Resource::Nofile, usual).unwrap();
    drop(meet(&anna, &bert, only(Way::Punch)).await);
    let ports = |addr: &PeerAddr| addr.interfaces().iter().map(|one| one.listen).collect::<Vec<_>>();
    assert_eq!(ports(&bert.addr().unwrap()), ports(&addr), "nothing has vanished");
    drop(in_time(anna.connect_with(&addr, only(Way::Direct))).await.unwrap());
}
