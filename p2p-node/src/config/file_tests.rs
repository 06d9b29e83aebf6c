use std::fs;
use std::time::Duration;

use p2p_core::Family;
use p2p_core::node::{KeepAlive, Limits, NtpServer, StunServer, TurnServer};
use p2p_core::turn::Carrier;
use proptest::prelude::*;

use super::*;

const ID: &str = "the id of a peer";

fn fault(text: &str) -> ConfigError {
    Config::from_toml(text).expect_err(text)
}

/// Checks that the error, as a user reads it, holds these parts.
fn says(text: &str, parts: &[&str]) {
    let told = fault(text).to_string();
    for part in parts {
        assert!(told.contains(part), "{told:?} lacks {part:?}");
    }
}

#[test]
fn nothing_is_the_default() {
    let config = Config::from_toml("").unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert!(
        config.brokers.is_empty()
            && config.stun.is_empty()
            && config.turn.is_empty()
            && config.ntp.is_empty()
    );
}

#[test]
fn everything_can_be_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("broker.pw"), "open sesame\n").unwrap();
    fs::write(folder.path().join("turn.pw"), "dGhlIHBhc3N3b3Jk\n").unwrap();
    let peer = p2p_core::peer::Identity::generate(&mut p2p_core::Seed::new([7; 32])).id();
    let file = folder.path().join("p2p.toml");
    let text = format!(
        r#"
            identity = "keys/p2p.key"
            listen_port = 7_777
            interfaces = ["lo", "eth0"]
            families = ["v6"]
            stun = ["stun.example:3478", "[2001:db8::1]:3479"]
            turn = [
                {{ url = "turn:turn.example", user = "1700000000:anna", password_file = "turn.pw", ca = "turn.pem" }},
                {{ url = "turns:[2001:db8::1]:443", user = "bert", password = "x" }},
            ]
            ntp = ["ntp.example:123", "192.0.2.1:1123"]
            plain = true
            allow = ["{peer}"]
            ready_within = 0.5
            machine_id = "here"
            brokers = [
                "mqtt://192.0.2.1",
                {{ url = "mqtts://b.example", user = "anna", password_file = "broker.pw", ca = "ca.pem", bind = "::1" }},
                {{ url = "mqtt://c.example:1884", user = "bert", password = "x" }},
            ]
            [keep_alive]
            idle = 60
            interval = 10
            probes = 4
            unacknowledged = 0
            ping = 0
            [limits]
            attempts = 1
            answers = 2
            dials_for_peers = 5
            relays = 6
            unproven = 3
            backlog = 4
            pipes_per_peer = 7
            pipes = 8
            half_open = 6
            dials_per_second = 7
        "#
    );
    fs::write(&file, text).unwrap();
    let config = Config::from_file(&file).unwrap();
    assert!(matches!(config.key, Key::File(path) if path == folder.path().join("keys/p2p.key")));
    assert_eq!(config.listen_port, 7_777);
    let (idle, interval) = (Duration::from_secs(60), Duration::from_secs(10));
    assert_eq!(config.keep_alive, KeepAlive::OFF.with_idle(idle).with_interval(interval).with_probes(4));
    assert_eq!(config.interfaces, Interfaces::Only(vec!["lo".into(), "eth0".into()]));
    assert_eq!(config.families, [Family::V6].into());
    let stun = [("stun.example", 3478), ("2001:db8::1", 3479)];
    assert_eq!(config.stun, stun.map(|(host, port)| StunServer::new(host, port)));
    let [first, second, third] = &config.turn[..] else { panic!("{:?}", config.turn) };
    assert_eq!(first.to_string(), "turn:turn.example:3478?transport=udp");
    assert_eq!((first.user.as_str(), first.password.as_str()), ("1700000000:anna", "dGhlIHBhc3N3b3Jk"));
    assert_eq!(first.ca_file, Some(folder.path().join("turn.pem")));
    assert_eq!(*second, first.clone().with_carrier(Carrier::Tcp));
    let expected = TurnServer::new("2001:db8::1", 443).with_carrier(Carrier::Tls).with_login("bert", "x");
    assert_eq!(*third, expected);
    let ntp = [("ntp.example", 123), ("192.0.2.1", 1123)];
    assert_eq!(config.ntp, ntp.map(|(host, port)| NtpServer::new(host, port)));
    assert!(config.plain);
    assert_eq!(config.allowed, Some([peer].into()));
    assert_eq!(config.ready_within, Duration::from_millis(500));
    assert_eq!(config.machine_id.as_deref(), Some(&b"here"[..]));
    assert_eq!(
        config.limits,
        Limits::new()
            .with_attempts(1)
            .with_answers(2)
            .with_dials_for_peers(5)
            .with_relays(6)
            .with_unproven(3)
            .with_backlog(4)
            .with_pipes_per_peer(7)
            .with_pipes(8)
    );
    assert_eq!((config.punch.sockets, config.punch.per_second), (6, 7));
    let [first, second, third] = &config.brokers[..] else { panic!("{:?}", config.brokers) };
    assert_eq!((first.url.to_string().as_str(), &first.login), ("mqtt://192.0.2.1", &None));
    assert_eq!(second.login, Some(("anna".into(), "open sesame".into())));
    assert_eq!(second.ca_file, Some(folder.path().join("ca.pem")));
    assert_eq!(second.bind, Some("::1".parse().unwrap()));
    assert_eq!(third.login, Some(("bert".into(), "x".into())));
    assert_eq!(third.url.port(), Some(1884));
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest() {
    says("plain = true\nbrokres = []", &["line 2", "`brokres`", "did you mean `brokers`?"]);
    says("listenport = 1", &["did you mean `listen_port`?"]);
    says("allowed = []", &["did you mean `allow`?"]);
    says("colour = 1", &["unknown key `colour`", "identity, listen_port"]);
    says("[[turn]]\nurl = 'turn:a'\nusr = 'b'", &["line 3", "`usr`", "did you mean `user`?"]);
    says("[limits]\n\nbacklgo = 1", &["line 3", "did you mean `backlog`?"]);
    says("brokers = [\n{ url = 'mqtt://a', pasword = 'x' }]", &["line 2", "did you mean `password`?"]);
}

