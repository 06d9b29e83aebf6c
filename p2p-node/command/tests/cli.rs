//! The `p2p` command as a user meets it: separate processes on loopback.

mod process;

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::TcpListener;

use process::{Desk, Done, Process};
use serde_json::Value;

/// A broker in a process of its own.
struct Rendezvous {
    process: Process,
    broker: String,
    stun: String,
}

fn rendezvous(desk: &Desk, more: &[&str]) -> Rendezvous {
    let args = [&["rendezvous", "--mqtt", "127.0.0.1:0", "--stun", "127.0.0.1:0"], more].concat();
    let mut process = desk.start(&args);
    let broker = process.line();
    let stun = process.line();
    let stun = stun.strip_prefix("stun:").expect("a line for each server").to_owned();
    Rendezvous { process, broker, stun }
}

/// A listening node and its address.
fn listen(desk: &Desk, broker: &str, more: &[&str]) -> (Process, String) {
    let args = [&["listen", "--interface", "lo", "--broker", broker], more].concat();
    let mut process = desk.start(&args);
    let address = process.line();
    assert!(address.starts_with("p2p1"), "{address}");
    (process, address)
}

fn connect(desk: &Desk, address: &str, more: &[&str], input: &[u8]) -> Done {
    desk.run(&[&["connect", address, "--interface", "lo"], more].concat(), input)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn two_processes_meet_by_each_way_and_tell_how() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo", "--stun", &rendezvous.stun]);
    let report = desk.path("report.json");
    for ways in ["direct", "reverse", "direct,reverse"] {
        let more = ["--strategy", ways, "--report", report.to_str().unwrap()];
        let done = connect(&desk, &address, &more, b"hello\nand good-bye");
        done.says(0, &[]);
        assert_eq!(done.stdout, b"hello\nand good-bye");
        let told = json(&fs::read_to_string(&report).unwrap());
        assert_eq!(told["result"], "connected");
        assert_eq!(told["race"]["won"], told["connection"]["way"]);
        if !ways.contains(',') {
            assert_eq!(told["connection"]["way"], ways);
        }
        assert_eq!(told["connection"]["path"], "machine");
        assert_eq!(told["connection"]["caller"], true);
        assert_eq!(told["connection"]["encrypted"], true);
        assert!(told["connection"]["took_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(told["race"]["ways"].as_array().unwrap().len(), ways.split(',').count());
    }
}

#[test]
fn many_are_served_at_once_and_much_is_carried_whole() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
            let stdin = caller.stdin.as_mut().unwrap();
            stdin.write_all(b"first\n").unwrap();
            caller
        })
        .collect();
    let input: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
    // Each is answered while all the others are connected.
    let callers: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            assert_eq!(caller.line(), "first");
            caller
        })
        .collect();
    for caller in callers {
        let done = caller.finish(&input);
        done.says(0, &[]);
        assert!(done.stdout == input, "{} bytes came back", done.stdout.len());
    }
}

#[test]
fn both_ends_can_be_standard_input_and_output() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let mut listener = desk.start(&["listen", "--interface", "lo", "--broker", &rendezvous.broker]);
    let address = listener.address();
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    // The listener ends its direction first; the other one still works.
    listener.stdin.take().unwrap().write_all(b"from the listener").unwrap();
    let mut heard = Vec::new();
    caller.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"from the listener");
    caller.finish(b"from the caller").says(0, &[]);
    let done = listener.finish(b"");
    done.says(0, &[]);
    assert_eq!(done.stdout, b"from the caller");
}

#[test]
fn a_service_is_passed_on_to() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    let (listener, address) = listen(&desk, &rendezvous.broker, &["--to", &target, "--once"]);
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = service.accept().unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream.write_all(question.to_uppercase().as_bytes()).unwrap();
    });
    let done = connect(&desk, &address, &[], b"question");
    done.says(0, &[]);
    assert_eq!(done.stdout, b"QUESTION");
    serving.join().unwrap();
    listener.finish(b"").says(0, &["connected from ", "8 bytes sent, 8 received"]);
}

