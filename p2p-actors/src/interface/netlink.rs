//! Linux's own list of interfaces, asked for directly (RFC 3549; rtnetlink(7)).
//!
//! `netdev` asks the same, four times with a buffer of 1 MiB. glibc keeps such a buffer with the thread that freed it:
//! 3 MB of a node that does nothing (`cargo bench -p p2p-node --bench figures -- idle`). It also takes a millisecond,
//! most of it for what we do not need.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use p2p_core::Reach;
use p2p_core::node::{Nic, NicAddress};
use socket2::{Domain, Protocol, Socket, Type};

/// The address family, and the part of the kernel that knows of interfaces.
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
/// The kernel fills buffers of up to 32 KiB.
const BUFFER: usize = 32 * 1024;
/// It answers within the request; this bounds what must not happen.
const PATIENCE: Duration = Duration::from_secs(1);
/// A list that changed while it was told is asked for again, this often.
const TRIES: usize = 3;

const HEADER: usize = 16;
const REQUEST_DUMP: u16 = 0x001 | 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// Lengths of the fixed parts: `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;
const IF_UP: u32 = 0x1;
const IF_LOOPBACK: u32 = 0x8;
/// Not ours yet, or never: neither can be bound (RFC 4862, 5.4).
const DUPLICATE_OR_TENTATIVE: u32 = 0x08 | 0x40;

/// A socket to the kernel, to ask as often as one likes.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    /// The number of the last request. What answers another one is passed over.
    asked: u32,
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open() -> Result<Self> {
        let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_ROUTE)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, asked: 0 })
    }

    /// Returns the interfaces there are now, in the order of their indexes.
    ///
    /// # Errors
    /// When the kernel cannot be asked or says something unheard of.
    pub(super) fn nics(&mut self) -> Result<Vec<Nic>> {
        let mut failure = Error::from(ErrorKind::Interrupted);
        for _ in 0..TRIES {
            match self.ask() {
                Err(error) if error.kind() == ErrorKind::Interrupted => failure = error,
                done => return done,
            }
        }
        Err(failure)
    }

    fn ask(&mut self) -> Result<Vec<Nic>> {
        let mut buffer = vec![0; BUFFER];
        let mut found = Found::default();
        for (what, fixed) in [(GET_LINK, LINK), (GET_ADDRESS, ADDRESS), (GET_ROUTE, ROUTE)] {
            self.asked = self.asked.wrapping_add(1);
            self.socket.send(&request(what, fixed, self.asked))?;
            // It belongs to the kernel alone: nobody without its rights can send to such a socket.
            loop {
                let length = self.socket.read(&mut buffer)?;
                if found.take_datagram(&buffer[..length], self.asked)? {
                    break;
                }
            }
        }
        Ok(found.into_nics())
    }
}

/// Asks for all there is, of every family: a header and the fixed part of such a message, all zero.
fn request(what: u16, fixed: usize, number: u32) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(((HEADER + fixed) as u32).to_ne_bytes());
    request.extend(what.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend(number.to_ne_bytes());
    request.resize(HEADER + fixed, 0);
    request
}

/// What has been told so far.
#[derive(Default)]
struct Found {
    nics: BTreeMap<u32, Nic>,
}

impl Found {
    /// Whether that was the last of the answer to request `number`.
    fn take_datagram(&mut self, mut datagram: &[u8], number: u32) -> Result<bool> {
        if datagram.is_empty() {
            return Err(strange());
        }
        while !datagram.is_empty() {
            let length = u32_at(datagram, 0).ok_or_else(strange)? as usize;
            let message = datagram.get(..length).filter(|_| length >= HEADER).ok_or_else(strange)?;
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
            let kind = u16_at(message, 4).ok_or_else(strange)?;
            let flags = u16_at(message, 6).ok_or_else(strange)?;
            if u32_at(message, 8) != Some(number) {
                continue;
            }
            if flags & DUMP_INTERRUPTED != 0 {
                return Err(ErrorKind::Interrupted.into());
            }
            let body = &message[HEADER..];
            match kind {
                DONE => return Ok(true),
                ERROR => {
                    let code = u32_at(body, 0).ok_or_else(strange)?.cast_signed();
                    return Err(Error::from_raw_os_error(code.saturating_neg()));
                }
                // A message that lacks what it must have says nothing.
                NEW_LINK => drop(self.take_link(body)),
                NEW_ADDRESS => drop(self.take_address(body)),
                NEW_ROUTE => drop(self.take_route(body)),
                _ => {}
            }
        }
        Ok(false)
    }

