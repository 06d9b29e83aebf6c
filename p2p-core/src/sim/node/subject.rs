//! A node under the laws of every machine, bothered by all that can happen to one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::attempt::{AttemptId, DialError, Role};
use crate::clock::DRIFT;
use crate::clock::ntp::{Measured, Report as NtpReport};
use crate::nat::forecast::PortForecast;
use crate::nat::{Filtering, Nat};
use crate::node::{
    BrokerConfig, ChannelId, CircuitEvent, ConnectOptions, ConnectionId, ListenError, Nic, NicAddress, NicId,
    Node, NodeConfig, NtpServer, Owner, SocketEvent, StunLink, StunServer, TurnServer,
};
use crate::peer::{Contents, Identity, InterfaceAddr, PeerAddr};
use crate::proof::Claim;
use crate::punch::{self, Endpoint, Mode, Offer, Stamps, Step};
use crate::relay::RelayOffer;
use crate::relay::circuit::CircuitFailure;
use crate::signal::link::{Event as ChannelEvent, FailReason, LinkError, Subscribers};
use crate::signal::{Body, DialMe, Refusal, Signal, seal};
use crate::sim::laws::{Dice, Subject};
use crate::sim::ntp::true_time;
use crate::transport::Token;
use crate::turn::client::Place;
use crate::turn::{Carrier, Credentials, Server as TurnRelay};
use crate::{Clock, Offset, Seed, UnixTime};

/// A node with any interfaces and servers, which is told true, wrong and absurd things, signals of a few peers among them.
#[derive(Debug)]
pub struct NodeSubject(Node);

impl Subject for NodeSubject {
    type Machine = Node;

    /// A node compares its clock every 10 s, reads its interfaces every 15 s, and asks its servers.
    const KEEPS_ALIVE: Option<Duration> = Some(Duration::from_secs(4));

    fn new(mut seed: Seed, now: Instant) -> Self {
        let mut config = NodeConfig::new(Identity::from_bytes([7; 32]));
        config.listen_port = if seed.chance(0.7) { PORT } else { 0 };
        config.machine_id = vec![1; 16];
        config.can_see_hops = seed.chance(0.5);
        config.limits.unproven = 3;
        config.limits.backlog = 2;
        config.limits.answers = 3;
        let broker = |number: u64| format!("mqtt://192.0.2.{}", 10 + number).parse().expect("a URL");
        config.brokers = (0..seed.below(3)).map(|number| BrokerConfig::new(broker(number))).collect();
        config.stun = (0..seed.below(3)).map(stun_server).collect();
        config.ntp = (0..seed.below(2)).map(|_| NtpServer { host: "ntp.test".into(), port: 123 }).collect();
        if seed.chance(0.5) {
            config.turn.push(TurnServer {
                host: "turn.test".into(),
                port: 3_478,
                carrier: Carrier::Udp,
                user: "anna".into(),
                password: "sesame".into(),
                ca_file: None,
            });
        }
        if seed.chance(0.3) {
            config.allowed = Some((0..2).map(|number| identity(number).id()).collect());
        }
        let nics = nics(&mut Dice::new(seed.fork("nics")));
        Self(Node::new(config, &nics, clock(0, now), seed, now).expect("a configuration that can be"))
    }

    fn machine(&mut self) -> &mut Node {
        &mut self.0
    }

