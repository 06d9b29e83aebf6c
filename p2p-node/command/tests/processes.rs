//! Separate processes of `p2p` against a real broker, and across a real firewall.

#[path = "../../../p2p-actors/tests/lab/mod.rs"]
mod lab;
#[path = "../../tests/nodes/netns.rs"]
mod netns;
mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lab::mosquitto::Mosquitto;
use netns::Net;
use process::{Desk, Done, Process};

const WORDS: &[u8] = b"hello\nand good-bye";
/// A listener that lost its broker is back within seconds; so many calls find it.
const TRIES: usize = 200;
/// Far longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls by one way and checks that what was said comes back.
fn call(desk: &Desk, address: &str, ways: &str, more: &[&str]) -> Done {
    desk.run(&[&["connect", address, "--strategy", ways], more].concat(), WORDS)
}

fn is_echoed(done: &Done) {
    done.says(0, &[]);
    assert_eq!(done.stdout, WORDS);
}

/// Two processes meet through this broker by each way, also after it was killed and came back.
fn meet_and_meet_again(mut mosquitto: Mosquitto, broker: &str, more: &[&str]) {
    let desk = Desk::new();
    let common = [&["--interface", "lo", "--broker", broker], more].concat();
    let mut echo = desk.start(&[&["listen", "--echo"], &common[..]].concat());
    let address = echo.line();
    for ways in ["direct", "reverse", "punch", "direct,reverse,punch,relay"] {
        is_echoed(&call(&desk, &address, ways, &common));
    }
    mosquitto.kill();
    is_echoed(&call(&desk, &address, "direct", &common));
    mosquitto.restart();
    let again = (0..TRIES).map(|_| call(&desk, &address, "reverse", &common));
    let found = again.skip_while(|done| done.code == Some(3)).map(|done| is_echoed(&done)).next();
    assert!(found.is_some(), "the listener never came back to its broker");
}

#[test]
fn two_processes_meet_through_mosquitto_killed_and_restarted() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    let broker = format!("mqtt://127.0.0.1:{}", mosquitto.port);
    meet_and_meet_again(mosquitto, &broker, &[]);
}

#[test]
fn two_processes_meet_through_mosquitto_over_tls_killed_and_restarted() {
    let Some(mosquitto) = Mosquitto::secure() else { return };
    let broker = format!("mqtts://localhost:{}", mosquitto.port);
    let authority = mosquitto.folder.path().join("right.pem").display().to_string();
    meet_and_meet_again(mosquitto, &broker, &["--broker-ca", &authority]);
}

#[test]
fn where_a_firewall_lets_nothing_in_direct_fails_and_reverse_connects() {
    let machines: [(&str, &[&str]); 2] = [("anna", &["10.77.0.1/24"]), ("bert", &["10.77.0.2/24"])];
    let Some(net) = Net::new(&machines) else { return };
    net.fire_wall("bert");
    let (hub, anna, bert) = (desk(&net, "hub"), desk(&net, "anna"), desk(&net, "bert"));
    let mut rendezvous = hub.start(&["rendezvous", "--mqtt", "10.77.0.254:0", "--stun", "10.77.0.254:0"]);
    let broker = rendezvous.line();
    let mut echo = bert.start(&["listen", "--echo", "--broker", &broker]);
    let address = echo.line();
    let more = ["--broker", &broker];
    call(&anna, &address, "direct", &[&more[..], &["--timeout", "2"]].concat()).says(6, &["out of time"]);
    is_echoed(&call(&anna, &address, "reverse", &more));
    is_echoed(&call(&anna, &address, "direct,reverse", &more));
}

#[test]
fn where_both_firewalls_let_nothing_in_a_relay_connects() {
    let machines: [(&str, &[&str]); 2] = [("anna", &["10.77.0.1/24"]), ("bert", &["10.77.0.2/24"])];
    let Some(net) = Net::new(&machines) else { return };
    net.fire_wall("anna");
    net.fire_wall("bert");
    let (hub, anna, bert) = (desk(&net, "hub"), desk(&net, "anna"), desk(&net, "bert"));
    bert.write("turn.pw", "sesame\n");
    let password = bert.path("turn.pw").display().to_string();
    let user = format!("bert={password}");
    let serve = ["rendezvous", "--mqtt", "10.77.0.254:0", "--turn", "10.77.0.254:0", "--turn-user", &user];
    let mut rendezvous = hub.start(&[&serve[..], &["--turn-allow-peer", "10.77.0.0/24"]].concat());
    let (broker, turn) = (rendezvous.line(), rendezvous.line());
    for url in [turn.clone(), format!("{turn}?transport=tcp")] {
        let login = ["--turn", &url, "--turn-user", "bert", "--turn-password-file", &password];
        let mut echo = bert.start(&[&["listen", "--echo", "--broker", &broker][..], &login].concat());
        let address = echo.line();
        let more = ["--broker", &broker];
        call(&anna, &address, "reverse", &[&more[..], &["--timeout", "2"]].concat())
            .says(6, &["out of time"]);
        is_echoed(&call(&anna, &address, "relay", &more));
        is_echoed(&call(&anna, &address, "direct,reverse,relay", &more));
    }
}

