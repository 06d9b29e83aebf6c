//! Ready configurations of NATs, by name.

use std::net::IpAddr;
use std::time::Duration;

use super::config::{Ending, Fallback, NatConfig, Policy, PortChoice, StepScope, TcpConfig, UdpConfig};
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, NatType, PortRange};

/// The offset in ports of a [`DeltaKind::Preserving`] NAT whose delta names none.
const OFFSET: i16 = 1_009;

impl NatConfig {
    /// Returns a well-behaved home router: the default, with one address.
    pub fn home(external: IpAddr) -> Self {
        Self { external: vec![external], ..Self::default() }
    }

    /// Returns a router without translation and filtering.
    pub fn open() -> Self {
        Self::default().with_flow(|flow| flow.policy = Policy::Open)
    }

    /// Returns a firewall without translation, which lets in packets only from where something was sent to. IPv6
    /// routers do so (RFC 6092).
    pub fn firewall(filtering: Filtering) -> Self {
        Self::default().with_flow(|flow| flow.filtering = filtering)
    }

    /// Returns a firewall that lets nothing pass.
    pub fn blocked() -> Self {
        Self::default().with_flow(|flow| flow.policy = Policy::Blocked)
    }

    /// Returns one of the 7 types × 5 deltas of the original P2PD, for TCP and UDP alike.
    ///
    /// `external` and `delta` mean nothing for the types that do not translate: open, symmetric firewall, blocked. A
    /// symmetric NAT keeps the delta for the first destination of each inside port. The other destinations get the
    /// remaining ports, by the same rule. The value of a preserving delta is the distance between inside and mapped
    /// port; zero stands for 1,009.
    pub fn of_type(nat: NatType, delta: Delta, range: PortRange, external: IpAddr) -> Self {
        use Filtering as F;
        let (mapping, filtering) = match nat {
            NatType::Open => return Self::open(),
            NatType::SymmetricFirewall => return Self::firewall(F::AddressAndPortDependent),
            NatType::Blocked => return Self::blocked(),
            NatType::FullCone => (Mapping::EndpointIndependent, F::EndpointIndependent),
            NatType::Restricted => (Mapping::EndpointIndependent, F::AddressDependent),
            NatType::PortRestricted => (Mapping::EndpointIndependent, F::AddressAndPortDependent),
            NatType::Symmetric => (Mapping::AddressAndPortDependent, F::AddressAndPortDependent),
        };
        let ports = match delta.kind {
            DeltaKind::Equal => PortChoice::Preserve { or: Fallback::Random },
            DeltaKind::Preserving => {
                PortChoice::Offset { by: if delta.value == 0 { OFFSET } else { delta.value } }
            }
            DeltaKind::Independent => PortChoice::Step { by: delta.value, scope: StepScope::Global },
            DeltaKind::Dependent => PortChoice::StepWhileLocalSteps { by: delta.value },
            DeltaKind::Random => PortChoice::Random,
        };
        Self::home(external).with_flow(|flow| {
            flow.mapping = mapping;
            flow.filtering = filtering;
            flow.ports = ports;
            flow.range = range;
        })
    }

    /// Returns a Linux router with `masquerade` that drops packets which nobody inside asked for.
    ///
    /// A connection keeps its port unless another inside host talks to the same remote end through it. A host that
    /// was given another port keeps that one. Packets that are invalid for connection tracking leave untranslated.
    /// The model was compared with Linux 6.18. Of 400 random sequences of segments that were not used to build it,
    /// 379 fared alike to the last one. The others differ in what follows a RST, and in acknowledgement windows.
    ///
    /// [`with_unsolicited`](Self::with_unsolicited) makes a router that rejects or accepts unsolicited SYNs. Older
    /// kernels keep the 4-tuple of such a SYN busy for ten seconds:
    /// [`FlowConfig::answer_holds`](super::FlowConfig::answer_holds) does the same.
    ///
    /// Two things differ from the real one. Inside ports below 1,024 are not preserved. An accepted unsolicited
    /// datagram holds its 4-tuple for half a minute, and so does a rejected one.
    pub fn linux_masquerade(external: IpAddr) -> Self {
        Self { external: vec![external], ..Self::linux() }
    }

    /// Returns a Linux router with `masquerade fully-random`, which is symmetric and uses any port.
    pub fn linux_fully_random(external: IpAddr) -> Self {
        Self::linux_masquerade(external).with_flow(|flow| {
            flow.mapping = Mapping::AddressAndPortDependent;
            flow.ports = PortChoice::Random;
        })
    }

    /// Returns a Linux router that only filters by connection tracking.
    pub fn linux_firewall() -> Self {
        Self::linux()
    }

    fn linux() -> Self {
        let config = Self {
            tcp: TcpConfig {
                on_rst: Ending::Close,
                strict: true,
                leak_invalid: true,
                loose: true,
                timeout_opening: Duration::from_secs(120),
                timeout_open: Duration::from_secs(5 * 86_400),
                timeout_closing: Duration::from_secs(120),
                timeout_reset: Duration::from_secs(10),
                ..TcpConfig::default()
            },
            udp: UdpConfig {
                timeout: Duration::from_secs(30),
                timeout_both_ways: Duration::from_secs(120),
                inbound_refreshes: true,
                ..UdpConfig::default()
            },
            ..Self::default()
        };
        let mut config = config.with_flow(|flow| flow.overload = true);
        config.udp.flow.answer_holds = config.udp.timeout;
        config
    }

    /// Returns a carrier's NAT. It has a pool of addresses, and pairs each inside host with one of them and with a
    /// block of ports. Mapped ports are random inside the block (RFC 6888, RFC 7422).
    pub fn carrier(external: Vec<IpAddr>, block: u16) -> Self {
        Self { external, block: Some(block), ..Self::default() }
            .with_flow(|flow| flow.ports = PortChoice::Random)
    }
}