    fn feed(&mut self, dice: &mut Dice<'_>, now: Instant) {
        let node = &mut self.0;
        match dice.below(32) {
            0 => node.handle_nics(&nics(dice), now),
            1 => node.handle_network_changed(now),
            2 => {
                let found =
                    if dice.chance(0.8) { Ok(vec![server(dice)]) } else { Err("no such name".into()) };
                node.handle_resolved(NicId(dice.below(3) as u8), stun_server(dice.below(3)), found, now);
            }
            3 => node.handle_turn_servers(&turn_servers(dice), &["a reason".into()], now),
            4 => {
                let ahead = *dice.pick(&[0, 5_000, 30_000_000, -3_600_000_000]).unwrap_or(&0);
                node.handle_clock(clock(ahead, now), now);
            }
            5 => {
                let offset =
                    Offset::new(dice.below(1_000) as i64 * 1_000, Duration::from_millis(dice.below(500)));
                let measured = dice.chance(0.7).then(|| Measured::new(offset, now, DRIFT));
                node.handle_ntp(NtpReport { measured, servers: Vec::new() }, now);
            }
            6 => node.handle_channel_closed(ChannelId(dice.below(4) as u32), now),
            7 => {
                let options = ConnectOptions::default();
                // A node that has enough to do says so.
                let _ = node.connect(address(dice, now), options, now);
            }
            8 => node.cancel(attempt(dice), now),
            9 => {
                let peer = identity(dice.below(3) as u8).id();
                node.handle_taken(&Claim { peer, attempt: attempt(dice), role: Role::Answerer });
            }
            10 => node.stir(dice.array()),
            11 if dice.chance(0.1) => node.stop_accepting(),
            11..14 => {
                let event = circuit_event(dice);
                node.handle_circuit(attempt(dice), event, now);
            }
            14..19 => {
                let event = channel_event(node, dice, now);
                node.handle_channel(ChannelId(dice.below(3) as u32), event, now);
            }
            _ => {
                let owner = match dice.below(3) {
                    0 => Owner::Attempt(attempt(dice)),
                    _ => Owner::Nic(NicId(dice.below(2) as u8)),
                };
                let event = socket_event(dice, now);
                node.handle_socket(owner, event, now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        self.0.close(now);
    }
}

fn identity(number: u8) -> Identity {
    Identity::from_bytes([20 + number; 32])
}

fn clock(ahead: i64, now: Instant) -> Clock {
    Clock::new(now, UnixTime(true_time(now).0.saturating_add_signed(ahead)))
}

fn stun_server(number: u64) -> StunServer {
    StunServer { host: format!("stun{number}.test"), port: 3_478 }
}

fn server(dice: &mut Dice<'_>) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + dice.below(3) as u8], 3_478))
}

fn local(dice: &mut Dice<'_>) -> SocketAddr {
    let port = *dice.pick(&[PORT, 0, 40_000 + dice.clone().below(20) as u16]).unwrap_or(&PORT);
    SocketAddr::from(([192, 168, 1, 2 + dice.below(2) as u8], port))
}

fn remote(dice: &mut Dice<'_>) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1 + dice.below(3) as u8], 5_000 + dice.below(3) as u16))
}

fn attempt(dice: &mut Dice<'_>) -> AttemptId {
    AttemptId([dice.below(4) as u8; 16])
}

fn nics(dice: &mut Dice<'_>) -> Vec<Nic> {
    let nic = |index: u32, dice: &mut Dice<'_>| {
        let v4 = IpAddr::from([192, 168, 1, 2 + dice.below(2) as u8]);
        let v6: IpAddr = format!("2001:db8::{}", 1 + dice.below(2)).parse().expect("an address");
        let addresses = [(v4, 24), (v6, 64)].map(|(ip, prefix)| NicAddress { ip, prefix, scope: 0 });
        let (name, is_up) = (format!("eth{index}"), dice.chance(0.9));
        let addresses = addresses.into_iter().filter(|_| dice.chance(0.7)).collect();
        Nic { name, index: index + 1, addresses, is_loopback: false, is_up, gateways: Vec::new() }
    };
    (0..dice.below(3) as u32).map(|index| nic(index, dice)).collect()
}

fn turn_servers(dice: &mut Dice<'_>) -> Vec<TurnRelay> {
    let credentials = Credentials::new("anna", "sesame").expect("a name and a password");
    let server = |dice: &mut Dice<'_>| TurnRelay {
        place: Place { address: server(dice), carrier: Carrier::Udp, host: None },
        credentials: credentials.clone(),
    };
    (0..dice.below(3)).map(|_| server(dice)).collect()
}

/// Returns the address of one of three peers.
fn address(dice: &mut Dice<'_>, now: Instant) -> PeerAddr {
    let interface = |nic: u8, dice: &mut Dice<'_>| InterfaceAddr {
        nic,
        local: [192, 168, dice.below(2) as u8, 9].into(),
        prefix: 24,
        external: dice.chance(0.7).then(|| remote(dice).ip()),
        listen: 5_000,
        mapped: dice.chance(0.5).then_some(5_001),
        nat: Nat::default(),
    };
    let contents = Contents {
        brokers: vec!["mqtt://192.0.2.10".parse().expect("a URL")],
        machine: None,
        interfaces: (0..dice.below(3) as u8).map(|nic| interface(nic, dice)).collect(),
        issued: clock(0, now).unix(now),
    };
    PeerAddr::sign(&identity(dice.below(3) as u8), contents).expect("an address within bounds")
}

fn socket_event(dice: &mut Dice<'_>, now: Instant) -> SocketEvent {
    let connection = ConnectionId(dice.below(24));
    let link = StunLink { from: local(dice), to: server(dice) };
    let (syn, from) = (dice.below(8) as u8, local(dice));
    let why = *dice
        .pick(&[io::ErrorKind::ConnectionRefused, io::ErrorKind::AddrInUse])
        .unwrap_or(&io::ErrorKind::Other);
    match dice.below(16) {
        0..3 => {
            let error = ListenError { kind: why, is_exhausted: false, reason: "in use".into() };
            let outcome = if dice.chance(0.8) { Ok(local(dice)) } else { Err(error) };
            SocketEvent::Listening { at: local(dice), outcome }
        }
        3 | 4 => SocketEvent::Accepted {
            connection: ConnectionId(dice.below(60) * 2 + 1),
            at: local(dice),
            remote: remote(dice),
        },
        5 => SocketEvent::Connected { connection, local: local(dice), remote: remote(dice) },
        6 => SocketEvent::DialFailed { connection, error: DialError::Refused },
        7 => SocketEvent::Bytes { connection, bytes: noise(dice) },
        8 => SocketEvent::Lost { connection },
        9 => SocketEvent::LinkUp { link, since: now },
        10 => SocketEvent::LinkBytes { link, bytes: noise(dice) },
        11 => SocketEvent::LinkDown { link, why: dice.chance(0.5).then_some(why) },
        12 => SocketEvent::Datagram { at: from, from: server(dice), bytes: noise(dice) },
        13 => SocketEvent::Unreachable { at: from, to: server(dice), why },
        14 => SocketEvent::SynExpired { syn, from, by: [198, 51, 100, 1].into() },
        _ if dice.chance(0.5) => SocketEvent::SynAnswered { syn, from },
        _ => SocketEvent::SynUnsent { syn, from },
    }
}

