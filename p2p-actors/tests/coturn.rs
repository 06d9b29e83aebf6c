//! A node asks a real STUN server: coturn's, as Debian ships it.

mod nodes;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use nodes::{alone, status, tell};
use p2p_actors::spawn_local;
use p2p_core::node::StunServer;
use p2p_core::{Family, Mapped};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

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

#[test]
fn coturn_tells_us_our_addresses() {
    tell(async {
        let address = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        let Some(mut server) = turnserver(address, &directory).await else {
            return;
        };
        let stun = vec![StunServer::from(address)];
        let node = spawn_local(alone(1).with_families([Family::V4]).with_stun(stun), None).unwrap();
        let mut found = None;
        status(&node, |status| {
            let mut views = status.networks.iter().flat_map(|(_, views)| views);
            found = views.find(|view| view.local == address.ip()).cloned();
            found.as_ref().is_some_and(|view| view.external.is_some() && view.external_udp.is_some())
        })
        .await;
        let view = found.unwrap();
        assert_eq!(view.external, Some(Mapped(SocketAddr::new(view.local, view.listen))));
        assert_eq!(view.external_udp.map(|mapped| mapped.0.ip()), Some(view.local));
        server.kill().await.unwrap();
    });
}
