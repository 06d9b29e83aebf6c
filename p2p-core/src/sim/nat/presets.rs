//! NATs by name.

use std::net::IpAddr;
use std::time::Duration;

use super::config::{Ending, Fallback, NatConfig, Policy, PortChoice, StepScope, TcpConfig, UdpConfig};
use crate::nat::{Delta, DeltaKind, Filtering, Mapping, NatType, PortRange};

/// The offset of a [`DeltaKind::Preserving`] NAT whose delta names none.
const OFFSET: i16 = 1_009;

impl NatConfig {
    /// A well-behaved home router: the default, with one address.
    pub fn home(external: IpAddr) -> Self {
        Self { external: vec![external], ..Self::default() }
    }

    /// No translation and no filtering.
    pub fn open() -> Self {
        Self::default().with_flow(|flow| flow.policy = Policy::Open)
    }

    /// No translation; only packets from where something was sent to come in. What IPv6 routers do (RFC 6092).
    pub fn firewall(filtering: Filtering) -> Self {
        Self::default().with_flow(|flow| flow.filtering = filtering)
    }

    /// Nothing passes.
    pub fn blocked() -> Self {
        Self::default().with_flow(|flow| flow.policy = Policy::Blocked)
    }

    /// One of the 7 types × 5 deltas of the original, TCP and UDP alike.
    ///
    /// `external` and `delta` mean nothing for the types that do not translate: open, symmetric firewall,
    /// blocked. A symmetric NAT keeps the delta for the first destination of each inside port; the others
    /// get what is left, by the same rule. The value of a preserving delta is the distance between inside
    /// and mapped port; zero stands for 1,009.
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

    /// A Linux router with `masquerade` that drops what it did not ask for.
    ///
    /// A connection keeps its port unless another inside host talks to the same remote end through it; a host
    /// that was given another port keeps that one. Packets that are invalid for connection tracking leave
    /// untranslated. It was compared with Linux 6.18: of 400 random sequences of segments that were not used to
    /// build the model, 379 fared alike to the last one; the others differ in what follows a RST and in
    /// acknowledgement windows. For a router that rejects or accepts unsolicited SYNs, see
    /// [`with_unsolicited`](Self::with_unsolicited); older kernels keep the 4-tuple of such a SYN busy for ten
    /// seconds: set [`FlowConfig::answer_holds`](super::FlowConfig::answer_holds).
    ///
    /// Two things differ from the real one: inside ports below 1,024 are not preserved, and an accepted
    /// unsolicited datagram holds its 4-tuple for half a minute, a rejected one too.
    pub fn linux_masquerade(external: IpAddr) -> Self {
        Self { external: vec![external], ..Self::linux() }
    }

    /// A Linux router with `masquerade fully-random`: symmetric, any port.
    pub fn linux_fully_random(external: IpAddr) -> Self {
        Self::linux_masquerade(external).with_flow(|flow| {
            flow.mapping = Mapping::AddressAndPortDependent;
            flow.ports = PortChoice::Random;
        })
    }

    /// A Linux router that only filters by connection tracking.
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

    /// A carrier's NAT: a pool of addresses, each inside host paired with one of them and with a block of
    /// ports, mapped ports random inside the block (RFC 6888, RFC 7422).
    pub fn carrier(external: Vec<IpAddr>, block: u16) -> Self {
        Self { external, block: Some(block), ..Self::default() }
            .with_flow(|flow| flow.ports = PortChoice::Random)
    }
}