/// Where `p2p` runs on a machine of this net, and takes it for another than the others.
fn desk(net: &Net, machine: &str) -> Desk {
    let mut desk = Desk::new();
    desk.write("p2p.toml", &format!("machine_id = \"{machine}\"\n"));
    desk.run_within(&["ip", "netns", "exec", &net.space(machine)]);
    desk
}

/// A STUN question over TCP is answered.
fn is_answered(server: &str) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let question = [&b"\x00\x01\x00\x00\x21\x12\xa4\x42"[..], &[7; 12]].concat();
    stream.write_all(&question).unwrap();
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!((&answer[..2], &answer[8..]), (&b"\x01\x01"[..], &question[8..]));
}

#[test]
fn a_rendezvous_with_few_descriptors_serves_beside_strangers_who_want_all_of_them() {
    for limit in ["64", "256", "1024"] {
        let mut narrow = Desk::new();
        narrow.run_within(&["sh", "-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"]);
        let any = "127.0.0.1:0";
        let mut rendezvous = narrow.start(&["rendezvous", "--mqtt", any, "--stun", any, "--turn", any]);
        let servers: Vec<String> = (0..3).map(|_| rendezvous.line()).collect();
        let at = |line: &str| line.trim_start_matches(|char: char| !char.is_ascii_digit()).to_owned();
        // More than it may have open, from one address.
        let mut strangers = Vec::new();
        for server in &servers {
            for _ in 0..limit.parse::<usize>().unwrap().min(200) {
                strangers.push(TcpStream::connect(at(server)).unwrap());
            }
        }
        let desk = Desk::new();
        let common = ["--interface", "lo", "--broker", &servers[0]];
        let mut echo = desk.start(&[&["listen", "--echo"], &common[..]].concat());
        let address = echo.line();
        is_echoed(&call(&desk, &address, "reverse", &common));
        is_answered(&at(&servers[1]));
        is_answered(&at(&servers[2]));
        drop(strangers);
        echo.signal("-INT");
        echo.finish(b"").says(0, &[]);
        rendezvous.signal("-INT");
        let done = rendezvous.finish(b"");
        done.says(0, &["may open"]);
        assert!(done.stderr.len() < 8 * 1024, "{}", done.stderr);
    }
}

/// Everybody comes from one address, with nodes of their own, and probes the network before it calls.
#[test]
fn through_a_rendezvous_alone_a_hundred_calls_in_turn_and_twenty_at_once_connect() {
    let desk = Desk::new();
    let any = "127.0.0.1:0";
    let mut rendezvous = desk.start(&["rendezvous", "--mqtt", any, "--stun", any]);
    let (broker, stun) = (rendezvous.line(), rendezvous.line());
    let common = ["--interface", "lo", "--broker", &broker, "--stun", &stun];
    let listen = || {
        let mut echo = desk.start(&[&["listen", "--echo"], &common[..]].concat());
        let address = echo.line();
        (echo, address)
    };
    for ways in ["direct", "reverse", "punch", "direct,reverse,punch"].iter().cycle().take(100) {
        let (_echo, address) = listen();
        is_echoed(&call(&desk, &address, ways, &common));
    }
    let listeners: Vec<_> = (0..20).map(|_| listen()).collect();
    let start = |(_, address): &(Process, String)| {
        desk.start(&[&["connect", address, "--strategy", "punch"], &common[..]].concat())
    };
    let callers: Vec<_> = listeners.iter().map(start).collect();
    callers.into_iter().for_each(|caller| is_echoed(&caller.finish(WORDS)));
    rendezvous.signal("-INT");
    let done = rendezvous.finish(b"");
    done.says(0, &[]);
    assert_eq!(done.stderr, "", "nothing to warn of");
}
