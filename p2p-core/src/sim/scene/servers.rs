//! The servers of a scene.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Scene;
use crate::Family;
use crate::node::{
    BrokerConfig, NodeConfig, NtpServer as NtpName, StunServer as StunName, TurnServer as TurnName,
};
use crate::sim::broker::{Broker, BrokerServer};
use crate::sim::link::LinkConfig;
use crate::sim::node::Names;
use crate::sim::ntp::{NtpProgram, NtpServer};
use crate::sim::stun::StunServer;
use crate::sim::turn::{FaultyServerConfig, TurnHost};
use crate::sim::world::{Context, HostId, Program};
use crate::stun::Responder;
use crate::turn::Carrier;

/// The kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerKind {
    /// A message broker.
    Broker,
    /// A STUN server.
    Stun,
    /// A TURN server.
    Turn,
    /// An NTP server.
    Ntp,
}

/// The addresses of all servers, and the names of those that have several.
#[derive(Debug, Default)]
pub(super) struct Servers {
    count: u16,
    hosts: Vec<(ServerKind, HostId)>,
    brokers: Vec<String>,
    stun: Vec<SocketAddr>,
    turn: Vec<SocketAddr>,
    ntp: Vec<SocketAddr>,
    names: Names,
}

impl Servers {
    /// Names all of them in a configuration.
    pub(super) fn name_in(&self, config: &mut NodeConfig) {
        let text = |at: &SocketAddr| (at.ip().to_string(), at.port());
        config.brokers = self
            .brokers
            .iter()
            .map(|name| BrokerConfig::new(format!("mqtt://{name}").parse().expect("a URL of a name")))
            .collect();
        config.stun = self.stun.iter().map(text).map(|(host, port)| StunName { host, port }).collect();
        config.ntp = self.ntp.iter().map(text).map(|(host, port)| NtpName { host, port }).collect();
        let over = |carrier| self.turn.iter().map(move |at| turn_name(*at, carrier));
        config.turn = [Carrier::Udp, Carrier::Tcp].into_iter().flat_map(over).collect();
    }

    /// Adds the names of the servers to those a machine can look up.
    pub(super) fn tell_names(&self, names: &mut Names) {
        names.known.extend(self.names.known.clone());
    }
}

fn turn_name(at: SocketAddr, carrier: Carrier) -> TurnName {
    let (user, password) = (LOGIN.0.into(), LOGIN.1.into());
    TurnName { host: at.ip().to_string(), port: at.port(), carrier, user, password, ca_file: None }
}

impl Scene {
    /// Adds a broker with addresses of both families, a leg away from the middle of the Internet.
    ///
    /// # Panics
    /// Never: a new host has room for it.
    pub fn add_broker(&mut self) -> HostId {
        let (ips, seed) = (self.free_ips(), self.seed.fork("broker"));
        let name = format!("broker{}.test", self.servers.brokers.len());
        let broker = Broker::new(LinkConfig::default(), seed).expect("a link that can be");
        let host = self.serve(ServerKind::Broker, &ips, |context| {
            BrokerServer::bind(context.host, &ips.map(|ip| SocketAddr::new(ip, 1_883)), broker)
                .expect("a new host has all its ports")
        });
        self.servers.names.known.insert(name.clone(), ips.to_vec());
        self.servers.brokers.push(name);
        host
    }

    /// Adds a STUN server with two addresses of this family, which dials back when it is asked to.
    ///
    /// # Panics
    /// Never: a new host has room for it.
    pub fn add_stun(&mut self, family: Family) -> HostId {
        let [first, second] = [(); 2].map(|()| self.free_ip(family));
        let at = SocketAddr::new(first, 3_478);
        let responder = Responder::new(at).with_alternate(SocketAddr::new(second, 3_479)).with_dialling();
        let host = self.serve(ServerKind::Stun, &[first, second], |context| {
            StunServer::bind(context.host, responder).expect("a new host has all its ports")
        });
        self.servers.stun.push(at);
        host
    }

