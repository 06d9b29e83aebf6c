//! The TURN server of a rendezvous, asked by the clients of coturn.
#![cfg(feature = "rendezvous")]

use std::net::SocketAddr;
use std::time::Duration;

use p2p_node::rendezvous::turn::{Secret, TurnServer, TurnServerConfig};
use tokio::process::Command;
use tokio::time::timeout;

/// Long enough for the slowest machine; never waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn on_loopback() -> TurnServerConfig {
    TurnServerConfig::loopback(Secret::generate().unwrap())
}

async fn start(config: TurnServerConfig) -> TurnServer {
    TurnServer::start(config).await.unwrap()
}

/// Runs coturn's client against `server`, or `None` when it is not installed and nobody requires it.
async fn uclient(server: &TurnServer, address: SocketAddr, arguments: &[&str]) -> Option<String> {
    let credential = server.credential("anna", Duration::from_secs(600)).unwrap();
    let child = Command::new("turnutils_uclient")
        .args(arguments)
        .args(["-u", &credential.username, "-w", &credential.password])
        .args(["-p", &address.port().to_string(), &address.ip().to_string()])
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, child).await.expect("an end") {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) if std::env::var("P2P_LAB").as_deref() == Ok("require") => {
            panic!("turnutils_uclient is required and cannot be run: {error}")
        }
        Err(error) => {
            eprintln!("skipped: turnutils_uclient cannot be run ({error}); it comes with coturn");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_coturn_relays_datagrams() {
    for transport in [&[][..], &["-t"]] {
        for method in [&[][..], &["-s"]] {
            let server = start(on_loopback()).await;
            let address = server.local_addrs()[0];
            let arguments =
                [transport, method, &["-y", "-c", "-m", "4", "-n", "50", "-l", "500", "-z", "2", "-v"]]
                    .concat();
            if let Some(said) = uclient(&server, address, &arguments).await {
                println!("{said}");
                println!("{:?}", server.counters());
            }
            server.shutdown().await;
        }
    }
}