/// What reads a service gets, from a caller or with a listener that is killed in the middle.
fn killed_midway(is_caller: bool) {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = service.local_addr().unwrap().to_string();
    let (listener, address) = listen(&desk, &rendezvous.broker, &["--to", &target]);
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    caller.stdin.as_mut().unwrap().write_all(&[7; 100_000]).unwrap();
    let (mut stream, _) = service.accept().unwrap();
    stream.read_exact(&mut vec![0; 100_000]).unwrap();
    if is_caller { &caller } else { &listener }.signal("-KILL");
    let error = stream.read(&mut [0]).expect_err("half an upload is no whole one");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    if !is_caller {
        caller.finish(b"").says(1, &["the connection"]);
    }
}

#[test]
fn a_service_is_told_that_an_upload_was_cut() {
    killed_midway(true);
    killed_midway(false);
}

#[test]
fn a_listener_interrupted_in_the_middle_of_its_one_connection_says_so() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let mut listener = desk.start(&["listen", "--interface", "lo", "--broker", &rendezvous.broker]);
    let address = listener.address();
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    caller.stdin.as_mut().unwrap().write_all(b"the first half").unwrap();
    listener.stdout.as_mut().unwrap().read_exact(&mut [0; 14]).unwrap();
    listener.signal("-INT");
    listener.finish(b"").says(130, &["interrupted in the middle of a connection"]);
    caller.finish(b"the other half").says(1, &["the connection"]);
}

#[cfg(unix)]
#[test]
fn standard_input_and_output_that_are_not_ready_are_waited_for() {
    use std::os::unix::net::UnixStream;
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    let ((stdin, mut input), (stdout, mut output)) =
        (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    for theirs in [&stdin, &stdout] {
        theirs.set_nonblocking(true).unwrap();
    }
    let args = ["connect", &address, "--interface", "lo"];
    let caller =
        desk.start_with(&args, std::os::fd::OwnedFd::from(stdin), std::os::fd::OwnedFd::from(stdout));
    // More than the sockets and the pipe have room for, and nobody reads before the half of it is written.
    let data: Vec<u8> = (0..8_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = data.clone();
    let half = std::sync::Arc::new(std::sync::Barrier::new(2));
    let begun = half.clone();
    let writing = std::thread::spawn(move || {
        input.write_all(b"x").unwrap();
        begun.wait();
        input.write_all(&data).unwrap();
    });
    half.wait();
    let mut heard = Vec::new();
    output.read_to_end(&mut heard).unwrap();
    writing.join().unwrap();
    caller.finish(b"").says(0, &[]);
    assert!(heard[0] == b'x' && heard[1..] == expected);
}

#[test]
fn both_can_agree_on_no_encryption() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo", "--plain"]);
    for (more, encrypted) in [(&["--json", "--plain"][..], false), (&["--json"], true)] {
        let done = connect(&desk, &address, more, b"hello");
        done.says(0, &[]);
        assert_eq!(done.stdout, b"hello");
        assert_eq!(json(&done.stderr)["connection"]["encrypted"], encrypted);
    }
}

#[test]
fn a_listener_tells_programs_what_happens() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let report = desk.path("report.jsonl");
    let args = ["listen", "--interface", "lo", "--broker", &rendezvous.broker, "--echo", "--json"];
    let mut listener = desk.start(&[&args[..], &["--report", report.to_str().unwrap()]].concat());
    let listening = json(&listener.line());
    assert_eq!(listening["event"], "listening");
    assert_eq!(listening["brokers_up"], Value::from(vec![rendezvous.broker.clone()]));
    connect(&desk, listening["address"].as_str().unwrap(), &["--strategy", "direct"], b"12345").says(0, &[]);
    let accepted = json(&listener.line());
    assert_eq!((&accepted["event"], &accepted["connection"]["way"]), (&"accepted".into(), &"direct".into()));
    let closed = json(&listener.line());
    assert_eq!(closed["event"], "closed");
    assert_eq!((&closed["sent"], &closed["received"]), (&5.into(), &5.into()));
    assert_eq!(closed["peer"], accepted["peer"]);
    listener.signal("-INT");
    listener.finish(b"").says(0, &[]);
    let reported = json(fs::read_to_string(&report).unwrap().trim_end());
    assert_eq!(reported["peer"], accepted["peer"]);
}

