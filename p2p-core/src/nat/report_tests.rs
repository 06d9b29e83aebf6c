use super::*;
use crate::nat::observe::{Purpose, Seen, Stranger, SynProbe};
use crate::sim::epoch;
use crate::stun::dial_back::SynOutcome;
use crate::{Local, Mapped};

fn report(answers: &[(Transport, &str, Option<&str>)]) -> NatReport {
    let mapping = |(transport, server, mapped): &(_, _, _)| (*transport, Purpose::Mapping, *server, *mapped);
    report_of(&answers.iter().map(mapping).collect::<Vec<_>>())
}

fn report_of(answers: &[(Transport, Purpose, &str, Option<&str>)]) -> NatReport {
    let mut evidence = Evidence::default();
    let local: SocketAddr = "192.168.1.2:40000".parse().unwrap();
    let mut failures = BTreeMap::new();
    for (transport, purpose, server, mapped) in answers {
        let server = server.parse().unwrap();
        let index = evidence.asked(*transport, *purpose, Local(local), server, epoch()).unwrap();
        match mapped {
            Some(mapped) => {
                let at = epoch() + Duration::from_millis(40);
                evidence.answered(index, Seen { at, mapped: Mapped(mapped.parse().unwrap()) });
            }
            None => {
                failures.insert((server, *transport), Failure::NoConnection);
            }
        }
    }
    NatReport::new(local.ip(), evidence, &failures, &BTreeMap::new())
}

const ONE: &str = "198.51.100.1:40000";

#[test]
fn people_are_told_what_it_means() {
    let servers = ["192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.3:3478"];
    let mut answers: Vec<_> = servers.map(|server| (Transport::Tcp, server, Some(ONE))).into();
    answers.push((Transport::Tcp, "192.0.2.4:3478", Some("203.0.113.9:1")));
    answers.push((Transport::Tcp, "192.0.2.5:3478", None));
    answers.extend(servers.map(|server| (Transport::Udp, server, None)));
    let report = report(&answers);
    let text = report.to_string();
    for part in [
        "192.168.1.2: seen from outside as 198.51.100.1 (measured,",
        "TCP: port-restricted (assumed,",
        "UDP: blocked (measured,",
        "UDP is blocked here; TCP works.",
        "Not believed: 192.0.2.4:3478 over TCP",
        "No use: 192.0.2.5:3478 over TCP: no TCP connection to the server in time.",
        "If it is port-restricted (assumed, 4",
        "You can meet, with a plain dial: open, full-cone.",
        "symmetric random (99 %)",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains("You need a relay"), "{text}");
    assert_eq!(report.facts().udp.nat, Some(NatType::Blocked));
    assert_eq!(report.servers.iter().filter(|server| server.is_liar).count(), 1);
    assert_eq!(report.servers[0].fastest, Some(Duration::from_millis(40)));
}

#[test]
fn offline_is_said_plainly() {
    let text = report(&[]).to_string();
    assert!(text.contains("no server was asked"), "{text}");
    let silent = report(&[(Transport::Udp, "192.0.2.1:3478", None)]);
    assert!(!silent.is_online());
    assert!(silent.to_string().contains("offline, or everything is blocked"));
    assert_eq!(silent.family(), Family::V4);
}

#[test]
fn two_ports_of_one_address_are_two_servers() {
    let report =
        report(&[(Transport::Tcp, "192.0.2.1:1", None), (Transport::Tcp, "192.0.2.1:3478", Some(ONE))]);
    let [dead, good] = &report.servers[..] else { panic!("{report}") };
    assert_eq!((dead.answered, good.answered), (0, 1));
    assert!(dead.failure.is_some() && good.failure.is_none());
    assert_eq!(report.said(dead.server, Transport::Tcp), None);
    assert!(report.to_string().contains("it saw 192.168.1.2:40000 as 198.51.100.1:40000."), "{report}");
}

#[test]
fn what_the_other_port_of_a_server_answers_no_dead_one_has_answered() {
    use Purpose::{Mapping, OtherPort};
    let udp = Transport::Udp;
    let asked = [
        (udp, Mapping, "192.0.2.1:9", None),
        (udp, Mapping, "192.0.2.1:3478", Some(ONE)),
        (udp, OtherPort, "192.0.2.1:3479", Some(ONE)),
    ];
    let report = report_of(&asked);
    let counts: Vec<_> =
        report.servers.iter().map(|server| (server.server.port(), server.asked, server.answered)).collect();
    assert_eq!(counts, [(9, 1, 0), (3478, 1, 1)]);
    let text = report.to_string();
    assert!(text.contains("No use: 192.0.2.1:9 over UDP") && !text.contains("192.0.2.1:9 over UDP answered"));
}

#[test]
fn what_depends_on_a_guess_says_so() {
    let guessed = report(&[(Transport::Tcp, "192.0.2.1:3478", Some(ONE))]);
    let text = guessed.to_string();
    let [condition, meetings] =
        ["If it is port-restricted (assumed", "You can meet"].map(|line| text.find(line));
    assert!(condition.is_some() && condition < meetings, "{text}");
    // Nothing is translated and a stranger got through, which leaves no doubt.
    let servers = ["192.0.2.1:3478", "192.0.2.2:3478", "192.0.2.3:3478"];
    let open = report(&servers.map(|server| (Transport::Tcp, server, Some("192.168.1.2:40000"))));
    let mut evidence = open.evidence;
    let (helper, stranger) = ("192.0.2.4".parse().unwrap(), Stranger::OtherAddress);
    evidence.syn_probes.push(SynProbe { helper, stranger, outcome: SynOutcome::Connected });
    let known = NatReport::new(open.local, evidence, &BTreeMap::new(), &BTreeMap::new()).to_string();
    assert!(known.contains("You can meet") && !known.contains("If it is"), "{known}");
}