    /// `struct ifinfomsg`: family, type, index at 4, flags at 8.
    fn take_link(&mut self, body: &[u8]) -> Option<()> {
        const NAME: u16 = 3;
        let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
        let name = attribute(body.get(LINK..)?, NAME)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let nic = Nic {
            name: String::from_utf8_lossy(name).into_owned(),
            index,
            addresses: Vec::new(),
            is_loopback: flags & IF_LOOPBACK != 0,
            is_up: flags & IF_UP != 0,
            gateways: Vec::new(),
        };
        self.nics.insert(index, nic);
        Some(())
    }

    /// `struct ifaddrmsg`: family, prefix at 1, eight bits of flags at 2, index at 4.
    fn take_address(&mut self, body: &[u8]) -> Option<()> {
        const PLACE: u16 = 1;
        const LOCAL: u16 = 2;
        const FLAGS: u16 = 8;
        let (prefix, index) = (*body.get(1)?, u32_at(body, 4)?);
        let attributes = body.get(ADDRESS..)?;
        let flags = attribute(attributes, FLAGS).and_then(|flags| u32_at(flags, 0));
        let flags = flags.unwrap_or(u32::from(*body.get(2)?));
        // With a peer at the other end of a wire, PLACE (`IFA_ADDRESS`) is the peer's.
        let ip = ip(attribute(attributes, LOCAL).or_else(|| attribute(attributes, PLACE))?)?;
        if flags & DUPLICATE_OR_TENTATIVE != 0 && ip.is_ipv6() {
            return None;
        }
        let scope = if ip.is_ipv6() && Reach::of(ip) == Reach::Link { index } else { 0 };
        self.nics.get_mut(&index)?.addresses.push(NicAddress { ip, prefix, scope });
        Some(())
    }

    /// `struct rtmsg`: family, length of the destination's prefix at 1: 0 is the default route.
    fn take_route(&mut self, body: &[u8]) -> Option<()> {
        const DEVICE: u16 = 4;
        const GATEWAY: u16 = 5;
        let attributes = body.get(ROUTE..)?;
        if *body.get(1)? != 0 {
            return None;
        }
        let gateway = ip(attribute(attributes, GATEWAY)?)?;
        let index = u32_at(attribute(attributes, DEVICE)?, 0)?;
        self.nics.get_mut(&index)?.gateways.push(gateway);
        Some(())
    }

    fn into_nics(self) -> Vec<Nic> {
        let tidy = |mut nic: Nic| {
            nic.addresses.sort_unstable();
            nic.addresses.dedup();
            nic.gateways.sort_unstable();
            nic.gateways.dedup();
            nic
        };
        self.nics.into_values().map(tidy).collect()
    }
}