#[test]
fn an_address_that_is_none_is_told_so() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    connect(&desk, "nonsense", &[], b"").says(2, &["not a peer address", "`p2p1`"]);
    let at = address.len() / 2;
    let other = if &address[at..=at] == "a" { "b" } else { "a" };
    let flipped = format!("{}{other}{}", &address[..at], &address[at + 1..]);
    connect(&desk, &flipped, &[], b"").says(2, &["mistyped or damaged"]);
    connect(&desk, &address[..at], &[], b"").says(2, &["the end is missing"]);
    let id = desk.run(&["id", "--identity", "key"], b"");
    let id = String::from_utf8(id.stdout).unwrap();
    connect(&desk, id.trim(), &[], b"").says(2, &["this is a peer id, but a peer address is needed"]);
}

#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    let mut desk = Desk::new();
    let named = desk.write("named.toml", "plain = true\nbrokrs = []\n");
    let done = desk.run(&["listen", "--config", &named], b"");
    done.says(2, &["named.toml, line 2: unknown key `brokrs`: did you mean `brokers`?"]);
    let done = desk.run(&["id", "--config", "no-such.toml", "--json"], b"");
    done.says(2, &[]);
    let told = json(&done.stderr);
    assert_eq!(told["error"]["exit_code"], 2);
    assert!(told["error"]["text"].as_str().unwrap().contains("no-such.toml"));
    // The usual file, then the one in the environment, which wins.
    desk.write("p2p.toml", "listen_port = 123456");
    desk.run(&["listen"], b"")
        .says(2, &["p2p.toml, line 1: `listen_port` = 123456: a number from 0 to 65535"]);
    let other = desk.write("other.toml", "familes = []");
    desk.set("P2P_CONFIG", &other);
    desk.run(&["listen"], b"").says(2, &["other.toml, line 1", "did you mean `families`?"]);
    desk.run(&["listen", "--broker-user", "anna", "--config", &desk.write("empty.toml", "")], b"")
        .says(2, &["need a --broker"]);
    desk.run(&["listen", "--broker", "http://a"], b"").says(2, &["mqtt://"]);
    desk.run(&["listen", "--echo", "--stdio"], b"").says(2, &["--stdio"]);
    desk.run(&["listen", "--to", "nowhere"], b"").says(2, &["localhost:22"]);
}

#[test]
fn errors_repeat_only_the_beginning_of_what_is_too_long() {
    let desk = Desk::new();
    let (long, option) = ("x ".repeat(2_000), format!("--{}", "y".repeat(4_000)));
    let word = "z".repeat(4_000);
    for args in [
        &["connect", &long][..],
        &["connect", &option],
        &[&word],
        &["listen", "--strategy", &long],
        &["listen", "--port", &word],
        &["listen", "--broker", &long],
        &["listen", "--interface", &word],
        &["listen", "--config", &word, "--json"],
        &["id", "--identity", &word],
    ] {
        let done = desk.run(args, b"");
        done.says(2, &["…"]);
        assert!(done.stderr.len() < 600, "{} bytes: {}", done.stderr.len(), done.stderr);
    }
}

#[test]
fn flags_win_over_the_file() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    // A port that needs no luck: it is not listened on, because the flag says otherwise.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    desk.write(
        "p2p.toml",
        &format!(
            "identity = 'key'\nlisten_port = {port}\ninterfaces = ['lo']\nbrokers = ['{}']",
            rendezvous.broker
        ),
    );
    let id = String::from_utf8(desk.run(&["id"], b"").stdout).unwrap();
    let told = json(std::str::from_utf8(&desk.run(&["id", "--json"], b"").stdout).unwrap());
    assert_eq!(told["peer"], id.trim());
    let mut listener = desk.start(&["listen", "--echo", "--json", "--port", "0"]);
    let listening = json(&listener.line());
    assert_eq!(listening["peer"], id.trim());
    assert_eq!(listening["brokers_up"][0], rendezvous.broker);
    desk.run(&["listen"], b"").says(2, &["cannot listen on 127.0.0.1", "choose another port"]);
}

