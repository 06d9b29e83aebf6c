//! `p2p nat`: what it tells of a network, above all of one with bad servers or none.

mod process;

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use process::{Desk, Process};
use serde_json::Value;

/// A STUN server in a process of its own.
fn stun(desk: &Desk, ip: &str) -> (Process, String) {
    let mut process = desk.start(&["rendezvous", "--stun", &format!("{ip}:0")]);
    let line = process.line();
    (process, line.strip_prefix("stun:").expect("a STUN server").to_owned())
}

/// Says something else than STUN to whoever connects.
fn garbage() -> String {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let here = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Who has hung up does not hear it.
            let _ = stream.and_then(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    here
}

/// Where nobody listens.
fn nobody() -> String {
    let gone = TcpListener::bind("127.0.0.3:0").unwrap();
    gone.local_addr().unwrap().to_string()
}

fn nat(desk: &Desk, more: &[&str]) -> process::Done {
    desk.run(&[&["nat", "--interface", "lo", "--family", "v4"], more].concat(), b"")
}

fn text(done: &process::Done) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

#[test]
fn it_tells_what_is_known_who_said_so_and_what_it_means() {
    let desk = Desk::new();
    let servers = [stun(&desk, "127.0.0.1"), stun(&desk, "127.0.0.4")];
    let done = nat(&desk, &["--stun", &servers[0].1, "--stun", &servers[1].1]);
    done.says(0, &[]);
    let told = text(&done);
    for part in [
        "lo: 127.0.0.1 listens on TCP port",
        "seen from outside as 127.0.0.1 (measured, 96 %)",
        "TCP: ",
        "ports equal",
        &format!("{} over UDP answered", servers[0].1),
        &format!("{} over TCP answered", servers[1].1),
        "You can meet, with a plain dial: ",
        "You can meet, with a punch: ",
    ] {
        assert!(told.contains(part), "{part:?} is missing in:\n{told}");
    }
}

#[test]
fn each_bad_server_is_named_with_its_reason() {
    let desk = Desk::new();
    let (_server, good) = stun(&desk, "127.0.0.1");
    let (garbage, nobody) = (garbage(), nobody());
    // No label may be that long, so no resolver is asked.
    let nowhere = format!("{}.example:3478", "x".repeat(70));
    let servers = ["--stun", &good, "--stun", &garbage, "--stun", &nobody, "--stun", &nowhere];
    let done = nat(&desk, &[&servers[..], &["--json"]].concat());
    done.says(0, &[]);
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["state"], "known");
    assert_eq!(told["servers_configured"].as_array().unwrap().len(), 4);
    let network = &told["networks"][0];
    assert_eq!(network["external"]["value"], "127.0.0.1");
    assert_eq!(network["mapped"], format!("127.0.0.1:{}", network["listen"]));
    let server = |address: &str| {
        let all = network["servers"].as_array().unwrap();
        let of = |server: &&Value| server["server"] == address && server["transport"] == "tcp";
        all.iter().find(of).unwrap_or_else(|| panic!("{address}: {network:#}")).clone()
    };
    assert_eq!(server(&good)["believed"], true);
    assert!(server(&good)["answered"].as_u64() > Some(3));
    let reason = |address: &str| server(address)["failure"].as_str().unwrap().to_owned();
    assert!(reason(&garbage).contains("does not speak STUN over TCP"), "{network:#}");
    assert!(reason(&nobody).contains("refused"), "{network:#}");
    assert_eq!(network["unresolved"][0]["name"], nowhere);
    assert!(!network["unresolved"][0]["why"].as_str().unwrap().is_empty());
    let meets = network["meets"].as_array().unwrap();
    assert!(meets.iter().any(|kind| kind["peer"] == "full-cone" && kind["way"] == "direct"));
    let done = nat(&desk, &servers);
    done.says(0, &[]);
    let told = text(&done);
    assert!(told.contains(&format!("No use: {garbage} over TCP:")), "{told}");
    assert!(told.contains(&format!("No use: {nowhere}:")), "{told}");
}

#[test]
fn without_a_server_it_says_so_and_that_local_paths_are_left() {
    let desk = Desk::new();
    let done = nat(&desk, &[]);
    done.says(2, &["no STUN server is configured"]);
    assert!(text(&done).contains("only local paths can work"), "{}", text(&done));
    let done = nat(&desk, &["--json"]);
    done.says(2, &["\"exit_code\":2"]);
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["state"], "no_server");
    assert_eq!(told["networks"][0]["local"], "127.0.0.1");
}

#[test]
fn with_dead_servers_only_it_is_offline_and_says_why() {
    let desk = Desk::new();
    let done = nat(&desk, &["--stun", &nobody()]);
    done.says(7, &["no STUN server answered"]);
    let told = text(&done);
    assert!(
        told.contains("Only local paths can work.") && told.contains("over TCP: the server cannot"),
        "{told}"
    );
    let done = nat(&desk, &["--stun", "127.0.0.1"]);
    done.says(2, &["invalid value '127.0.0.1'"]);
}