/// The first attribute of this kind: length, kind, value, each begun at a multiple of four.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let whole = attributes.get(..length).filter(|_| length >= 4)?;
        if u16_at(whole, 2) == Some(kind) {
            return Some(&whole[4..]);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk().map(|v4: &[u8; 4]| Ipv4Addr::from(*v4).into()),
        16 => bytes.first_chunk().map(|v6: &[u8; 16]| Ipv6Addr::from(*v6).into()),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn strange() -> Error {
    Error::new(ErrorKind::InvalidData, "the kernel's list of interfaces is not understood")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_says_what_netdev_says() {
        let mut kernel = Kernel::open().unwrap();
        for _ in 0..100 {
            let ours = kernel.nics().unwrap();
            let mut theirs = super::super::enumerate::by_netdev();
            theirs.iter_mut().for_each(|nic| nic.gateways.sort_unstable());
            // Others may be making and removing interfaces on this machine.
            if ours == kernel.nics().unwrap() {
                return assert_eq!(ours, theirs);
            }
        }
        panic!("the interfaces of this machine never rest");
    }

    fn message(kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = Vec::new();
        message.extend((body.len() as u32 + 16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(1u32.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        message
    }

    fn numbers(all: &[u32]) -> Vec<u8> {
        all.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    fn address(prefix: u8, flags: u8, index: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut fixed = vec![0, prefix, flags, 0];
        fixed.extend(index.to_ne_bytes());
        message(NEW_ADDRESS, &fixed, attributes)
    }

    #[test]
    fn links_addresses_and_default_routes_are_told_apart() {
        let mut told = message(NEW_LINK, &numbers(&[0, 7, IF_UP, 0]), &[(3, b"wire0\0")]);
        let v6 =
            |last: u8| Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]).octets();
        told.extend(address(32, 0, 7, &[(1, &[192, 0, 2, 2]), (2, &[192, 0, 2, 1])]));
        told.extend(address(64, 0, 7, &[(1, &v6(1))]));
        told.extend(address(64, 0x40, 7, &[(1, &v6(2))]));
        told.extend(address(64, 0, 7, &[(1, &v6(3)), (8, &0x08u32.to_ne_bytes())]));
        told.extend(address(24, 0, 8, &[(1, &[198, 51, 100, 1])]));
        let device = 7u32.to_ne_bytes();
        told.extend(message(NEW_ROUTE, &[0; 12], &[(5, &[192, 0, 2, 2]), (4, &device)]));
        let mut narrow = [0; 12];
        narrow[1] = 24;
        told.extend(message(NEW_ROUTE, &narrow, &[(5, &[192, 0, 2, 9]), (4, &device)]));
        let mut found = Found::default();
        assert!(!found.take_datagram(&told, 1).unwrap());
        assert!(found.take_datagram(&message(DONE, &[0; 4], &[]), 1).unwrap());
        let [nic] = &found.into_nics()[..] else { panic!("one interface") };
        assert_eq!((nic.name.as_str(), nic.index, nic.is_up, nic.is_loopback), ("wire0", 7, true, false));
        let addresses = [("192.0.2.1", 32, 0), ("fe80::1", 64, 7)].map(|(ip, prefix, scope)| NicAddress {
            ip: ip.parse().unwrap(),
            prefix,
            scope,
        });
        assert_eq!(nic.addresses, addresses);
        assert_eq!(nic.gateways, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn refusals_and_interruptions_are_errors_and_other_answers_nothing() {
        let refused = message(ERROR, &(-13i32).to_ne_bytes(), &[]);
        let error = Found::default().take_datagram(&refused, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let mut interrupted = message(DONE, &[0; 4], &[]);
        interrupted[6] |= 0x10;
        let error = Found::default().take_datagram(&interrupted, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(!Found::default().take_datagram(&interrupted, 2).unwrap());
        assert!(Found::default().take_datagram(&[], 1).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(
            kind in prop::sample::select(vec![ERROR, DONE, NEW_LINK, NEW_ADDRESS, NEW_ROUTE]),
            body in prop::collection::vec(any::<u8>(), 0..200),
            tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut told = message(NEW_LINK, &numbers(&[0, 7, IF_UP, 0]), &[(3, b"wire0\0")]);
            told.extend(message(kind, &body, &[]));
            told.resize(told.len().next_multiple_of(4), 0);
            told.extend(&tail);
            let mut found = Found::default();
            let _ = found.take_datagram(&told, 1);
            let _ = Found::default().take_datagram(&tail, 1);
            prop_assert!(found.into_nics().len() <= 4);
        }
    }
}