#[test]
fn what_this_machine_lacks_is_named() {
    let desk = Desk::new();
    let done = desk.run(&["listen", "--interface", "nothing0"], b"");
    done.says(2, &["no network interface is called \"nothing0\"", "lo"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    desk.run(&["rendezvous", "--mqtt", &addr], b"").says(2, &[&addr]);
    desk.run(&["rendezvous", "--stun", &addr], b"").says(2, &[&addr]);
}

#[test]
fn servers_of_the_time_have_a_port_and_are_few() {
    let desk = Desk::new();
    desk.run(&["listen", "--ntp", "192.0.2.1"], b"").says(2, &["--ntp", "`192.0.2.1:123`"]);
    let many: Vec<_> = (1..=9).flat_map(|port| ["--ntp".into(), format!("127.0.0.1:{port}")]).collect();
    let many: Vec<_> =
        ["listen", "--interface", "lo"].into_iter().chain(many.iter().map(String::as_str)).collect();
    desk.run(&many, b"").says(2, &["9 NTP servers", "8"]);
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.run(&["id", "--identity", "key"], b"").says(0, &[]);
    fs::set_permissions(desk.path("key"), fs::Permissions::from_mode(0o640)).unwrap();
    desk.run(&["id", "--identity", "key"], b"").says(2, &["key file key", "chmod 600"]);
    desk.run(&["listen", "--identity", "key", "--interface", "lo"], b"").says(2, &["chmod 600"]);
    desk.run(&["id"], b"").says(2, &["--identity"]);
}

#[test]
fn without_a_broker_only_reverse_fails_and_says_why() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    rendezvous.process.signal("-TERM");
    rendezvous.process.finish(b"").says(0, &[]);
    connect(&desk, &address, &["--strategy", "direct"], b"").says(0, &[]);
    let report = desk.path("report.json");
    let more = ["--strategy", "reverse", "--report", report.to_str().unwrap()];
    connect(&desk, &address, &more, b"").says(4, &["no broker could be used", &rendezvous.broker]);
    let told = json(&fs::read_to_string(&report).unwrap());
    assert_eq!((&told["result"], &told["error"]["code"]), (&"no_connection".into(), &"no_connection".into()));
    let failure = &told["race"]["ways"][0]["failure"];
    assert_eq!(failure["code"], "no_broker");
    assert_eq!(failure["brokers"][0]["broker"], rendezvous.broker);
}

#[test]
fn a_wrong_broker_password_is_told_at_both_ends() {
    let desk = Desk::new();
    let right = desk.write("right", "open sesame\n");
    let wrong = desk.write("wrong", "open barley\n");
    let rendezvous = rendezvous(&desk, &["--user", "anna", "--password-file", &right]);
    let login = |file| ["--broker-user", "anna", "--broker-password-file", file];
    let (_echo, address) = listen(&desk, &rendezvous.broker, &[&["--echo"][..], &login(&right)].concat());
    let caller = |file| {
        let more = [&["--strategy", "reverse", "--broker", &rendezvous.broker][..], &login(file)].concat();
        connect(&desk, &address, &more, b"hello")
    };
    let done = caller(&right);
    done.says(0, &[]);
    assert_eq!(done.stdout, b"hello");
    caller(&wrong).says(4, &["user name or password", &rendezvous.broker]);
    let mut lost = desk.start(
        &[&["listen", "--interface", "lo", "--broker", &rendezvous.broker, "--echo"][..], &login(&wrong)]
            .concat(),
    );
    assert!(lost.note().contains("user name or password"));
    desk.run(&[&["listen", "--broker", &rendezvous.broker][..], &login("no-such")].concat(), b"")
        .says(2, &["password file no-such"]);
}

#[test]
fn a_broker_with_tls_needs_a_certificate_that_is_trusted() {
    let desk = Desk::new();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = desk.write("certificate.pem", &made.cert.pem());
    let key = desk.write("key.pem", &made.signing_key.serialize_pem());
    let args = ["--mqtts", "127.0.0.1:0", "--tls-certificate", &certificate, "--tls-key", &key];
    let mut server = desk.start(&[&["rendezvous"][..], &args].concat());
    let broker = server.line().replace("127.0.0.1", "localhost");
    let trust = ["--broker", &broker, "--broker-ca", &certificate];
    let (_echo, address) = listen(&desk, &broker, &["--echo", "--broker-ca", &certificate]);
    let more = [&["--strategy", "reverse"][..], &trust].concat();
    let done = connect(&desk, &address, &more, b"hello");
    done.says(0, &[]);
    assert_eq!(done.stdout, b"hello");
    // Without being told whom to trust, nobody is: no certificate of the system's is above this one.
    connect(&desk, &address, &["--strategy", "reverse"], b"")
        .says(4, &["no broker could be used", "certificate"]);
    desk.run(&["rendezvous", "--mqtts", "127.0.0.1:0"], b"").says(2, &["--tls-certificate"]);
}

#[test]
fn an_offline_peer_is_reported_as_such() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    connect(&desk, &address, &[], b"").says(0, &[]);
    echo.signal("-INT");
    echo.finish(b"").says(0, &[]);
    let done = connect(&desk, &address, &["--json"], b"");
    done.says(3, &[]);
    assert_eq!(json(&done.stderr)["result"], "offline");
    connect(&desk, &address, &[], b"").says(3, &["the peer is offline"]);
}

