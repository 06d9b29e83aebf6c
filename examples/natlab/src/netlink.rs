//! The part of rtnetlink that brings up an interface in the calling thread's network namespace.
//!
//! The `ip` command would do, but it costs a process for each step, and a lab has dozens of steps.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::cidr::Cidr;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;

const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;

const IFF_UP: u32 = 0x1;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const FR_ACT_TO_TBL: u8 = 1;
/// The main routing table.
pub(crate) const MAIN: u32 = 254;

/// A socket to the kernel's routing tables of the namespace it was opened in.
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn new() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Brings an interface up, with `mtu` (bytes) and `queue` (packets) where they are given.
    pub(crate) fn up(&mut self, name: &str, mtu: Option<u32>, queue: Option<u32>) -> io::Result<u32> {
        let index = if_nametoindex(name)?;
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.bytes(&[0, 0, 0, 0]);
        message.bytes(&index.to_ne_bytes());
        message.bytes(&IFF_UP.to_ne_bytes());
        message.bytes(&IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(queue) = queue {
            message.attribute(IFLA_TXQLEN, &queue.to_ne_bytes());
        }
        self.ask(message)?;
        Ok(index)
    }

    /// Gives an interface an address.
    pub(crate) fn address(&mut self, index: u32, address: Cidr) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        message.bytes(&[family(address.ip()), address.length(), IFA_F_NODAD, 0]);
        message.bytes(&index.to_ne_bytes());
        message.ip(IFA_LOCAL, address.ip());
        message.ip(IFA_ADDRESS, address.ip());
        self.ask(message)
    }

    /// Adds a route to `to` over an interface, by `gateway` if there is one. The lowest `metric` wins.
    pub(crate) fn route(
        &mut self,
        index: u32,
        to: Cidr,
        gateway: Option<IpAddr>,
        table: u32,
        metric: u32,
    ) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
        let small = u8::try_from(table).unwrap_or(0);
        message.bytes(&[family(to.ip()), to.length(), 0, 0]);
        message.bytes(&[small, RTPROT_STATIC, 0, RTN_UNICAST]);
        message.bytes(&0u32.to_ne_bytes());
        if to.length() > 0 {
            message.ip(RTA_DST, to.ip());
        }
        if let Some(gateway) = gateway {
            message.ip(RTA_GATEWAY, gateway);
        }
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        message.attribute(RTA_PRIORITY, &metric.to_ne_bytes());
        message.attribute(RTA_TABLE, &table.to_ne_bytes());
        self.ask(message)
    }

    /// Routes packets from `from` by `table`.
    pub(crate) fn rule(&mut self, from: IpAddr, table: u32) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
        let length = if from.is_ipv4() { 32 } else { 128 };
        message.bytes(&[family(from), 0, length, 0]);
        message.bytes(&[u8::try_from(table).unwrap_or(0), 0, 0, FR_ACT_TO_TBL]);
        message.bytes(&0u32.to_ne_bytes());
        message.ip(FRA_SRC, from);
        message.attribute(FRA_PRIORITY, &(1_000 + table).to_ne_bytes());
        message.attribute(FRA_TABLE, &table.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        let mut answer = [0; 4_096];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            if let Some(code) = verdict(&answer[..length], self.sequence) {
                return match code {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
        }
    }
}

/// Returns the error code of the acknowledgement of `sequence`, if this answer is one.
fn verdict(answer: &[u8], sequence: u32) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let of = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR && of == sequence).then_some(code)
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        Self { bytes }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_ne_bytes());
        self.bytes(&kind.to_ne_bytes());
        self.bytes(value);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn ip(&mut self, kind: u16, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attribute(kind, &ip.octets()),
        }
    }

    fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}
