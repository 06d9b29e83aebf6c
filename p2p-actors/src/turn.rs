//! The TURN servers of the configuration, and what must be known to use them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use futures_util::future::join_all;
use p2p_core::node::TurnServer;
use p2p_core::turn::client::Place;
use p2p_core::turn::{Credentials, Server};

use crate::resolve::resolve;
use crate::tls::CaFiles;

/// The servers as a TURN client wants them, and why some cannot be used. All names are looked up at once, each once;
/// it takes as long as the slowest, 10 s at most.
///
/// A name that has several addresses gives several servers: the first address of each, then the second of each, so
/// that a client that takes a few only has something of every server.
pub(crate) async fn servers(configured: &[TurnServer]) -> (Vec<Server>, Vec<String>) {
    let names: BTreeSet<_> = configured.iter().map(|server| (server.host.as_str(), server.port)).collect();
    let found = join_all(names.iter().map(|(host, port)| resolve(host, *port))).await;
    let found: BTreeMap<_, _> = names.into_iter().zip(found).collect();
    let (mut ranked, mut useless) = (Vec::new(), Vec::new());
    for server in configured {
        match usable(server, &found[&(server.host.as_str(), server.port)]) {
            Ok(servers) => ranked.extend(servers.into_iter().enumerate()),
            Err(why) => useless.push(format!("{server}: {why}")),
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    (ranked.into_iter().map(|(_, server)| server).collect(), useless)
}

fn usable(server: &TurnServer, found: &Result<Vec<SocketAddr>, String>) -> Result<Vec<Server>, String> {
    let credentials = Credentials::new(&server.user, &server.password).map_err(|error| error.to_string())?;
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    // An address is its own name.
    let host = host.parse::<IpAddr>().is_err().then(|| host.to_owned());
    let place = |address| Place { address, carrier: server.carrier, host: host.clone() };
    let server = |address| Server { place: place(address), credentials: credentials.clone() };
    Ok(found.clone()?.into_iter().map(server).collect())
}

/// Which certificates to trust for which server.
pub(crate) fn ca_files(configured: &[TurnServer]) -> CaFiles {
    let mut trust = CaFiles::default();
    for server in configured {
        if let Some(ca_file) = &server.ca_file {
            trust.add(&server.host, ca_file.clone());
        }
    }
    trust
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use p2p_core::turn::Carrier;

    use super::*;

    fn server(host: &str, carrier: Carrier) -> TurnServer {
        TurnServer::new(host, 3478).with_carrier(carrier).with_login("anna", "sesame")
    }

    #[test]
    fn a_server_is_shown_as_its_uri_without_its_password() {
        for (host, carrier, uri) in [
            ("turn.example", Carrier::Udp, "turn:turn.example:3478?transport=udp"),
            ("192.0.2.1", Carrier::Tcp, "turn:192.0.2.1:3478?transport=tcp"),
            ("2001:db8::1", Carrier::Tls, "turns:[2001:db8::1]:3478?transport=tcp"),
            ("[::1]", Carrier::Udp, "turn:[::1]:3478?transport=udp"),
        ] {
            let server = server(host, carrier);
            assert_eq!(server.to_string(), uri);
            let shown = format!("{server:?} {server:#?}");
            assert!(shown.contains(uri) && shown.contains("anna") && !shown.contains("sesame"), "{shown}");
        }
    }

    #[tokio::test]
    async fn names_become_addresses_and_stay_for_the_certificate() {
        let configured = [
            server("localhost", Carrier::Udp),
            server("localhost", Carrier::Tls),
            server("[::1]", Carrier::Tls),
            server("127.0.0.2", Carrier::Tcp).with_login("", "sesame"),
            server(&"x".repeat(300), Carrier::Udp),
        ];
        let (servers, useless) = servers(&configured).await;
        assert_eq!(useless.len(), 2, "{useless:?}");
        assert!(useless[0].contains("turn:127.0.0.2:3478") && useless[0].contains("user name"));
        assert!(useless[1].contains("xxx"));
        // Something of each server comes first, whatever localhost is here.
        let places: Vec<_> = servers.iter().map(|server| server.place.clone()).collect();
        let first: Vec<_> =
            places.iter().take(3).map(|place| (place.carrier, place.host.as_deref())).collect();
        let localhost = Some("localhost");
        assert_eq!(first, [(Carrier::Udp, localhost), (Carrier::Tls, localhost), (Carrier::Tls, None)]);
        assert_eq!(places[2].address, "[::1]:3478".parse().unwrap());
        assert!(places.iter().all(|place| place.address.ip().is_loopback()));
        assert!(servers.iter().all(|server| server.credentials.username() == "anna"));
    }

    #[tokio::test]
    async fn nobody_is_asked_by_default() {
        assert_eq!(servers(&[]).await, (Vec::new(), Vec::new()));
    }

    #[test]
    fn certificates_are_trusted_for_their_host() {
        let mut first = server("Turn.Example", Carrier::Tls);
        first.ca_file = Some("a.pem".into());
        let mut second = server("[2001:DB8:0::1]", Carrier::Tls);
        second.ca_file = Some("b.pem".into());
        let trust = ca_files(&[first, second, server("other.example", Carrier::Tls)]);
        assert_eq!(trust.ca_files("turn.example"), [PathBuf::from("a.pem")]);
        assert_eq!(trust.ca_files("2001:db8::1"), [PathBuf::from("b.pem")]);
        assert!(trust.ca_files("other.example").is_empty());
    }
}