/// The same broker, spoken to in MQTT 3.1.1, in which it cannot tell that nobody listens.
fn mute(broker: &str) -> String {
    format!("{broker}?v=3")
}

#[test]
fn time_runs_out() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (echo, address) = listen(&desk, &mute(&rendezvous.broker), &["--echo"]);
    echo.signal("-TERM");
    echo.finish(b"").says(0, &[]);
    connect(&desk, &address, &["--timeout", "0.2"], b"").says(6, &["out of time"]);
    let args = ["listen", "--interface", "lo", "--echo", "--timeout", "0.1"];
    desk.run(&args, b"").says(6, &["out of time"]);
    connect(&desk, &address, &["--timeout=-1"], b"").says(2, &["--timeout", "0.001"]);
}

#[test]
fn who_is_not_allowed_is_refused_and_who_is_gets_in() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let id = String::from_utf8(desk.run(&["id", "--identity", "anna"], b"").stdout).unwrap();
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo", "--allow", id.trim()]);
    for ways in ["direct", "direct,reverse"] {
        let stranger = connect(&desk, &address, &["--strategy", ways, "--json"], b"");
        stranger.says(5, &["it does not allow us"]);
        assert_eq!(json(&stranger.stderr)["result"], "refused");
    }
    // A signal from a stranger gets no answer at all.
    connect(&desk, &address, &["--strategy", "reverse", "--timeout", "0.2"], b"").says(6, &["out of time"]);
    for way in ["direct", "reverse"] {
        connect(&desk, &address, &["--strategy", way, "--identity", "anna"], b"").says(0, &[]);
    }
}

#[test]
fn an_interrupted_call_ends_cleanly() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (mut echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    caller.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(caller.line(), "hello");
    caller.signal("-INT");
    // Standard input stays open: nobody waits for it.
    let stdin = caller.stdin.take();
    caller.finish(b"").says(130, &["interrupted"]);
    drop(stdin);
    assert!(echo.note().contains("connected from"));
    assert!(echo.note().contains("closed: the connection"));
}

#[test]
fn an_interrupted_attempt_still_writes_its_report() {
    let mut desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (echo, address) = listen(&desk, &mute(&rendezvous.broker), &["--echo"]);
    echo.signal("-TERM");
    echo.finish(b"").says(0, &[]);
    // The debug log tells when the attempt is under way.
    desk.set("RUST_LOG", "p2p_actors=debug");
    let report = desk.path("report.json");
    let mut caller =
        desk.start(&["connect", &address, "--interface", "lo", "--report", report.to_str().unwrap()]);
    while !caller.note().contains("dial") {}
    caller.signal("-INT");
    caller.finish(b"").says(130, &["interrupted"]);
    let told = json(&fs::read_to_string(&report).unwrap());
    assert_eq!((&told["result"], &told["error"]["code"]), (&"cancelled".into(), &"cancelled".into()));
    let ways = told["race"]["ways"].as_array().unwrap();
    assert!(ways.iter().any(|way| way["failure"]["code"] == "cancelled"), "{told}");
    assert_eq!(ways[0]["way"], "direct");
}

