//! Every option of a NAT, as plain data.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Family;
use crate::nat::{Filtering, Mapping, PortRange};
use crate::sim::packet::{IcmpKind, Protocol};
use crate::sim::span;

/// The configuration of a NAT, or of a stateful firewall when [`external`](Self::external) is empty.
///
/// The default behaves as RFC 4787 and RFC 5382 ask. Its mapping does not depend on the endpoint, and its filtering
/// depends on address and port. Ports are preserved, and strangers get no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatConfig {
    /// The addresses outside, all of one family. When empty, packets are only filtered and not translated.
    pub external: Vec<IpAddr>,
    /// The choice of the external address of an inside host.
    pub pooling: Pooling,
    /// The behaviour towards TCP.
    pub tcp: TcpConfig,
    /// The behaviour towards UDP and ICMP echo.
    pub udp: UdpConfig,
    /// The treatment of a packet that comes from inside for one of the external addresses.
    pub hairpin: Hairpin,
    /// The size of the block of ports that each inside host gets, as on carrier NATs. `None` means no blocks.
    pub block: Option<u16>,
    /// The most mappings at a time.
    pub most_mappings: u32,
    /// The most mappings of one inside host at a time.
    pub most_mappings_per_host: u32,
    /// The most new mappings a second, on average; a burst may have as many at once. `None` means no limit.
    pub most_new_per_second: Option<u32>,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            external: Vec::new(),
            pooling: Pooling::Paired,
            tcp: TcpConfig::default(),
            udp: UdpConfig::default(),
            hairpin: Hairpin::None,
            block: None,
            most_mappings: 65_536,
            most_mappings_per_host: 65_536,
            most_new_per_second: None,
        }
    }
}

/// The choice of the external address of an inside host (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The host always gets the same address (REQ-2).
    Paired,
    /// Each mapping gets any of the addresses.
    Arbitrary,
}

/// The treatment of packets from inside for an external address (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// Such packets are dropped.
    None,
    /// Such packets are turned round with the inside source. Replies then go past the NAT, and TCP breaks.
    InternalSource,
    /// Such packets are turned round with the mapped source (REQ-9a).
    ExternalSource,
}

/// The options that TCP and UDP have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// The rule by which packets pass.
    pub policy: Policy,
    /// The dependence of the mapping on the destination.
    pub mapping: Mapping,
    /// The remote ends that may send in through a mapping.
    pub filtering: Filtering,
    /// The choice of the external port.
    pub ports: PortChoice,
    /// The external ports to choose from.
    pub range: PortRange,
    /// True to give an even port for an even port, and an odd one for an odd one (RFC 4787, REQ-4).
    pub parity: bool,
    /// True when one external port may serve several mappings with different remote ends, as on Linux. RFC 4787 calls
    /// it port overloading (REQ-3). It needs filtering that depends on address and port.
    pub overload: bool,
    /// The new mappings a second made by hosts that are not simulated, which move a counting NAT's counter.
    pub background: f64,
    /// The time for which an answered unsolicited packet keeps the external port busy towards its sender. On Linux
    /// the router's own connection entry collides with the mapping so. Zero means not at all.
    #[serde(with = "span")]
    pub answer_holds: Duration,
}

impl Default for FlowConfig {
    fn default() -> Self {
        Self {
            policy: Policy::Stateful,
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            ports: PortChoice::Preserve { or: Fallback::Random },
            range: PortRange { first: 1_024, last: u16::MAX },
            parity: false,
            overload: false,
            background: 0.0,
            answer_holds: Duration::ZERO,
        }
    }
}

/// The rule by which packets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Packets pass by the table, as the other options say.
    Stateful,
    /// All packets pass in both directions. This is possible only where nothing is translated.
    Open,
    /// No packet passes in either direction.
    Blocked,
}

/// The choice of the external port of a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortChoice {
    /// The inside port, while it is free and in range.
    Preserve {
        /// The choice when it is not.
        or: Fallback,
    },
    /// The inside port plus a constant, wrapped into the range, so the mapped port moves as the local one.
    Offset {
        /// The constant, in ports.
        by: i16,
    },
    /// The port of the last mapping plus a step, whatever the inside port.
    Step {
        /// The step in ports, not zero.
        by: i16,
        /// The last mapping that counts.
        scope: StepScope,
    },
    /// The port of the last mapping plus a step, but only while the inside port moves by one; otherwise a random one.
    StepWhileLocalSteps {
        /// The step in ports, not zero.
        by: i16,
    },
    /// Any free port.
    Random,
}

/// The choice of a port when the inside port cannot be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Any free port.
    Random,
    /// The next free port above the inside port.
    Next,
    /// No port: there is no mapping.
    Refuse,
}

/// The last mapping that a counting NAT counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepScope {
    /// The last mapping of all hosts.
    Global,
    /// The last mapping of the same inside host.
    PerHost,
    /// The last mapping to the same destination address.
    PerDestination,
}

