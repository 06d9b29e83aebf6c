//! The names a simulated host can look up.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Answers for names. An address is its own name, as everywhere.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The addresses of each name there is.
    pub known: BTreeMap<String, Vec<IpAddr>>,
    /// The time a look-up takes, whatever comes of it. An address takes none.
    pub takes: Duration,
}

impl Names {
    /// Returns what a look-up brings, and the time it takes.
    pub(super) fn look_up(&self, host: &str, port: u16) -> (Duration, Result<Vec<SocketAddr>, String>) {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return (Duration::ZERO, Ok(vec![SocketAddr::new(ip, port)]));
        }
        let found = self.known.get(host).filter(|found| !found.is_empty());
        let found = found.map(|found| found.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
        (self.takes, found.ok_or_else(|| format!("no such name: {host}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_its_own_name_and_a_name_takes_its_time() {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let takes = Duration::from_millis(20);
        let names = Names { known: BTreeMap::from([("broker.test".into(), vec![ip])]), takes };
        let at = |ip| Ok(vec![SocketAddr::new(ip, 5)]);
        assert_eq!(names.look_up("192.0.2.1", 5), (Duration::ZERO, at(ip)));
        assert_eq!(names.look_up("[::1]", 5), (Duration::ZERO, at("::1".parse().unwrap())));
        assert_eq!(names.look_up("broker.test", 5), (takes, at(ip)));
        let (took, found) = names.look_up("other.test", 5);
        assert!(took == takes && found.is_err());
    }
}