#[test]
fn nobody_reading_is_no_panic() {
    let desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    let (_echo, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    let mut stdin = caller.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let mut stdout = caller.stdout.take().unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    // What was to be sent was not over: that is no good end.
    stdin.write_all(b"is anybody there?\n").unwrap();
    caller.finish(b"").says(1, &["nobody reads the output any more", "may not have arrived"]);
    drop(stdin);
    // It was, and has arrived: whoever reads has had enough.
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = sink.local_addr().unwrap().to_string();
    let (_listener, address) = listen(&desk, &rendezvous.broker, &["--to", &target]);
    let mut caller = desk.start(&["connect", &address, "--interface", "lo"]);
    drop(caller.stdin.take());
    let (mut stream, _) = sink.accept().unwrap();
    stream.write_all(b"one line\n").unwrap();
    let mut stdout = caller.stdout.take().unwrap();
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    stream.write_all(b"another\n").unwrap();
    drop(stream);
    caller.finish(b"").says(0, &[]);
    let mut id = desk.start(&["id", "--identity", "key"]);
    drop(id.stdout.take());
    id.finish(b"").says(0, &[]);
}

#[test]
fn the_demo_shows_every_way() {
    let desk = Desk::new();
    let done = desk.run(&["demo", "--json"], b"");
    done.says(0, &[]);
    let told = json(std::str::from_utf8(&done.stdout).unwrap());
    assert_eq!((&told["ok"], &told["bytes_each_way"]), (&true.into(), &(16 * 1024 * 1024).into()));
    let shown = told["connections"].as_array().unwrap();
    for way in p2p_node::Way::ALL {
        for encrypted in [true, false] {
            let one =
                shown.iter().find(|one| one["asked_for"] == way.to_string() && one["encrypted"] == encrypted);
            let one = one.unwrap_or_else(|| panic!("{way} is missing: {told}"));
            assert_eq!((&one["way"], &one["ok"]), (&way.to_string().into(), &true.into()));
        }
    }
    assert_eq!(shown.len(), 2 * (p2p_node::Way::ALL.len() + 1));
    assert!(shown.iter().all(|one| one["mib_per_second"].as_f64().unwrap() > 0.0));
}

#[test]
fn every_command_helps_with_an_example() {
    let desk = Desk::new();
    for command in ["demo", "listen", "connect", "id", "rendezvous"] {
        let done = desk.run(&[command, "--help"], b"");
        done.says(0, &[]);
        let help = String::from_utf8(done.stdout).unwrap();
        assert!(help.contains(&format!("Example:\n  p2p {command}")), "{help}");
    }
    let help = String::from_utf8(desk.run(&["connect", "--help"], b"").stdout).unwrap();
    let ways = p2p_node::Way::ALL.map(|way| way.to_string()).join(", ");
    assert!(help.contains(&format!("[possible values: {ways}]")), "{help}");
    let done = desk.run(&["--help"], b"");
    assert!(String::from_utf8(done.stdout).unwrap().contains("Exit codes:"));
}

#[test]
fn an_address_that_is_taken_is_told_once() {
    let desk = Desk::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for server in ["--mqtt", "--stun", "--turn"] {
        let done = desk.run(&["rendezvous", server, &address], b"");
        done.says(2, &["listen on", &address]);
        assert_eq!(done.stderr.matches("in use").count(), 1, "{}", done.stderr);
    }
}

#[test]
fn what_a_rendezvous_prints_can_be_given_to_others() {
    let desk = Desk::new();
    let args = ["rendezvous", "--mqtt", "127.0.0.1:0", "--stun", "127.0.0.1:0"];
    let mut rendezvous = desk.start(&[&args[..], &["--stun-alternate", "127.0.0.2:0"]].concat());
    let printed: Vec<_> = (0..3).map(|_| rendezvous.line()).collect();
    let [broker, stun, alternate] = &printed[..] else { unreachable!() };
    assert!(stun.starts_with("stun:127.0.0.1:") && alternate.starts_with("stun:127.0.0.2:"), "{printed:?}");
    let (_echo, address) = listen(&desk, broker, &["--echo", "--stun", stun]);
    connect(&desk, &address, &["--stun", alternate], b"hello").says(0, &[]);
    // Both are servers: each answers.
    let done = desk.run(&["nat", "--interface", "lo", "--stun", stun, "--stun", alternate], b"");
    done.says(0, &[]);
    for server in [stun, alternate] {
        let answered = format!("{} over UDP answered", &server["stun:".len()..]);
        assert!(String::from_utf8_lossy(&done.stdout).contains(&answered), "{answered}");
    }
}

/// A STUN server that refuses in words that act on a terminal, and begin a line of their own.
fn hostile_stun() -> (std::net::UdpSocket, String) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = socket.local_addr().unwrap().to_string();
    let ours = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut request = [0; 1_500];
        while let Ok((20.., from)) = ours.recv_from(&mut request) {
            let reason = b"\x1b[2Jgone\nERROR forged\x9b";
            let mut answer = vec![1, 0x11, 0, 0];
            answer.extend_from_slice(&request[4..20]);
            answer.extend_from_slice(&[0, 9, 0, 4 + reason.len() as u8 - 1, 0, 0, 5, 0]);
            answer.extend_from_slice(&reason[..reason.len() - 1]);
            answer.resize(answer.len().next_multiple_of(4), 0);
            answer[3] = (answer.len() - 20) as u8;
            ours.send_to(&answer, from).unwrap();
        }
    });
    (socket, here)
}