/// The behaviour towards UDP and echo.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UdpConfig {
    /// The options in common with TCP.
    pub flow: FlowConfig,
    /// The ICMP error that answers an unsolicited datagram; `None` when it is dropped in silence.
    pub unsolicited: Option<IcmpKind>,
    /// The time that a mapping lives after the last packet. RFC 4787, REQ-5: at least two minutes, five advised.
    #[serde(with = "span")]
    pub timeout: Duration,
    /// The same time when packets have gone both ways. Linux has two minutes against half a minute.
    #[serde(with = "span")]
    pub timeout_both_ways: Duration,
    /// True when inbound packets refresh the mapping too (REQ-6).
    pub inbound_refreshes: bool,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            flow: FlowConfig::default(),
            unsolicited: None,
            timeout: Duration::from_secs(300),
            timeout_both_ways: Duration::from_secs(300),
            inbound_refreshes: false,
        }
    }
}

/// The behaviour towards TCP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// The options in common with UDP.
    pub flow: FlowConfig,
    /// The answer to an unsolicited SYN.
    pub unsolicited: Unsolicited,
    /// True when a SYN may come in while our own is on its way out (RFC 5382, REQ-2). Otherwise it counts as
    /// unsolicited.
    pub simultaneous_open: bool,
    /// The effect of a RST on the session.
    pub on_rst: Ending,
    /// The effect of a FIN on the session; with [`Ending::Close`] it takes one from each side.
    pub on_fin: Ending,
    /// True when an inbound ICMP error deletes the session, which RFC 5382, REQ-9, forbids.
    pub icmp_deletes: bool,
    /// True to hold sequence numbers and states to the rules of Linux connection tracking. The main rule is about a
    /// 4-tuple on which SYNs have gone both ways. There a SYN or SYN-ACK with a number further ahead than a window is
    /// invalid, and one behind is ignored. Either way the 4-tuple is unusable until the session times out.
    pub strict: bool,
    /// True when outbound packets of no valid connection leave untranslated instead of being dropped, as on Linux.
    pub leak_invalid: bool,
    /// True when an outbound segment in the middle of an unknown connection makes a session, as on Linux.
    pub loose: bool,
    /// The timeout while a connection opens. RFC 5382, REQ-5: at least four minutes; Linux: two.
    #[serde(with = "span")]
    pub timeout_opening: Duration,
    /// The timeout of an open connection. RFC 5382, REQ-5: at least two hours and four minutes; Linux: five days.
    #[serde(with = "span")]
    pub timeout_open: Duration,
    /// The timeout once both sides have sent a FIN.
    #[serde(with = "span")]
    pub timeout_closing: Duration,
    /// The timeout after a RST, with [`Ending::Close`]; Linux: ten seconds.
    #[serde(with = "span")]
    pub timeout_reset: Duration,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            flow: FlowConfig::default(),
            unsolicited: Unsolicited::Silence,
            simultaneous_open: true,
            on_rst: Ending::Keep,
            on_fin: Ending::Close,
            icmp_deletes: false,
            strict: false,
            leak_invalid: false,
            loose: false,
            timeout_opening: Duration::from_secs(240),
            timeout_open: Duration::from_secs(7_440),
            timeout_closing: Duration::from_secs(240),
            timeout_reset: Duration::from_secs(10),
        }
    }
}

/// The answer to an unsolicited SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// The SYN gets no answer.
    Silence,
    /// The SYN gets a RST at once.
    Reset,
    /// The SYN gets an ICMP error at once.
    Icmp(IcmpKind),
    /// The SYN gets an ICMP error after a while, unless an outbound SYN for the connection comes first. RFC 5382,
    /// REQ-4, asks for port unreachable after six seconds.
    IcmpAfter {
        /// The ICMP error.
        kind: IcmpKind,
        /// The time until the answer.
        #[serde(with = "span")]
        after: Duration,
    },
    /// The SYN gets a RST after a while, unless an outbound SYN for the connection comes first.
    ResetAfter {
        /// The time until the answer.
        #[serde(with = "span")]
        after: Duration,
    },
}

/// The effect of the end of a connection on its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The session stays as open as it was.
    Keep,
    /// The session waits out a short timeout and lets no new connection in.
    Close,
    /// The session goes at once, and the mapping with its last session.
    Delete,
}

