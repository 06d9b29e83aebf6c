//! Every knob of a NAT, as plain data.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Family;
use crate::nat::{Filtering, Mapping, PortRange};
use crate::sim::packet::{IcmpKind, Protocol};
use crate::sim::span;

/// A NAT, or a stateful firewall when [`external`](Self::external) is empty.
///
/// The default behaves as RFC 4787 and RFC 5382 ask: endpoint-independent mapping, address- and
/// port-dependent filtering, ports preserved, silence towards strangers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatConfig {
    /// The addresses outside, all of one family. Empty: nothing is translated, packets are only filtered.
    pub external: Vec<IpAddr>,
    /// Which of them a host gets.
    pub pooling: Pooling,
    /// Behaviour towards TCP.
    pub tcp: TcpConfig,
    /// Behaviour towards UDP and ICMP echo.
    pub udp: UdpConfig,
    /// A packet that comes inside for one of the external addresses.
    pub hairpin: Hairpin,
    /// Each inside host gets a block of this many ports, and only those: carrier NATs. `None`: no blocks.
    pub block: Option<u16>,
    /// Most mappings at a time.
    pub most_mappings: u32,
    /// Most mappings of one inside host at a time.
    pub most_mappings_per_host: u32,
    /// Most new mappings a second, on average; bursts may have as many at once. `None`: no limit.
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

/// Which external address an inside host gets (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// Always the same one: REQ-2.
    Paired,
    /// Any, for each mapping anew.
    Arbitrary,
}

/// What becomes of packets from inside for an external address (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// Dropped.
    None,
    /// Turned round with the inside source: replies go past the NAT, and TCP breaks.
    InternalSource,
    /// Turned round with the mapped source: REQ-9a.
    ExternalSource,
}

/// What TCP and UDP have in common.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowConfig {
    /// Whether packets are looked at at all.
    pub policy: Policy,
    /// Does the mapping change with the destination?
    pub mapping: Mapping,
    /// Who may send in through a mapping?
    pub filtering: Filtering,
    /// How the external port is chosen.
    pub ports: PortChoice,
    /// The external ports to choose from.
    pub range: PortRange,
    /// An even port for an even port, an odd one for an odd one (RFC 4787, REQ-4).
    pub parity: bool,
    /// One external port may serve several mappings with different remote ends, as on Linux (RFC 4787 calls
    /// it port overloading, REQ-3). Needs address- and port-dependent filtering.
    pub overload: bool,
    /// New mappings a second made by hosts that are not simulated: they move a counting NAT's counter.
    pub background: f64,
    /// An unsolicited packet that was answered keeps the external port busy towards its sender for so long,
    /// as on Linux, where the router's own connection entry collides with the mapping. Zero: it does not.
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

/// Whether packets are looked at at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By the table, as the other knobs say.
    Stateful,
    /// All pass, both ways. Only where nothing is translated.
    Open,
    /// None passes, either way.
    Blocked,
}

/// How the external port of a new mapping is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortChoice {
    /// The inside port, while it is free and in range.
    Preserve {
        /// And when it is not.
        or: Fallback,
    },
    /// The inside port plus a constant, wrapped into the range: the mapped port moves as the local one.
    Offset {
        /// The constant.
        by: i16,
    },
    /// The last mapping plus a step, whatever the inside port.
    Step {
        /// The step, not zero.
        by: i16,
        /// Which last mapping.
        scope: StepScope,
    },
    /// The last mapping plus a step, but only while the inside port moves by one; otherwise random.
    StepWhileLocalSteps {
        /// The step, not zero.
        by: i16,
    },
    /// Any free port.
    Random,
}

/// What to do when the inside port cannot be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Any free port.
    Random,
    /// The next free port above it.
    Next,
    /// No mapping.
    Refuse,
}

/// Whose last mapping a counting NAT counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepScope {
    /// Everybody's.
    Global,
    /// That of the same inside host.
    PerHost,
    /// That to the same destination address.
    PerDestination,
}

/// Behaviour towards UDP and echo.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UdpConfig {
    /// What it has in common with TCP.
    pub flow: FlowConfig,
    /// An unsolicited datagram is answered with this ICMP error; `None`: dropped in silence.
    pub unsolicited: Option<IcmpKind>,
    /// A mapping lives so long after the last packet. RFC 4787, REQ-5: at least two minutes, five advised.
    #[serde(with = "span")]
    pub timeout: Duration,
    /// And so long when packets have gone both ways; Linux: two minutes against half a minute.
    #[serde(with = "span")]
    pub timeout_both_ways: Duration,
    /// Inbound packets refresh the mapping too (REQ-6).
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

