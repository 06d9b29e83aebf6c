//! From a server's name to its addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2p_core::Family;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// How long a name may take. System resolvers give up after 5 to 30 s; nobody is kept waiting by it anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses used of each family: a name server must not make us ask the world.
const MOST_PER_FAMILY: usize = 2;

/// The addresses of a server at this port, or why there are none.
pub(crate) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = timeout(PATIENCE, lookup_host((bare, port))).await;
    let found = found.map_err(|_| format!("no name server answered within {} s", PATIENCE.as_secs()))?;
    let found = few(found.map_err(|error| error.to_string())?);
    if found.is_empty() {
        return Err("the name has no address".into());
    }
    Ok(found)
}

/// The first few of each family, each once.
fn few(all: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    let (mut v4, mut v6) = (0, 0);
    all.filter(|address| {
        let count = match Family::of(address.ip()) {
            Family::V4 => &mut v4,
            Family::V6 => &mut v6,
        };
        let is_taken = *count < MOST_PER_FAMILY && seen.insert(*address);
        *count += usize::from(is_taken);
        is_taken
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_need_no_name_server() {
        for (host, address) in
            [("127.0.0.1", "127.0.0.1:3478"), ("::1", "[::1]:3478"), ("[::1]", "[::1]:3478")]
        {
            assert_eq!(resolve(host, 3478).await, Ok(vec![address.parse().unwrap()]));
        }
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_one_fails() {
        // Longer than any label may be: refused without asking anybody.
        assert!(resolve(&"x".repeat(300), 3478).await.is_err());
    }

    #[test]
    fn few_of_each_family_are_taken() {
        let v4 = |last: u8| SocketAddr::from(([192, 0, 2, last], 3478));
        let v6 = |last: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 3478));
        let all = [v4(1), v4(1), v6(1), v4(2), v4(3), v6(2), v6(3)];
        assert_eq!(few(all.into_iter()), [v4(1), v6(1), v4(2), v6(2)]);
    }
}