/// A reason why a NAT cannot be so, which is the fault of its configuration.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NatConfigError {
    /// The range has no port to choose from.
    #[error("{protocol}: the port range {first}-{last} is empty: the first port must not be above the last")]
    RangeEmpty {
        /// The protocol whose options are wrong.
        protocol: Protocol,
        /// The start of the range.
        first: u16,
        /// The end of the range.
        last: u16,
    },
    /// The range has port zero, from which nothing can be sent.
    #[error("{0}: the port range starts at port 0, which no packet can come from")]
    RangeZero(Protocol),
    /// A step of zero gives every mapping the same port.
    #[error("{0}: a step of zero gives every mapping the same port")]
    StepZero(Protocol),
    /// An overloaded port is told apart by the remote end, so the filtering must know that.
    #[error("{0}: overloaded ports need address- and port-dependent filtering")]
    OverloadFiltering(Protocol),
    /// A translated packet needs its way back, so the NAT must keep a table.
    #[error("{0}: policy \"open\" cannot translate: leave the external addresses out")]
    OpenTranslation(Protocol),
    /// The rate is below zero or not a number.
    #[error("{0}: {1} background flows a second is no rate")]
    Background(Protocol, f64),
    /// One pool has addresses of both families.
    #[error("external addresses {0} and {1} are of different families")]
    MixedFamilies(IpAddr, IpAddr),
    /// The same address is there twice.
    #[error("external address {0} is there twice")]
    Twice(IpAddr),
    /// An address that no packet can come from.
    #[error("external address {0} cannot be the source of a packet")]
    Unusable(IpAddr),
    /// A block must hold a port, and each range a block.
    #[error("{protocol}: a block of {block} ports does not fit into a range of {range}")]
    Block {
        /// The protocol whose options are wrong.
        protocol: Protocol,
        /// The number of ports in a block.
        block: u16,
        /// The number of ports in the range.
        range: u32,
    },
    /// A limit of zero lets nothing through, which is what [`Policy::Blocked`] is for.
    #[error("{0} is zero, so nothing could pass: policy \"blocked\" says that")]
    LimitZero(&'static str),
}

impl NatConfig {
    /// Tells whether this translates, and not only filters.
    pub fn is_translating(&self) -> bool {
        !self.external.is_empty()
    }

    /// Returns the behaviour towards flows of `protocol`. Echo follows UDP.
    pub fn flow(&self, protocol: Protocol) -> &FlowConfig {
        match protocol {
            Protocol::Tcp => &self.tcp.flow,
            Protocol::Udp | Protocol::Echo => &self.udp.flow,
        }
    }

    /// Applies one change to the behaviour towards TCP and that towards UDP.
    pub fn with_flow(mut self, change: impl Fn(&mut FlowConfig)) -> Self {
        change(&mut self.tcp.flow);
        change(&mut self.udp.flow);
        self
    }

    /// Returns this NAT with another answer to unsolicited SYNs.
    pub fn with_unsolicited(mut self, unsolicited: Unsolicited) -> Self {
        self.tcp.unsolicited = unsolicited;
        self
    }

    /// Checks that such a NAT can be.
    ///
    /// # Errors
    /// [`NatConfigError`], the first thing that is impossible.
    pub fn validate(&self) -> Result<(), NatConfigError> {
        for (index, ip) in self.external.iter().enumerate() {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(NatConfigError::Unusable(*ip));
            }
            if self.external[..index].contains(ip) {
                return Err(NatConfigError::Twice(*ip));
            }
            if Family::of(*ip) != Family::of(self.external[0]) {
                return Err(NatConfigError::MixedFamilies(self.external[0], *ip));
            }
        }
        for (name, limit) in [
            ("most_mappings", self.most_mappings),
            ("most_mappings_per_host", self.most_mappings_per_host),
            ("most_new_per_second", self.most_new_per_second.unwrap_or(1)),
        ] {
            if limit == 0 {
                return Err(NatConfigError::LimitZero(name));
            }
        }
        self.validate_flow(Protocol::Tcp)?;
        self.validate_flow(Protocol::Udp)
    }

    fn validate_flow(&self, protocol: Protocol) -> Result<(), NatConfigError> {
        let flow = self.flow(protocol);
        let PortRange { first, last } = flow.range;
        if first > last {
            return Err(NatConfigError::RangeEmpty { protocol, first, last });
        }
        if first == 0 {
            return Err(NatConfigError::RangeZero(protocol));
        }
        if flow.policy == Policy::Open && self.is_translating() {
            return Err(NatConfigError::OpenTranslation(protocol));
        }
        if let PortChoice::Step { by: 0, .. } | PortChoice::StepWhileLocalSteps { by: 0 } = flow.ports {
            return Err(NatConfigError::StepZero(protocol));
        }
        if flow.overload && flow.filtering != Filtering::AddressAndPortDependent {
            return Err(NatConfigError::OverloadFiltering(protocol));
        }
        if !(0.0..=1e6).contains(&flow.background) {
            return Err(NatConfigError::Background(protocol, flow.background));
        }
        if let Some(block) = self.block {
            let range = flow.range.size();
            if block == 0 || u32::from(block) > range {
                return Err(NatConfigError::Block { protocol, block, range });
            }
        }
        Ok(())
    }
}