fn noise(dice: &mut Dice<'_>) -> Bytes {
    let length = dice.below(80) as usize;
    let mut bytes = vec![0; length];
    dice.fill(&mut bytes);
    bytes.into()
}

fn circuit_event(dice: &mut Dice<'_>) -> CircuitEvent {
    let connection = ConnectionId(dice.below(60) * 2 + 1);
    let (ours, theirs) = (local(dice), remote(dice));
    match dice.below(6) {
        0 => CircuitEvent::Up { connection, local: ours, remote: theirs },
        1 => CircuitEvent::Arrived { connection, local: ours, remote: theirs },
        2 => CircuitEvent::Dial(theirs),
        3 => CircuitEvent::Say(offer(dice)),
        4 => CircuitEvent::Failed(CircuitFailure::Silent),
        _ => CircuitEvent::Gone,
    }
}

fn channel_event(node: &Node, dice: &mut Dice<'_>, now: Instant) -> ChannelEvent {
    let ticket = dice.below(20);
    match dice.below(8) {
        0 => ChannelEvent::Up,
        1 => {
            let retry_in = Duration::from_secs(1);
            ChannelEvent::Down { reason: LinkError::Mute, retry_in }
        }
        2 => {
            let all = [Subscribers::Someone, Subscribers::Nobody, Subscribers::Unknown];
            ChannelEvent::Delivered { ticket, subscribers: *dice.pick(&all).unwrap_or(&all[0]) }
        }
        3 => ChannelEvent::Failed { ticket, reason: FailReason::NoAnswer },
        4 => ChannelEvent::Received { payload: noise(dice) },
        _ => ChannelEvent::Received { payload: signal(node, dice, now) },
    }
}

/// Returns what one of the peers says, sealed.
fn signal(node: &Node, dice: &mut Dice<'_>, now: Instant) -> Bytes {
    let sender = address(dice, now);
    let numbers = 0..3;
    let peer = numbers.map(identity).find(|peer| peer.id() == sender.id()).expect("one of the peers");
    let issued = clock(0, now).unix(now);
    let body = match dice.below(8) {
        0 => Body::DialMe(DialMe { plain: dice.chance(0.5) }),
        1 | 2 => Body::Punch(punch_offer(dice)),
        3 | 4 => Body::Relay(offer(dice)),
        5 => Body::AskAddr,
        6 => Body::Refuse(Refusal { reason: (dice.below(8) as u8).into() }),
        _ => Body::Bye,
    };
    let to = node.config().identity.id();
    let signal = Signal {
        from: peer.id(),
        to,
        attempt: attempt(dice),
        seq: dice.number() >> 1,
        issued,
        expires: issued.after(Duration::from_secs(30)),
        sender,
        body,
    };
    seal(&peer, &to, &signal, &mut dice.seed()).expect("a signal of the peer's own")
}

fn punch_offer(dice: &mut Dice<'_>) -> punch::Message {
    let address = remote(dice).ip();
    let side = Endpoint {
        address,
        ports: PortForecast::Fixed(vec![40_000, 50_000]),
        filtering: *dice
            .pick(&[Filtering::AddressDependent, Filtering::AddressAndPortDependent])
            .unwrap_or(&Filtering::AddressDependent),
        syn: None,
        low_ttl: false,
        sockets: dice.below(300) as u16,
    };
    let at = [192, 168, 1, 2 + dice.below(2) as u8].into();
    let offer = Offer { mode: Mode::Remote, at, side, error: dice.chance(0.5).then_some(30_000) };
    let (pair, round) = (dice.below(3) as u8, dice.below(2) as u8);
    punch::Message { pair, round, stamps: Stamps::default(), step: Step::Offer(offer) }
}

fn offer(dice: &mut Dice<'_>) -> RelayOffer {
    let lent = |dice: &mut Dice<'_>| (0..dice.below(3)).map(|_| remote(dice)).collect();
    RelayOffer {
        serial: dice.below(5) as u32,
        token: Token(dice.array()),
        datagrams: lent(dice),
        connections: lent(dice),
        has_more: dice.chance(0.5),
        refusal: None,
    }
}

/// The port listened on, where the configuration names one.
const PORT: u16 = 4_000;
