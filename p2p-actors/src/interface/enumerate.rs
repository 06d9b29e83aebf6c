//! The network interfaces of this machine, in the node's words.

use std::io::{Error, ErrorKind, Result};
use std::net::IpAddr;

use p2p_core::Reach;
use p2p_core::node::{Nic, NicAddress};

#[cfg(target_os = "linux")]
use crate::descriptors::is_exhausted;

/// Returns the interfaces there are now, in the order of their indexes.
///
/// It asks the system, blocking for up to a millisecond; Linux answers in a tenth of that.
///
/// # Errors
/// If the system cannot be asked, such as without a free descriptor. That says nothing of the interfaces.
pub fn nics() -> Result<Vec<Nic>> {
    NicSource::default().nics()
}

/// Whoever asks the system for its interfaces again and again.
///
/// On Linux it keeps the socket that it asks through, so that it can ask when there is no free descriptor.
#[derive(Debug, Default)]
pub(crate) struct NicSource {
    #[cfg(target_os = "linux")]
    kernel: Option<super::netlink::Kernel>,
}

impl NicSource {
    /// Returns the interfaces there are now, as [`nics`] does.
    ///
    /// # Errors
    /// As [`nics`].
    pub(crate) fn nics(&mut self) -> Result<Vec<Nic>> {
        #[cfg(target_os = "linux")]
        match self.ask() {
            // There is no other way either.
            Err(error) if is_exhausted(&error) => return Err(error),
            // A sandbox may forbid it. There is another way.
            Err(error) => tracing::debug!(%error, "netlink"),
            done => return done,
        }
        let nics = by_netdev();
        if nics.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the system tells of no interface, not even loopback",
            ));
        }
        Ok(nics)
    }

    #[cfg(target_os = "linux")]
    fn ask(&mut self) -> Result<Vec<Nic>> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => super::netlink::Kernel::open()?,
        };
        // After an error who knows what is still in it.
        let nics = kernel.nics()?;
        self.kernel = Some(kernel);
        Ok(nics)
    }
}

/// The same by a crate that knows more systems than one. It cannot tell an error from an empty list.
pub(super) fn by_netdev() -> Vec<Nic> {
    let mut nics: Vec<Nic> = netdev::get_interfaces().into_iter().map(nic).collect();
    nics.sort_by_key(|nic| nic.index);
    nics
}

fn nic(interface: netdev::Interface) -> Nic {
    let v4 = interface.ipv4.iter().map(|net| NicAddress {
        ip: net.addr().into(),
        prefix: net.prefix_len(),
        scope: 0,
    });
    let v6 = interface.ipv6.iter().enumerate().filter_map(|(number, net)| {
        let flags = interface.ipv6_addr_flags.get(number);
        // Neither can be bound: one is not ours yet, the other will never be.
        if flags.is_some_and(|flags| flags.tentative || flags.duplicated) {
            return None;
        }
        let ip = IpAddr::from(net.addr());
        let scope = interface.ipv6_scope_ids.get(number).copied().unwrap_or_default();
        Some(NicAddress {
            ip,
            prefix: net.prefix_len(),
            // Some systems know no scope; the index of the interface is what it always is.
            scope: match Reach::of(ip) {
                Reach::Link if scope == 0 => interface.index,
                Reach::Link => scope,
                _ => 0,
            },
        })
    });
    let mut addresses: Vec<NicAddress> = v4.chain(v6).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let gateways = interface.gateway.as_ref().map(|gateway| {
        let v4 = gateway.ipv4.iter().copied().map(IpAddr::from);
        v4.chain(gateway.ipv6.iter().copied().map(IpAddr::from)).collect()
    });
    Nic {
        is_loopback: interface.is_loopback(),
        is_up: interface.is_up(),
        gateways: gateways.unwrap_or_default(),
        index: interface.index,
        addresses,
        name: interface.friendly_name.unwrap_or(interface.name),
    }
}

#[cfg(test)]
mod tests {
    use p2p_core::Family;

    use super::*;

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let nics = nics().unwrap();
        let loopback = nics.iter().find(|nic| nic.is_loopback).expect("a loopback interface");
        assert!(loopback.index != 0 && loopback.is_up, "{loopback:?}");
        let v4 = loopback.addresses.iter().find(|address| address.family() == Family::V4);
        assert_eq!(
            v4.map(|address| (address.ip.to_string(), address.prefix)),
            Some(("127.0.0.1".to_owned(), 8))
        );
        assert!(nics.is_sorted_by_key(|nic| nic.index));
        let scoped = |address: &NicAddress| (address.scope != 0) == (Reach::of(address.ip) == Reach::Link);
        let v6 = nics.iter().flat_map(|nic| &nic.addresses).filter(|address| address.family() == Family::V6);
        assert!(v6.into_iter().all(scoped), "{nics:?}");
    }
}