    /// Adds a TURN server that listens at an address of this family over UDP and TCP, and relays from both families.
    ///
    /// # Panics
    /// Never: a new host has room for it.
    pub fn add_turn(&mut self, family: Family) -> HostId {
        let (ips, seed) = (self.free_ips(), self.seed.fork("turn"));
        let ip = if family == Family::V4 { ips[0] } else { ips[1] };
        let at = SocketAddr::new(ip, 3_478);
        let mut config = FaultyServerConfig::new(at, LOGIN.0, LOGIN.1);
        config.relayer.relays = ips.to_vec();
        let host = self.serve(ServerKind::Turn, &ips, |context| {
            TurnHost::bind(context.host, config, seed, context.now).expect("a new host has all its ports")
        });
        self.servers.turn.push(at);
        host
    }

    /// Adds an NTP server that knows the true time, at an IPv4 address.
    ///
    /// # Panics
    /// Never: a new host has room for it.
    pub fn add_ntp(&mut self) -> HostId {
        let ip = self.free_ip(Family::V4);
        let at = SocketAddr::new(ip, 123);
        let host = self.serve(ServerKind::Ntp, &[ip], |context| {
            NtpProgram::bind(context.host, at, NtpServer::default()).expect("a new host has all its ports")
        });
        self.servers.ntp.push(at);
        host
    }

    /// Returns the hosts of all servers of a kind, in the order they were added.
    pub fn servers(&self, kind: ServerKind) -> Vec<HostId> {
        let all = self.servers.hosts.iter().filter(|(known, _)| *known == kind);
        all.map(|(_, host)| *host).collect()
    }

    /// Lets a script act on the first broker.
    ///
    /// # Panics
    /// When there is none, or it was killed.
    pub fn with_broker<T>(&mut self, act: impl FnOnce(&mut BrokerServer, &mut Context<'_>) -> T) -> T {
        let host = self.servers(ServerKind::Broker)[0];
        self.world.with_program(host, act).expect("a broker that runs")
    }

    /// Lets a server vanish: what is sent to it gets no answer.
    pub fn silence(&mut self, server: HostId) {
        self.world.detach(server);
    }

    /// Lets the program of a server end: its machine refuses whoever comes.
    pub fn kill(&mut self, server: HostId) {
        self.world.run(server, Nobody);
        self.world.with(server, |context| {
            let all: Vec<_> = context.host.tcp().sockets().collect();
            all.into_iter().for_each(|socket| context.host.tcp_mut().abort(socket));
            context.host.udp_close_all();
        });
    }

    fn serve<P: Program>(
        &mut self,
        kind: ServerKind,
        ips: &[IpAddr],
        make: impl FnOnce(&mut Context<'_>) -> P,
    ) -> HostId {
        let internet = self.world.internet();
        let host = self.world.add_host(match kind {
            ServerKind::Broker => "broker",
            ServerKind::Stun => "stun",
            ServerKind::Turn => "turn",
            ServerKind::Ntp => "ntp",
        });
        self.servers.hosts.push((kind, host));
        self.world.attach(host, internet, ips, self.leg).expect("addresses that nobody has");
        let program = self.world.with(host, make);
        self.world.run(host, program);
        self.known.extend(ips);
        host
    }

    fn free_ip(&mut self, family: Family) -> IpAddr {
        let ips = self.free_ips();
        if family == Family::V4 { ips[0] } else { ips[1] }
    }

    /// Returns an address of each family that nobody has.
    fn free_ips(&mut self) -> [IpAddr; 2] {
        self.servers.count += 1;
        let number = self.servers.count;
        let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(192, 0, 2, 0).to_bits() + u32::from(number));
        [v4.into(), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, number).into()]
    }
}

/// A program that has ended.
#[derive(Debug)]
struct Nobody;

impl Program for Nobody {
    fn handle_event(&mut self, _: crate::sim::host::HostEvent, _: &mut Context<'_>) {}
}

/// The user and the password at every TURN server.
const LOGIN: (&str, &str) = ("anna", "sesame");
