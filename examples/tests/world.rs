//! The `world` example, run as a user would.

use std::process::{Command, Output};

fn world(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_world")).args(args).output().unwrap()
}

#[test]
fn it_tells_the_story_and_writes_a_pcap() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("punch.pcap");
    let output = world(&[path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let story = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = story.lines().collect();
    assert!(lines[0].contains("0.000000 alice        sends    192.168.1.2:5000 > 203.0.113.1:5000 TCP SYN"));
    assert!(lines.contains(&"alice is connected by SYNs that crossed"), "{story}");
    assert!(lines.contains(&"bob is connected by SYNs that crossed"), "{story}");
    assert!(!story.contains(" drops "), "{story}");

    let pcap = std::fs::read(path).unwrap();
    assert_eq!(pcap[..4], 0xa1b2_3c4d_u32.to_le_bytes());
    // Two SYNs, two SYN-ACKs, two ACKs: 16 bytes of record header and 40 of packet each.
    assert_eq!(pcap.len(), 24 + 6 * (16 + 40));
    assert_eq!(world(&[]).stdout, {
        let end = story.rfind("what passed").unwrap();
        story.as_bytes()[..end].to_vec()
    });
}

#[test]
fn wrong_use_is_said_so() {
    let output = world(&["--help"]);
    assert_eq!(output.status.code(), Some(2));
    let output = world(&["/nowhere/x.pcap"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nowhere/x.pcap"));
}
