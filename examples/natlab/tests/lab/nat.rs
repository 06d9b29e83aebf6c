//! Tests that a real node behind the lab's NATs finds out their properties from coturn.

use std::net::SocketAddr;
use std::process::Command;

use natlab::survey::{Coturn, Kind, Seen, survey, survey_kind, survey_simulated};
use natlab::{Lab, Scenario};
use p2p_core::nat::observe::Purpose;
use p2p_core::nat::{Filtering, NatType, SynAnswer};
use p2p_core::stun::Transport;
use p2p_node::rendezvous::stun::{StunServer, StunServerConfig};

use crate::support::{can_run, each_of};

/// Tells whether there is a coturn. Without one it prints the reason, or panics where a skip is not allowed.
fn has_coturn() -> bool {
    let Err(error) = Command::new("turnserver").arg("--version").output() else { return true };
    let required = std::env::var("P2P_LAB").is_ok_and(|value| value == "require");
    assert!(!required, "P2P_LAB=require, but turnserver cannot be run: {error}");
    eprintln!("skipped: turnserver cannot be run ({error}); it comes with coturn");
    false
}

/// The labs at a time. A probe sends dozens of packets within milliseconds, and takes late ones for lost.
const AT_A_TIME: usize = 3;
/// The round trip, which is so long that a busy machine does not look like a slow network.
const RTT: &str = "200ms";
/// The number of times a NAT is measured, as results on a busy machine may differ.
const TRIES: usize = 8;

fn agrees(kind: &Kind) -> Result<(), String> {
    let simulated = survey_simulated(&kind.scenario(RTT, 1).unwrap()).unwrap();
    let (simulated, truth) = (Seen::from(&simulated), kind.truth());
    assert_eq!((simulated.tcp, simulated.udp), (truth, truth), "{kind}, simulated");
    let mut told = String::new();
    for _ in 0..TRIES {
        let surveyed = survey_kind(*kind, RTT, 1, 0).unwrap();
        let packets = surveyed.packets.unwrap();
        // A kernel sends again what is acknowledged late.
        if Seen::from(&*surveyed.report) == simulated && packets <= 40 {
            return Ok(());
        }
        told = format!("{kind}, {packets} packets:\n{}", surveyed.report);
    }
    Err(told)
}

/// Covers every mapping, filtering and delta, and each pair of mapping and filtering. `natlab nat` tests all of them
/// together, which takes a minute.
#[test]
fn a_real_node_sees_what_a_simulated_one_does() {
    if !can_run() || !has_coturn() {
        return;
    }
    let sample: Vec<Kind> = Kind::all()
        .into_iter()
        .enumerate()
        .filter(|(index, _)| *index < 3 || (index - 3) % 5 == (index - 3) / 5 % 5)
        .map(|(_, kind)| kind)
        .collect();
    assert_eq!(sample.len(), 12);
    let wrong: Vec<String> =
        each_of(AT_A_TIME, &sample, agrees).into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), sample.len(), wrong.join("\n"));
}

#[test]
fn half_of_the_servers_may_be_dead() {
    if !can_run() || !has_coturn() {
        return;
    }
    let kind = Kind::all()[3];
    let surveyed = survey_kind(kind, RTT, 1, 2).unwrap();
    let report = surveyed.report;
    let dead: Vec<_> = report.servers.iter().filter(|server| server.answered == 0).collect();
    assert_eq!(dead.len(), 4, "two over each transport: {report}");
    assert!(dead.iter().all(|server| server.failure.is_some()), "{report}");
    assert!(surveyed.udp_after.is_some() && surveyed.tcp_after.is_some());
    assert_eq!(report.tcp.nat.unwrap().value, NatType::FullCone, "{report}");
}

