//! `p2p nat` and `Node::network`: what is told of a network, above all of one with bad servers or none.
#![cfg(all(feature = "cli", feature = "rendezvous"))]

mod nodes;
mod process;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use nodes::{in_memory, in_time, meet, only};
use p2p_node::rendezvous::stun::{StunServer, StunServerConfig};
use p2p_node::{Config, MemoryBroker, NetworkState, Node, Way};
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

#[tokio::test]
async fn a_node_without_a_good_server_starts_and_meets_by_local_paths() {
    let broker = MemoryBroker::new();
    let node = |servers: Vec<p2p_node::StunServer>| {
        let mut config: Config = in_memory(&broker);
        config.stun = servers;
        Node::bind(config)
    };
    let dead: SocketAddr = nobody().parse().unwrap();
    let dead = p2p_node::StunServer { host: dead.ip().to_string(), port: dead.port() };
    let (anna, bert) = (node(Vec::new()).await.unwrap(), node(vec![dead]).await.unwrap());
    assert_eq!(in_time(anna.survey()).await.state, NetworkState::NoServer);
    assert_eq!(in_time(bert.survey()).await.state, NetworkState::Offline);
    meet(&anna, &bert, only(Way::Direct)).await;
    meet(&bert, &anna, only(Way::Reverse)).await;
    anna.close().await;
    bert.close().await;
}

#[tokio::test]
async fn what_is_learned_is_published_and_learned_anew_when_told() {
    let listen = ["127.0.0.1:0", "127.0.0.4:0"].map(|addr| addr.parse().unwrap());
    let server = StunServer::start(StunServerConfig::new(listen)).await.unwrap();
    let mut config = Config::loopback();
    let named = |at: SocketAddr| p2p_node::StunServer { host: at.ip().to_string(), port: at.port() };
    config.stun = server.local_addrs().into_iter().map(named).collect();
    let node = Node::bind(config).await.unwrap();
    let network = in_time(node.survey()).await;
    assert_eq!(network.state, NetworkState::Known);
    let report = network.networks.iter().find_map(|network| network.report.clone()).unwrap();
    let published = node.addr().unwrap();
    let ours = published.interfaces().iter().find(|interface| interface.local == report.local).unwrap();
    assert_eq!(ours.nat, report.facts());
    assert!(ours.nat.tcp.delta.is_some() && ours.nat.udp.mapping.is_some(), "{ours:?}");
    assert_eq!(ours.external, Some(report.local));
    let asked = server.counters().answered;
    node.refresh().await;
    let mut status = node.status();
    let anew = |status: &p2p_node::Status| {
        let mut facts = status.networks.iter().flat_map(|(_, facts)| facts);
        facts.any(|facts| {
            let anew = facts.probed.as_ref().is_some_and(|probed| probed.report != report);
            facts.local == report.local && anew
        })
    };
    in_time(status.wait_for(anew)).await.unwrap();
    assert!(server.counters().answered > asked);
    node.close().await;
    server.shutdown().await;
}
