//! Tests that each program does what it says.

use std::net::Ipv4Addr;
use std::process::Stdio;

use p2p_node::rendezvous::{Rendezvous, RendezvousConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

async fn output(program: &str) -> String {
    let output = Command::new(program).kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn hello_is_heard_and_answered() {
    let told = output(env!("CARGO_BIN_EXE_hello")).await;
    assert!(told.contains("bert heard \"hello\" from p2pid1"), "{told}");
    assert!(told.contains("anna heard \"hello yourself\""), "{told}");
}

#[tokio::test]
async fn the_network_is_told() {
    let told = output(env!("CARGO_BIN_EXE_nat")).await;
    assert!(told.contains("seen from outside as 127.0.0.1 (measured"), "{told}");
    assert!(told.contains("You can meet, with a plain dial: "), "{told}");
    assert!(
        told.contains("127.0.0.1: symmetric-firewall over TCP, ")
            || told.contains("127.0.0.1: open over TCP, "),
        "{told}"
    );
}

#[tokio::test]
async fn embedded_actors_greet() {
    let told = output(env!("CARGO_BIN_EXE_embed")).await;
    assert!(told.contains("by the direct way"), "{told}");
    assert!(told.contains("bert heard \"hello\""), "{told}");
}

#[tokio::test]
async fn a_punch_on_one_interface() {
    let told = output(env!("CARGO_BIN_EXE_punch")).await;
    for part in ["by punch (machine)", "(on one interface)", "1 connected", "\"hello yourself\""] {
        assert!(told.contains(part), "{told}");
    }
}

#[tokio::test]
async fn two_processes_punch() {
    let mut config = RendezvousConfig::default();
    config.mqtt = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    config.stun = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let rendezvous = Rendezvous::start(config).await.unwrap();
    let broker = format!("mqtt://{}", rendezvous.mqtt_addrs()[0]);
    let stun = rendezvous.stun_addrs()[0].to_string();
    let start = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_punch"));
        command.args(words).env("PUNCH_INTERFACE", "lo").stdout(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let mut waiting = start(&["wait", &broker, &stun]);
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().unwrap();
    let called = start(&["call", &broker, &stun, &address]).wait_with_output().await.unwrap();
    let told = String::from_utf8(called.stdout).unwrap();
    assert!(called.status.success() && told.contains("by punch (machine)"), "{told}");
    let answered = lines.next_line().await.unwrap().unwrap();
    assert!(answered.contains("by punch (machine)"), "{answered}");
    assert!(waiting.wait().await.unwrap().success());
    rendezvous.shutdown().await;
}

/// Starts an end of a tunnel and reads the one line it prints.
async fn tunnel(words: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tunnel"))
        .args(words)
        .env("TUNNEL_INTERFACE", "lo")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    (child, line.trim().to_owned())
}

#[tokio::test]
async fn a_tunnel_carries_a_service_to_another_process() {
    let broker = p2p_node::rendezvous::broker::Broker::start(
        &["127.0.0.1:0".parse().unwrap()],
        p2p_node::rendezvous::broker::Options::default(),
    )
    .await
    .unwrap();
    let url = format!("mqtt://{}", broker.local_addrs()[0]);
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = service.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.unwrap();
                heard.reverse();
                stream.write_all(&heard).await.unwrap();
            });
        }
    });
    let (_far, address) = tunnel(&["serve", &at, &url]).await;
    let (_near, port) = tunnel(&["forward", "127.0.0.1:0", &url, &address]).await;
    for question in ["stressed", "desserts"] {
        let mut stream = TcpStream::connect(&port).await.unwrap();
        stream.write_all(question.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, question.chars().rev().collect::<String>());
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn a_loop_of_our_own_is_enough() {
    let mut listen = Command::new(env!("CARGO_BIN_EXE_own_loop"));
    let mut listener = listen.arg("listen").stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let address = lines.next_line().await.unwrap().expect("its address");
    let mut connect = Command::new(env!("CARGO_BIN_EXE_own_loop"));
    let told = connect.args(["connect", &address]).kill_on_drop(true).output().await.unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.ends_with(" says hello, by the direct way\n"), "{told}");
    let heard = lines.next_line().await.unwrap().expect("a greeting");
    assert!(heard.ends_with(" says hello, by the direct way"), "{heard}");
    assert!(listener.wait().await.unwrap().success());
}