#[test]
fn a_wrong_value_names_its_line_and_what_is_allowed() {
    says("\nlisten_port = 65536", &["line 2", "`listen_port` = 65536", "from 0 to 65535"]);
    says("listen_port = -1", &["from 0 to 65535"]);
    says("listen_port = \"80\"", &["from 0 to 65535"]);
    says("identity = 1", &["the path of a file"]);
    says("identity = \"\"", &["the path of a file"]);
    says("interfaces = \"lo\"", &["a list of names"]);
    says("interfaces = []", &["at least one"]);
    says("interfaces = [1]", &["names of network interfaces"]);
    says("families = [\n\"v5\"]", &["line 2", "\"v5\"", "`v4` or `v6`"]);
    says("families = []", &["at least one"]);
    says("ways = []", &["at least one"]);
    says("stun = [\"stun.example\"]", &["host:port"]);
    says("stun = [\"a:0\"]", &["host:port"]);
    says("stun = [\"2001:db8::1:3478\"]", &["[2001:db8::1]:3478"]);
    says("stun = 1", &["a list"]);
    says("turn = 7", &["[[turn]]"]);
    says("turn = ['turn:a']", &["\"turn:a\"", "a table", "user", "password_file"]);
    says("turn = [{ user = 'a', password = 'b' }]", &["needs its `url`"]);
    says("\n[[turn]]\nurl = 'turn:a'", &["line 2", "needs our `user`", "p2p rendezvous credentials"]);
    says("turn = [{ url = 'turn:a', user = 'b' }]", &["`password_file`"]);
    says("turn = [{ url = 'turn:a', user = '', password = 'b' }]", &["a user name"]);
    says("turn = [{ url = 'turn:a', user = 'b', password = 'c', password_file = 'd' }]", &["not both"]);
    says("turn = [{ url = 'turn:a', user = 'b', password_file = 'no/such' }]", &["password file no/such"]);
    says("turn = [{ url = 'turns:a?transport=udp', user = 'b', password = 'c' }]", &["DTLS", "`turns:`"]);
    says("turn = [{ url = 'a:3478', user = 'b', password = 'c' }]", &["turn:192.0.2.1:3478"]);
    let many = "{ url = 'turn:a', user = 'b', password = 'c' },".repeat(9);
    says(&format!("\nturn = [{many}]"), &["line 2", "16 servers at most", "counts as two"]);
    says("ntp = [\"ntp.example\"]", &["host:port", "192.0.2.1:123"]);
    says(&format!("\nntp = [{}]", "\"a:1\", ".repeat(9)), &["line 2", "8 servers at most"]);
    says("plain = 1", &["true or false"]);
    says(&format!("allow = ['{ID}']"), &["no peer id"]);
    says("ready_within = -1", &["seconds", "0.5"]);
    says("ready_within = nan", &["seconds"]);
    says("ready_within = 1e9", &["3600"]);
    says("machine_id = 7", &["any text"]);
    says("limits = 7", &["a table"]);
    says("[limits]\nbacklog = 0", &["line 2", "from 1 to 65535"]);
    says("brokers = \"mqtt://a\"", &["a list"]);
    says("brokers = [7]", &["a URL, or a table"]);
    says("brokers = [\"http://a\"]", &["mqtt://"]);
    says("brokers = [\"memory://a\"]", &["share a process"]);
    says("brokers = [{ user = 'a' }]", &["needs its `url`"]);
    says("brokers = [{ url = 'mqtt://a', bind = 'here' }]", &["local IP address"]);
    says("brokers = [{ url = 'mqtt://a', password = 'x' }]", &["needs its `user`"]);
    says("brokers = [{ url = 'mqtt://a', user = 'u', password = 'x', password_file = 'y' }]", &["not both"]);
    says(
        "brokers = [{ url = 'mqtt://a', user = 'u', password_file = 'no/such' }]",
        &["password file no/such"],
    );
}

