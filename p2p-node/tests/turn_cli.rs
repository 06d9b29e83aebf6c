//! The TURN server as `p2p rendezvous` runs it.

mod process;
mod turn;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use p2p_core::stun::Method;
use p2p_node::rendezvous::turn::{Credential, Secret};
use process::Desk;
use serde_json::Value;
use tokio::net::{TcpStream, UdpSocket};
use turn::{Client, Stream, UDP};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn address(told: &Value, name: &str) -> SocketAddr {
    told[name][0].as_str().expect("an address").parse().unwrap()
}

/// As the command prints it.
fn credential(secret: &Secret, told: &Value) -> Credential {
    let text = |name: &str| told[name].as_str().expect("a text").to_owned();
    let expires = Duration::from_secs(told["expires"].as_u64().expect("a time"));
    let made = secret.credential("", expires);
    Credential { username: text("username"), password: text("password"), ..made }
}

async fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}

#[tokio::test]
async fn it_tells_where_it_is_and_how_to_get_in() {
    let desk = Desk::new();
    let mut server = desk.start(&["rendezvous", "--turn", "127.0.0.1:0", "--json"]);
    let told = json(&server.line());
    assert_eq!(told["stun"], Value::Array(Vec::new()), "nothing else was asked for");
    let at = address(&told, "turn");
    let made = credential(&Secret::generate().unwrap(), &told["turn_credential"]);
    let mut anna = Client::new(socket(at).await, made.clone());
    assert_eq!(anna.allocate(&[UDP]).await.ip(), at.ip());
    let stream = TcpStream::connect(at).await.unwrap();
    assert_eq!(Client::new(Stream(stream), made).allocate(&[UDP]).await.ip(), at.ip());
    server.signal("-TERM");
    server.finish(b"").says(0, &[]);
    // For people: lines.
    let mut server = desk.start(&["rendezvous", "--turn", "127.0.0.1:0"]);
    assert!(server.line().starts_with("turn:127.0.0.1:"));
    assert!(server.line().starts_with("username "));
    assert!(server.line().starts_with("password "));
}

#[tokio::test]
async fn who_has_the_secret_makes_credentials_that_end() {
    let mut desk = Desk::new();
    desk.set("RUST_LOG", "p2p_node=info");
    let make =
        ["rendezvous", "credentials", "--secret-file", "secret", "--name", "anna", "--for", "12h", "--json"];
    let done = desk.run(&make, b"");
    done.says(0, &[]);
    let secret = Secret::load(&desk.path("secret")).unwrap();
    let made = credential(&secret, &json(std::str::from_utf8(&done.stdout).unwrap()));
    assert!(made.username.ends_with(":anna"));
    assert_eq!(made, secret.credential("anna", Duration::from_secs(made.expires)));
    let password = desk.write("bert.pw", "open sesame\n");
    let user = format!("bert={password}");
    let args = ["rendezvous", "--turn", "127.0.0.1:0", "--turn-secret-file", "secret", "--turn-user", &user];
    let more = ["--turn-relay", "127.0.0.1", "--turn-ports", "49152-65535", "--turn-user-allocations", "1"];
    let last =
        ["--turn-allow-peer", "127.0.0.0/8", "--turn-rate", "1000000", "--turn-realm", "p2p", "--json"];
    let mut server = desk.start(&[&args[..], &more, &last].concat());
    let told = json(&server.line());
    assert_eq!(told["turn_credential"], Value::Null, "whoever has the secret can make one");
    let at = address(&told, "turn");
    Client::new(socket(at).await, made.clone()).allocate(&[UDP]).await;
    let second = Client::new(socket(at).await, made.clone()).code(Method::ALLOCATE, &[UDP]).await;
    assert_eq!(second, 486);
    let bert = Credential { username: "bert".into(), password: "open sesame".into(), ..made };
    Client::new(socket(at).await, bert).allocate(&[UDP]).await;
    let late = secret.credential("anna", Duration::from_secs(1_000_000_000));
    assert_eq!(Client::new(socket(at).await, late).code(Method::ALLOCATE, &[UDP]).await, 401);
    let note = server.note();
    assert!(note.contains("expired") && note.contains("1000000000:anna"), "{note}");
    server.signal("-INT");
    server.finish(b"").says(0, &[]);
}

#[test]
fn what_makes_no_sense_is_said() {
    let desk = Desk::new();
    let weak = desk.write("weak", "short\n");
    let listen = ["rendezvous", "--turn", "127.0.0.1:0"];
    for (more, parts) in [
        (&["--turn-secret-file", weak.as_str()][..], &["weak", "at least 16"][..]),
        (&["--turn-relay", "192.0.2.1"], &["cannot relay from 192.0.2.1"]),
        (&["--turn-relay", "127.0.0.1", "--turn-relay", "127.0.0.2"], &["127.0.0.2", "second of its family"]),
        (&["--turn-allow-peer", "10.0.0.1/8"], &["--turn-allow-peer", "10.0.0.0/8"]),
        (&["--turn-ports", "9-8"], &["--turn-ports", "50000-50999"]),
        (&["--turn-user", "anna"], &["--turn-user", "anna=anna.pw"]),
        (&["--turn-user", "anna=no-such"], &["no-such"]),
        (&["--turn-realm", ""], &["realm"]),
        (&["--turns", "127.0.0.1:0"], &["--tls-certificate"]),
    ] {
        desk.run(&[&listen[..], more].concat(), b"").says(2, parts);
    }
    desk.run(&["rendezvous", "--turn", "0.0.0.0:0"], b"").says(2, &["0.0.0.0", "to relay from"]);
    desk.run(&["rendezvous", "--turn-realm", "x"], b"").says(2, &["--turn"]);
    let args =
        ["rendezvous", "--turns", "127.0.0.1:0", "--tls-certificate", "no-such.pem", "--tls-key", "key"];
    desk.run(&args, b"").says(2, &["no-such.pem"]);
    let credentials = ["rendezvous", "credentials", "--secret-file"];
    desk.run(&[&credentials[..], &[&weak]].concat(), b"").says(2, &["weak"]);
    desk.run(&[&credentials[..], &["s", "--for", "2w"]].concat(), b"").says(2, &["3650d"]);
    assert!(!desk.path("s").exists());
    let done = desk.run(&[&credentials[..], &["s", "--for", "90s"]].concat(), b"");
    done.says(0, &[]);
    assert_eq!(String::from_utf8(done.stdout).unwrap().lines().count(), 2);
    assert_eq!(fs::read_to_string(desk.path("s")).unwrap().len(), 44);
    let help = desk.run(&["rendezvous", "credentials", "--help"], b"");
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Example:\n  p2p rendezvous credentials"), "{help}");
}