#[test]
fn questions_go_out_in_the_order_of_the_wire() {
    if !can_run() || !has_coturn() {
        return;
    }
    let scenario = Scenario::short("homes:symmetric/independent+open?rtt=100ms").unwrap();
    let lab = Lab::new(&scenario).unwrap();
    let coturn = Coturn::start(&lab).unwrap();
    let report = survey(&lab, &coturn.servers).unwrap().report;
    for transport in [Transport::Tcp, Transport::Udp] {
        let run = report.evidence.over(transport).filter(|seen| seen.purpose == Purpose::Consecutive);
        let ports: Vec<u16> = run.filter_map(|seen| seen.port()).collect();
        // The NAT gives out one port after the other, in the order in which it sees packets.
        assert!(ports.len() >= 2 && ports.is_sorted(), "{transport}: {ports:?}");
    }
    assert!(report.newest(Transport::Tcp).is_some());
}

/// Starts our own STUN server in host `s`, which dials back from both of its addresses. It ends with the returned
/// sender.
fn own_server(lab: &Lab) -> (SocketAddr, tokio::sync::oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (told, address) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = lab.host("s").unwrap().spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut config = StunServerConfig::new(["45.1.1.1:3478".parse().unwrap()]);
            config.alternate = vec!["45.1.1.2:3479".parse().unwrap()];
            let server = StunServer::start(config).await.unwrap();
            told.send(server.local_addrs()[0]).unwrap();
            // An error means that the test is over as well.
            let _ = stopped.await;
            server.shutdown().await;
        });
    });
    (address.recv().unwrap(), stop, serving.unwrap())
}

#[test]
fn how_a_nat_answers_an_unsolicited_syn_is_told_by_a_server_that_dials_back() {
    if !can_run() {
        return;
    }
    let of = |nat: &str, syn: &str| format!("homes:{nat}+open?rtt={RTT}&syn={syn}");
    let cases = [
        (
            of("port-restricted/equal", "silence"),
            Some(SynAnswer::Silence),
            Filtering::AddressAndPortDependent,
        ),
        (of("port-restricted/equal", "rst"), Some(SynAnswer::Reset), Filtering::AddressAndPortDependent),
        (of("symmetric/random", "icmp"), Some(SynAnswer::Icmp), Filtering::AddressAndPortDependent),
        (of("restricted/equal", "rst"), Some(SynAnswer::Reset), Filtering::AddressDependent),
        (of("full-cone/equal", "rst"), None, Filtering::EndpointIndependent),
        (of("linux", "icmp"), Some(SynAnswer::Icmp), Filtering::AddressAndPortDependent),
        // These are Linux itself.
        (of("kernel-masquerade", "icmp"), Some(SynAnswer::Icmp), Filtering::AddressAndPortDependent),
        (of("kernel-masquerade", "rst"), Some(SynAnswer::Reset), Filtering::AddressAndPortDependent),
    ];
    let told = each_of(AT_A_TIME, &cases, |(form, answer, filtering)| {
        let mut scenario = Scenario::short(form).unwrap();
        if *answer == Some(SynAnswer::Icmp) && form.contains(":symmetric") {
            // Most firewalls send this error, and Linux tells it to the dialler as a refusal.
            let nat = "nat = { tcp = { unsolicited = { icmp = \"PortUnreachable\" } } }";
            let text =
                scenario.source().replace("preset = \"symmetric/random\"", nat).replace("syn = \"icmp\"", "");
            scenario = Scenario::parse(form, &text).unwrap();
        }
        let mut wrong = String::new();
        for _ in 0..TRIES {
            let lab = Lab::new(&scenario).unwrap();
            let (server, stop, serving) = own_server(&lab);
            let report = survey(&lab, &[server]).unwrap().report;
            drop(stop);
            serving.join().unwrap();
            let is = (report.tcp.syn.map(|known| known.value), report.tcp.filtering.map(|known| known.value));
            if is == (*answer, Some(*filtering)) {
                return Ok(());
            }
            wrong = format!("{form}: {is:?}\n{report}");
        }
        Err(wrong)
    });
    let wrong: Vec<String> = told.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