#[test]
fn words_of_others_reach_neither_terminal_nor_log_raw() {
    let mut desk = Desk::new();
    desk.set("RUST_LOG", "trace");
    let (_server, here) = hostile_stun();
    let told = desk.run(&["nat", "--interface", "lo", "--stun", &here], b"");
    let hostile = "p2p1\u{1b}[2J\u{202e}";
    let mistyped = connect(&desk, hostile, &[], b"");
    assert!(String::from_utf8_lossy(&told.stdout).contains("forged") || told.stderr.contains("forged"));
    for done in [told, mistyped] {
        for text in [String::from_utf8(done.stdout).unwrap(), done.stderr] {
            let acts =
                |character: char| character.is_control() && character != '\n' || character == '\u{202e}';
            assert!(!text.contains(acts), "{text:?}");
            assert!(!text.lines().any(|line| line.starts_with("ERROR forged")), "{text}");
        }
    }
}

/// What a process that may have few descriptors has open.
#[cfg(target_os = "linux")]
fn descriptors(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_flood_of_idle_connections_all_is_as_before() {
    let mut desk = Desk::new();
    let rendezvous = rendezvous(&desk, &[]);
    desk.run_within(&["prlimit", "--nofile=128:128"]);
    let (listener, address) = listen(&desk, &rendezvous.broker, &["--echo"]);
    desk.run_within(&[]);
    let before = descriptors(&listener);
    let target: p2p_node::PeerAddr = address.parse().unwrap();
    let target = target.interfaces().iter().find_map(|interface| interface.local_target()).unwrap();
    let idle: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(target).unwrap()).collect();
    // Whoever has something to say still gets in, though there are more of the others than descriptors.
    for _ in 0..2 {
        let done = connect(&desk, &address, &["--strategy", "direct"], b"hello");
        done.says(0, &[]);
        assert_eq!(done.stdout, b"hello");
        assert!(descriptors(&listener) <= before + 128 / 4, "{} are open", descriptors(&listener));
    }
    drop(idle);
    connect(&desk, &address, &["--strategy", "direct"], b"hello").says(0, &[]);
    listener.signal("-INT");
    let told = listener.finish(b"").stderr;
    assert!(!told.contains("WARN"), "{told}");
}
