//! The TURN server as `p2p rendezvous` runs it.

mod process;
#[path = "../../tests/turn/mod.rs"]
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
    desk.set("RUST_LOG", "p2p_core=info");
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

#[tokio::test]
async fn a_credential_is_printed_with_the_options_it_is_for() {
    let desk = Desk::new();
    let made = desk.run(&["rendezvous", "credentials", "--secret-file", "secret", "--name", "anna"], b"");
    let lines = String::from_utf8(made.stdout.clone()).unwrap();
    let word = |name: &str| {
        let mut words = lines.lines().filter_map(|line| line.strip_prefix(name));
        words.next().expect("a line of this name").trim().to_owned()
    };
    let (user, password) = (word("username"), word("password"));
    let hint = format!("--turn turn:HOST --turn-user {user} --turn-password-file turn.pw");
    made.says(0, &["in the file turn.pw", &hint]);
    assert!(!made.stderr.contains(&password));
    // The same words, with a server that runs.
    desk.write("turn.pw", &format!("{password}\n"));
    let mut server = desk.start(&["rendezvous", "--turn", "127.0.0.1:0", "--turn-secret-file", "secret"]);
    let uri = server.line();
    let at: SocketAddr = uri.strip_prefix("turn:").unwrap().parse().unwrap();
    let printed = Secret::generate().unwrap().credential("", Duration::ZERO);
    let printed = Credential { username: user.clone(), password: password.clone(), ..printed };
    Client::new(socket(at).await, printed).allocate(&[UDP]).await;
    let login = ["--turn-user", &user, "--turn-password-file", "turn.pw"];
    let args = [&["listen", "--interface", "lo", "--echo", "--turn", &uri][..], &login].concat();
    let mut listener = desk.start(&args);
    assert!(listener.line().starts_with("p2p1"));
    listener.signal("-TERM");
    listener.finish(b"");
    // A server that makes its own secret tells the same.
    let mut server = desk.start(&["rendezvous", "--turn", "127.0.0.1:0"]);
    let uri = server.line();
    assert!(server.note().contains("turn.pw"));
    assert!(server.note().contains(&format!("p2p listen --broker mqtt://HOST --turn {uri} --turn-user ")));
}

#[test]
fn a_login_that_cannot_be_is_said() {
    let desk = Desk::new();
    desk.write("turn.pw", "open sesame\n");
    let login = ["--turn-user", "anna", "--turn-password-file", "turn.pw"];
    let listen = |more: &[&str]| desk.run(&[&["listen", "--interface", "lo"][..], more].concat(), b"");
    let uri = ["--turn", "turn:192.0.2.1"];
    listen(&uri).says(2, &["--turn-user", "--turn-password-file", "p2p rendezvous credentials"]);
    listen(&login).says(2, &["need a --turn"]);
    listen(&["--turn-ca", "ca.pem"]).says(2, &["need a --turn"]);
    listen(&["--turn-user", "anna"]).says(2, &["--turn-password-file"]);
    listen(&["--turn", "192.0.2.1:3478"]).says(2, &["turn:192.0.2.1:3478"]);
    listen(&["--turn", "turns:192.0.2.1?transport=udp"]).says(2, &["DTLS", "`turns:`"]);
    let more = ["--turn-user", "anna", "--turn-password-file", "no-such"];
    listen(&[&uri[..], &more].concat()).says(2, &["password file no-such"]);
    let more = ["--turn-user", "", "--turn-password-file", "turn.pw"];
    listen(&[&uri[..], &more].concat()).says(2, &["turn:192.0.2.1:3478", "user name"]);
    let more = ["--turn-ca", "no-such.pem"];
    listen(&[&uri[..], &login, &more].concat()).says(2, &["CA file no-such.pem"]);
    let many = uri.repeat(9);
    listen(&[&many[..], &login].concat()).says(2, &["18 TURN servers", "16", "counts as two"]);
    // What is given here goes for the servers of the file, too.
    desk.write("p2p.toml", "[[turn]]\nurl = 'turns:turn.example'\nuser = 'bert'\npassword = 'x'");
    listen(&["--turn-ca", "no-such.pem"]).says(2, &["CA file no-such.pem"]);
    let more = ["--turn-user", "", "--turn-password-file", "turn.pw"];
    listen(&more).says(2, &["turns:turn.example:5349", "user name"]);
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

#[test]
fn a_file_arrives_whole_from_a_process_that_ends() {
    let desk = Desk::new();
    let words = [
        "rendezvous",
        "--mqtt",
        "127.0.0.1:0",
        "--turn",
        "127.0.0.1:0",
        "--turn-user-rate",
        "0",
        "--turn-allow-peer",
        "127.0.0.0/8",
        "--json",
    ];
    let mut server = desk.start(&words);
    let told = json(&server.line());
    let broker = told["mqtt"][0].as_str().expect("a broker").to_owned();
    let made = credential(&Secret::generate().unwrap(), &told["turn_credential"]);
    let password = desk.write("turn.pw", &made.password);
    let file: Vec<u8> =
        (0..4_000_000_u32).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    for (carrier, is_caller, plain) in [
        ("udp", true, false),
        ("tcp", true, false),
        ("tcp", true, true),
        ("tcp", false, false),
        ("udp", false, true),
    ] {
        let turn = format!("turn:{}?transport={carrier}", address(&told, "turn"));
        let common = ["--interface", "lo", "--broker", &broker];
        let lent = ["--turn", &turn, "--turn-user", &made.username, "--turn-password-file", &password];
        let with = |lends: bool| {
            let lent = if lends { &lent[..] } else { &[] };
            [&common[..], lent, if plain { &["--plain"] } else { &[] }].concat()
        };
        let mut listener = desk.start(&[&["listen", "--stdio"][..], &with(!is_caller)].concat());
        let peer = listener.address();
        // It has said everything before it hears anything.
        let listening = std::thread::spawn(move || listener.finish(b""));
        let call = [&["connect", &peer, "--strategy", "relay"][..], &with(is_caller)].concat();
        desk.run(&call, &file).says(0, &[]);
        let heard = listening.join().unwrap();
        heard.says(0, &[]);
        assert!(heard.stdout == file, "{} bytes: {turn}, {is_caller}, {plain}", heard.stdout.len());
    }
}
