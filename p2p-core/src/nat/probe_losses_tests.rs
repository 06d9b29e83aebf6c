//! The verdicts of a probe with a small budget when packets are lost.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::nat::report::NatReport;
use crate::nat::{Delta, DeltaKind, NatType, PortRange};
use crate::sim::link::LinkConfig;
use crate::sim::nat::NatConfig;
use crate::sim::probing::ProbeScene;
use crate::sim::stun::StunServer;
use crate::stun::query::Server;
use crate::stun::{Responder, Transport};

const RTT: Duration = Duration::from_millis(118);
/// The packets that a node sends to one server at most.
const PACKETS: u32 = 35;
const PROBES: u64 = 200;
const PORTS: PortRange = PortRange { first: 1_024, last: u16::MAX };

/// Probes a symmetric NAT of this kind by one server that dials back, which has `addresses` addresses.
fn probed(delta: Delta, addresses: usize, loss: f64, number: u64) -> (NatReport, Duration) {
    let nat = NatConfig::of_type(NatType::Symmetric, delta, PORTS, "198.51.100.1".parse().unwrap());
    let mut scene = ProbeScene::new(nat, RTT, 4, number).unwrap();
    let ends: [SocketAddr; 2] = ["192.0.2.60:3478", "192.0.2.61:3479"].map(|end| end.parse().unwrap());
    let host = scene.world.add_host("server");
    let internet = scene.world.internet();
    let ips: [IpAddr; 2] = ends.map(|end| end.ip());
    scene.world.attach(host, internet, &ips, RTT / 4).unwrap();
    let responder = Responder::new(ends[0]).with_alternate(ends[1]).with_dialling();
    let stun = scene.world.with(host, |context| StunServer::bind(context.host, responder)).unwrap();
    scene.world.run(host, stun);
    scene.config.helpers.clear();
    let servers = ends[..addresses].iter().flat_map(|address| {
        [Transport::Udp, Transport::Tcp].map(|transport| Server { address: *address, transport })
    });
    scene.config.servers = servers.collect();
    scene.config.most_packets = PACKETS;
    scene.world.rewire(scene.host, 0, LinkConfig { loss, ..LinkConfig::default() }).unwrap();
    let (report, took, _) = scene.probed().unwrap();
    (report, took)
}

fn found(report: &NatReport) -> Option<Delta> {
    report.facts().tcp.delta
}

/// Returns the number of wrong or unknown deltas of [`PROBES`] probes, with 1 % lost each way.
fn missed(delta: Delta, addresses: usize) -> usize {
    let is_wrong = |number: &u64| found(&probed(delta, addresses, 0.01, *number).0) != Some(delta);
    (0..PROBES).filter(is_wrong).count()
}

#[test]
fn a_lost_syn_hides_no_delta() {
    for kind in [DeltaKind::Preserving, DeltaKind::Independent, DeltaKind::Dependent] {
        let missed = missed(Delta { kind, value: 1 }, 2);
        assert!(missed * 100 <= PROBES as usize * 2, "{kind}: {missed} of {PROBES}");
    }
}

/// A step of 1 that depends on the local port is not tested here. It looks like ports that are kept at a distance.
#[test]
fn one_address_of_one_server_shows_the_delta() {
    for (kind, value) in [(DeltaKind::Preserving, 1), (DeltaKind::Independent, 1), (DeltaKind::Dependent, 3)]
    {
        let delta = Delta { kind, value };
        for number in 0..20 {
            let (report, took) = probed(delta, 1, 0.0, number);
            assert_eq!(found(&report), Some(delta), "{report}");
            assert!(took <= RTT * 10, "{took:?}");
            assert!(
                report.servers.iter().map(|server| server.packets).sum::<u32>() <= PACKETS,
                "{report:#?}"
            );
        }
        let missed = missed(delta, 1);
        assert!(missed * 100 <= PROBES as usize * 10, "{kind}: {missed} of {PROBES}");
    }
}
