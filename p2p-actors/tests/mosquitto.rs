//! Channels over a real mosquitto, on loopback.
//!
//! Without mosquitto on this machine the tests say so and pass; with `P2P_LAB=require` they fail.

mod stories;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use p2p_actors::signal::{Broker, Endpoint, Tls};
use p2p_core::signal::link::{LinkError, Protocol, Subscribers};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stories::{Party, endpoint, pinned, tell};
use tempfile::TempDir;

/// A mosquitto of our own. It ends with the test.
struct Mosquitto {
    process: Child,
    binary: PathBuf,
    folder: TempDir,
    port: u16,
}

/// `None` when there is no mosquitto and nobody requires it.
fn binary(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var("P2P_LAB").is_ok_and(|lab| lab == "require");
        assert!(!required, "{name} is required (P2P_LAB=require) and not on this machine");
        eprintln!("SKIPPED: there is no {name} on this machine");
    }
    found
}

impl Mosquitto {
    /// Starts one with these lines of configuration besides the listener. `{}` stands for its folder.
    fn start(folder: TempDir, lines: &str) -> Option<Self> {
        let binary = binary("mosquitto")?;
        let lines = lines.replace("{}", &folder.path().display().to_string());
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!("listener {port} 127.0.0.1\nuser root\nset_tcp_nodelay true\n{lines}\n");
            fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
            // Somebody else may have taken the port meanwhile: try another.
            if let Some(process) = run(&binary, folder.path()) {
                return Some(Self { process, binary, folder, port });
            }
        }
        panic!("mosquitto does not start");
    }

    fn plain() -> Option<Self> {
        Self::start(TempDir::new().unwrap(), "allow_anonymous true")
    }

    fn broker(&self) -> Broker {
        Broker::Mqtt(endpoint(self.port))
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = run(&self.binary, self.folder.path()).expect("mosquitto starts again");
    }

    /// Stops it from running without ending it.
    fn freeze(&self) {
        let frozen = Command::new("kill").args(["-STOP", &self.process.id().to_string()]).status();
        assert!(frozen.unwrap().success());
    }
}

/// Starts mosquitto and waits until it says that it runs.
fn run(binary: &Path, folder: &Path) -> Option<Child> {
    let mut process = Command::new(binary)
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = log.by_ref().take_while(|line| !line.ends_with(" running")).collect();
    // Read on, or it would block on a full pipe. The thread ends with the process.
    std::thread::spawn(move || log.for_each(drop));
    if process.try_wait().unwrap().is_some() || said.iter().any(|line| line.contains("Error")) {
        eprintln!("mosquitto: {said:?}");
        let _ = process.kill();
        process.wait().unwrap();
        return None;
    }
    Some(process)
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn two_talk_in_either_version() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(async {
        stories::two_talk(mosquitto.broker()).await;
        for protocol in [Protocol::V311, Protocol::V5] {
            let endpoint = pinned(&endpoint(mosquitto.port), protocol);
            stories::two_talk(Broker::Mqtt(endpoint)).await;
        }
    });
}

#[test]
fn it_says_that_nobody_is_there_in_mqtt_5() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(async {
        stories::nobody_is_there(mosquitto.broker(), Subscribers::Nobody).await;
        let old = pinned(&endpoint(mosquitto.port), Protocol::V311);
        stories::nobody_is_there(Broker::Mqtt(old), Subscribers::Unknown).await;
    });
}

#[test]
fn a_channel_ends_when_it_is_closed() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(stories::it_closes(&endpoint(mosquitto.port)));
}

#[test]
fn only_the_right_password_opens() {
    let folder = TempDir::new().unwrap();
    let Some(passwd) = binary("mosquitto_passwd") else {
        return;
    };
    let file = folder.path().join("passwords");
    let made = Command::new(passwd).arg("-b").arg("-c").arg(file).args(["alice", "right"]).status();
    assert!(made.unwrap().success());
    let lines = "allow_anonymous false\npassword_file {}/passwords";
    let Some(mosquitto) = Mosquitto::start(folder, lines) else {
        return;
    };
    tell(async {
        for protocol in [Protocol::V311, Protocol::V5] {
            let endpoint = pinned(&endpoint(mosquitto.port), protocol);
            stories::only_the_right_password_opens(endpoint).await;
        }
    });
}