#[test]
fn no_password_is_ever_repeated() {
    for text in [
        "brokers = ['mqtt://anna:sesame@b']",
        "turn = [{ url = 'turn:anna:sesame@b', user = 'anna' }]",
        "turn = [{ url = 'turn:b', password = 'sesame' }]",
        "brokers = [{ url = 'mqtt://b', user = 'anna', password = ['sesame'] }]",
        "brokers = [{ url = 'mqtt://b', password = 'sesame' }]",
    ] {
        let error = fault(text);
        assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
    }
}

#[test]
fn what_is_no_toml_names_its_line() {
    says("plain = true\nlisten_port = = 3", &["line 2", "not TOML"]);
    says("plain = true\nplain = false", &["line 2", "not TOML"]);
}

#[test]
fn a_file_that_cannot_be_read_says_which() {
    let error = Config::from_file("no/such/p2p.toml").unwrap_err().to_string();
    assert!(error.starts_with("no/such/p2p.toml: cannot be read"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p2p.toml");
    fs::write(&file, "#".repeat(300_000)).unwrap();
    let error = Config::from_file(&file).unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");
    #[cfg(target_os = "linux")]
    assert!(Config::from_file("/dev/zero").unwrap_err().to_string().contains("longer than"));
    fs::write(&file, "\n\nplian = true").unwrap();
    let error = Config::from_file(&file).unwrap_err().to_string();
    assert!(error.contains("p2p.toml, line 3: unknown key `plian`"), "{error}");
}

#[test]
fn a_password_file_is_its_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pw");
    fs::write(&file, "open sesame\r\nand more").unwrap();
    assert_eq!(password_file(&file).unwrap(), "open sesame");
    fs::write(&file, "\n").unwrap();
    assert!(password_file(&file).unwrap_err().to_string().contains("empty"));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = Config::from_toml(&text);
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(
        key in prop::sample::select(&KEYS[..]),
        value in prop_oneof!["-?[0-9]{1,20}", "\"[a-z:/0-9@]{0,20}\"", "\\[\"[a-z:0-9]{0,9}\"\\]", "[0-9.e]{1,9}"],
    ) {
        let _ = Config::from_toml(&format!("{key} = {value}"));
    }
}
