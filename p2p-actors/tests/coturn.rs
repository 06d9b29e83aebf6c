//! An interface asks a real STUN server: coturn's, as Debian ships it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use p2p_actors::interface::{FromInterface, InterfaceConfig, REFRESH, StunServer, nics, start};
use p2p_core::{Family, Mapped, Seed};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

struct Owner(UnboundedSender<FromInterface>);

impl Actor for Owner {
    type Context = Context<Self>;
}

impl Handler<FromInterface> for Owner {
    type Result = ();

    fn handle(&mut self, told: FromInterface, _: &mut Context<Self>) {
        let _ = self.0.send(told);
    }
}

/// Starts the server and waits until it listens, or `None` when it is not installed and nobody requires it.
async fn turnserver(address: SocketAddr, directory: &tempfile::TempDir) -> Option<Child> {
    let started = Command::new("turnserver")
        .args(["-n", "-L", &address.ip().to_string(), "-p", &address.port().to_string()])
        .args(["--no-tls", "--no-dtls", "--no-cli", "--no-auth", "--simple-log", "--log-file=stdout"])
        .arg(format!("--pidfile={}", directory.path().join("pid").display()))
        .arg(format!("--userdb={}", directory.path().join("db").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut server = match started {
        Ok(server) => server,
        Err(error) if std::env::var("P2P_LAB").as_deref() == Ok("require") => {
            panic!("turnserver is required and cannot be run: {error}")
        }
        Err(error) => {
            eprintln!("skipped: turnserver cannot be run ({error}); it comes with coturn");
            return None;
        }
    };
    while TcpStream::connect(address).await.is_err() {
        assert!(server.try_wait().unwrap().is_none(), "turnserver ended at once");
        sleep(Duration::from_millis(5)).await;
    }
    Some(server)
}

async fn story() {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = turnserver(address, &directory).await else {
        return;
    };
    let config = InterfaceConfig {
        nic: nics().unwrap().into_iter().find(|nic| nic.is_loopback).unwrap(),
        nic_number: 0,
        families: vec![Family::V4],
        listen_port: 0,
        last_port: 0,
        stun: vec![StunServer { host: address.ip().to_string(), port: address.port() }],
        seats: Arc::new(Semaphore::new(8)),
        refresh: REFRESH,
        seed: Seed::from_u64(1),
    };
    let (told, mut receiver) = unbounded_channel();
    let _handle = start(config, Owner(told).start().recipient());
    let fact = loop {
        let FromInterface::Changed { addresses, .. } = receiver.recv().await.unwrap() else {
            continue;
        };
        let known = addresses.into_iter().find(|fact| fact.local == address.ip());
        if let Some(fact) = known.filter(|fact| fact.external.is_some() && fact.external_udp.is_some()) {
            break fact;
        }
    };
    assert_eq!(fact.external, Some(Mapped(SocketAddr::new(fact.local, fact.listen))));
    assert_eq!(fact.external_udp.map(|mapped| mapped.0.ip()), Some(fact.local));
    server.kill().await.unwrap();
}

#[test]
fn coturn_tells_us_our_addresses() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        timeout(PATIENCE, story()).await.expect("the story to end");
    });
}