/// Writes a fresh authority as `{name}.pem` and gives it.
fn authority(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join(name).with_extension("pem"), authority.pem()).unwrap();
    authority
}

#[test]
fn tls_with_the_right_authority_only() {
    let folder = TempDir::new().unwrap();
    let right = authority(folder.path(), "right");
    authority(folder.path(), "wrong");
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    let certificate = params.signed_by(&key, &right).unwrap();
    fs::write(folder.path().join("server.pem"), certificate.pem()).unwrap();
    fs::write(folder.path().join("server.key"), key.serialize_pem()).unwrap();
    fs::write(folder.path().join("empty.pem"), "nothing here").unwrap();
    let pem = |name: &str| folder.path().join(name).with_extension("pem");
    let [right, wrong, empty, missing] = ["right", "wrong", "empty", "missing"].map(pem);
    let lines = "allow_anonymous true\ncertfile {}/server.pem\nkeyfile {}/server.key";
    let Some(mosquitto) = Mosquitto::start(folder, lines) else {
        return;
    };
    let trusting = |ca_file: Option<PathBuf>, host: &str| Endpoint {
        host: host.into(),
        tls: Some(Tls { ca_file }),
        ..endpoint(mosquitto.port)
    };
    tell(async {
        for host in ["127.0.0.1", "localhost"] {
            let endpoint = trusting(Some(right.clone()), host);
            stories::two_talk(Broker::Mqtt(endpoint)).await;
        }
        let error = Party::on("a", &trusting(Some(wrong), "127.0.0.1")).down().await;
        assert!(matches!(error, LinkError::Certificate(_)), "{error}");
        assert!(error.is_lasting());
        for unusable in [empty, missing] {
            let error = Party::on("a", &trusting(Some(unusable), "127.0.0.1")).down().await;
            assert!(matches!(error, LinkError::Configuration(_)), "{error}");
        }
        // The platform's authorities do not know ours, or there are none.
        let error = Party::on("a", &trusting(None, "127.0.0.1")).down().await;
        assert!(matches!(error, LinkError::Certificate(_) | LinkError::Configuration(_)), "{error}");
        // Plain into a TLS port: the broker hangs up.
        let error = Party::on("a", &endpoint(mosquitto.port)).down().await;
        assert!(!error.is_lasting(), "{error}");
    });
}

#[test]
fn tls_to_a_plain_port_is_told_as_such() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    let endpoint = Endpoint { tls: Some(Tls::default()), ..endpoint(mosquitto.port) };
    tell(async {
        let error = Party::on("a", &endpoint).down().await;
        assert!(matches!(error, LinkError::Tls(_) | LinkError::Configuration(_)), "{error}");
    });
}

#[test]
fn killed_and_restarted_in_mid_run() {
    let Some(mut mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(async {
        let mut alice = Party::new("alice", mosquitto.broker());
        let mut bob = Party::new("bob", mosquitto.broker());
        alice.up().await;
        bob.up().await;
        // It takes a message and dies before it acknowledges.
        mosquitto.freeze();
        let frozen = alice.publish("alice", "sent before");
        tokio::task::yield_now().await;
        mosquitto.kill();
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Lost(_)), "{error}");
        let dead = alice.publish("alice", "sent while it was dead");
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
        mosquitto.restart();
        // Our own subscription is made again before what waits is sent again.
        alice.up().await;
        bob.up().await;
        for ticket in [frozen, dead] {
            assert!(alice.ended(ticket).await.is_ok());
        }
        bob.publish("alice", "back again");
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "back again") {
            got.push(alice.received().await);
        }
        alice.publish("bob", "and the other way");
        assert_eq!(bob.received().await, "and the other way");
    });
}