/// Behaviour towards TCP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpConfig {
    /// What it has in common with UDP.
    pub flow: FlowConfig,
    /// What an unsolicited SYN gets.
    pub unsolicited: Unsolicited,
    /// A SYN may come in while our own is on its way out (RFC 5382, REQ-2). If not, it counts as
    /// unsolicited.
    pub simultaneous_open: bool,
    /// What a RST does to the session.
    pub on_rst: Ending,
    /// What a FIN does to the session; with [`Ending::Close`] it takes one from each side.
    pub on_fin: Ending,
    /// An inbound ICMP error deletes the session (RFC 5382, REQ-9 forbids it).
    pub icmp_deletes: bool,
    /// Sequence numbers and states are held to what Linux connection tracking holds them to. Above all: once
    /// SYNs have gone both ways on a 4-tuple, a SYN or SYN-ACK with a number further ahead than a window is
    /// invalid, and one behind is not heeded; either way the 4-tuple is dead until the session times out.
    pub strict: bool,
    /// Outbound packets of no valid connection leave untranslated instead of being dropped: Linux.
    pub leak_invalid: bool,
    /// An outbound segment in the middle of an unknown connection makes a session: Linux.
    pub loose: bool,
    /// Timeout while a connection opens. RFC 5382, REQ-5: at least four minutes; Linux: two.
    #[serde(with = "span")]
    pub timeout_opening: Duration,
    /// Timeout of an open connection. RFC 5382, REQ-5: at least two hours and four minutes; Linux: five days.
    #[serde(with = "span")]
    pub timeout_open: Duration,
    /// Timeout once both sides have sent a FIN.
    #[serde(with = "span")]
    pub timeout_closing: Duration,
    /// Timeout after a RST, with [`Ending::Close`]; Linux: ten seconds.
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

/// What an unsolicited SYN gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unsolicited {
    /// Nothing.
    Silence,
    /// A RST, at once.
    Reset,
    /// An ICMP error, at once.
    Icmp(IcmpKind),
    /// An ICMP error after a while, unless an outbound SYN for the connection comes first: RFC 5382, REQ-4,
    /// with port unreachable after six seconds.
    IcmpAfter {
        /// The error.
        kind: IcmpKind,
        /// The while.
        #[serde(with = "span")]
        after: Duration,
    },
    /// A RST after a while, likewise.
    ResetAfter {
        /// The while.
        #[serde(with = "span")]
        after: Duration,
    },
}

/// What the end of a connection does to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Nothing: the session stays as open as it was.
    Keep,
    /// The session waits out a short timeout and lets no new connection in.
    Close,
    /// The session goes at once, and the mapping with its last session.
    Delete,
}

/// A NAT that cannot be: the fault of who configured it.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum NatConfigError {
    /// No port to choose from.
    #[error("{protocol}: the port range {first}-{last} is empty: the first port must not be above the last")]
    RangeEmpty {
        /// Which of the two behaviours.
        protocol: Protocol,
        /// Start of the range.
        first: u16,
        /// End of the range.
        last: u16,
    },
    /// Port zero cannot be sent from.
    #[error("{0}: the port range starts at port 0, which no packet can come from")]
    RangeZero(Protocol),
    /// A step of zero gives every mapping the same port.
    #[error("{0}: a step of zero gives every mapping the same port")]
    StepZero(Protocol),
    /// An overloaded port is told apart by the remote end, which then must be known.
    #[error("{0}: overloaded ports need address- and port-dependent filtering")]
    OverloadFiltering(Protocol),
    /// A translated packet needs its way back, so the NAT must keep a table.
    #[error("{0}: policy \"open\" cannot translate: leave the external addresses out")]
    OpenTranslation(Protocol),
    /// A rate below zero or not a number.
    #[error("{0}: {1} background flows a second is no rate")]
    Background(Protocol, f64),
    /// Both families in one pool.
    #[error("external addresses {0} and {1} are of different families")]
    MixedFamilies(IpAddr, IpAddr),
    /// The same address twice.
    #[error("external address {0} is there twice")]
    Twice(IpAddr),
    /// An address that no packet can come from.
    #[error("external address {0} cannot be the source of a packet")]
    Unusable(IpAddr),
    /// A block must hold a port, and the ranges a block.
    #[error("{protocol}: a block of {block} ports does not fit into a range of {range}")]
    Block {
        /// Which of the two behaviours.
        protocol: Protocol,
        /// Ports in a block.
        block: u16,
        /// Ports in the range.
        range: u32,
    },
    /// A limit of zero lets nothing through: that is what [`Policy::Blocked`] is for.
    #[error("{0} is zero, so nothing could pass: policy \"blocked\" says that")]
    LimitZero(&'static str),
}

impl NatConfig {
    /// Whether this translates, or only filters.
    pub fn is_translating(&self) -> bool {
        !self.external.is_empty()
    }

    /// The behaviour towards flows of `protocol`. Echo follows UDP.
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

    /// This NAT with another answer to unsolicited SYNs.
    pub fn with_unsolicited(mut self, unsolicited: Unsolicited) -> Self {
        self.tcp.unsolicited = unsolicited;
        self
    }

    /// Checks that such a NAT can be.
    ///
    /// # Errors
    /// The first thing that is impossible.
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
