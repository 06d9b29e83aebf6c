//! Tests of what can be done in and with a lab.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use natlab::crossing::{Ended, cross};
use natlab::{Event, Lab, LabError, LabOptions, Scenario};
use p2p_core::sim::link::LinkConfig;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::{can_run, eventually, lab, natlab};

const PATIENCE: Duration = Duration::from_secs(3);

/// Connects one host to another. Returns the time it took, and the address that the other one sees.
fn connect(lab: &Lab, from: &str, to: &str, port: u16) -> (Duration, SocketAddr) {
    let (from, to) = (lab.host(from).unwrap(), lab.host(to).unwrap());
    let family = |ip: &&IpAddr| ip.is_ipv4() == from.address().is_ipv4();
    let end = SocketAddr::new(*to.addresses().iter().find(family).unwrap(), port);
    let listener = to.enter(|| TcpListener::bind(end)).unwrap().unwrap();
    let start = Instant::now();
    let _stream = from.enter(|| TcpStream::connect_timeout(&end, PATIENCE)).unwrap().unwrap();
    (start.elapsed(), listener.accept().unwrap().1)
}

#[test]
fn the_usual_cases_connect_to_the_server() {
    if !can_run() {
        return;
    }
    for (form, seen) in [
        ("homes?rtt=4ms", "45.2.0.1"),
        ("homes:open?rtt=4ms", "45.1.0.1"),
        ("homes:symmetric-firewall?rtt=4ms", "46.0.1.2"),
        ("lan?rtt=4ms", "45.2.0.1"),
        ("cgn?rtt=4ms", "45.2.0.1"),
        ("two-uplinks?rtt=4ms", "45.2.0.1"),
        ("v6-firewall?rtt=4ms", "2a0f:1::2"),
        ("upnp?rtt=4ms", "45.2.0.1"),
    ] {
        let (_, from) = connect(&lab(form), "a", "s", 80);
        assert_eq!(from.ip(), seen.parse::<IpAddr>().unwrap(), "{form}");
    }
}

#[test]
fn neighbours_see_each_other_directly() {
    if !can_run() {
        return;
    }
    let lab = lab("lan?rtt=400ms");
    let (took, from) = connect(&lab, "a", "b", 80);
    assert_eq!(from.ip(), lab.host("a").unwrap().address());
    assert!(took < Duration::from_millis(200), "not through the router: {took:?}");
}

#[test]
fn each_uplink_has_its_own_nat() {
    if !can_run() {
        return;
    }
    let lab = lab("two-uplinks?rtt=4ms");
    let (a, s) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let server = s.enter(|| UdpSocket::bind("0.0.0.0:9")).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    for (own, seen) in a.addresses().iter().zip(["45.2.0.1", "45.2.0.2"]) {
        let client = a.enter(|| UdpSocket::bind((*own, 0))).unwrap().unwrap();
        client.send_to(b"hello", (s.address(), 9)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(from.ip(), seen.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn v6_hosts_cross_their_firewalls() {
    if !can_run() {
        return;
    }
    let lab = lab("v6-firewall?rtt=40ms");
    let crossing = cross(&lab, Duration::ZERO, PATIENCE).unwrap();
    assert_eq!([crossing.first.ended, crossing.second.ended], [Ended::Connected; 2]);
}

#[test]
fn a_cable_can_be_changed_and_a_router_rebooted() {
    if !can_run() {
        return;
    }
    let mut lab = lab("homes?rtt=4ms");
    let (before, _) = connect(&lab, "a", "s", 81);
    lab.set_uplink("nat-a", LinkConfig::with_latency(Duration::from_millis(200))).unwrap();
    let (after, _) = connect(&lab, "a", "s", 82);
    assert!(
        before < Duration::from_millis(200) && after >= Duration::from_millis(400),
        "{before:?} {after:?}"
    );
    lab.set_uplink("nat-a", LinkConfig::default()).unwrap();

    // This mapping is one that a reboot forgets.
    let (a, s) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let client = a.enter(|| UdpSocket::bind("0.0.0.0:7000")).unwrap().unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let server = s.enter(|| UdpSocket::bind("0.0.0.0:9")).unwrap().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"hello", (s.address(), 9)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 8]).unwrap();
    server.send_to(b"hello", from).unwrap();
    assert_eq!(client.recv(&mut [0; 8]).unwrap(), 5);
    lab.reboot("nat-a").unwrap();
    server.send_to(b"hello", from).unwrap();
    assert_eq!(client.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn unknown_names_are_the_callers_fault() {
    if !can_run() {
        return;
    }
    let mut lab = lab("homes");
    assert!(matches!(lab.host("c"), Err(LabError::Unknown(_))));
    assert!(matches!(lab.set_link("a", 1, LinkConfig::default()), Err(LabError::Unknown(_))));
    assert!(matches!(lab.set_uplink("nat", LinkConfig::default()), Err(LabError::Unknown(_))));
    assert!(matches!(lab.reboot("nat"), Err(LabError::Unknown(_))));
    let impossible = LinkConfig { loss: 2.0, ..LinkConfig::default() };
    assert!(matches!(lab.set_link("a", 0, impossible), Err(LabError::Cable(_))));
}

#[test]
fn what_cannot_be_translated_is_dropped_and_counted() {
    if !can_run() {
        return;
    }
    let lab = lab("homes?rtt=4ms");
    let (a, s) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let to = SockAddr::from(SocketAddr::new(s.address(), 0));
    // This is garbage behind headers of all protocols, whole and cut short. The kernel makes the IP header.
    for protocol in [1, 6, 17, 47, 132] {
        let protocol = Protocol::from(protocol);
        let raw = a.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(protocol))).unwrap().unwrap();
        for length in [8, 19, 20, 60] {
            raw.send_to(&vec![0xff; length], &to).unwrap();
        }
    }
    // The next datagram is sent in fragments.
    let fragmented = a.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    fragmented.send_to(&[0; 4_000], (s.address(), 9)).unwrap();
    let malformed = eventually("all are counted", || {
        let report = lab.report().unwrap();
        let count = |what: &str| {
            let matching = report.dropped.iter().filter(|(why, _)| why.starts_with(what));
            matching.map(|(_, number)| number).sum::<u64>()
        };
        let all = (count("malformed"), count("malformed: fragments"));
        (all.0 >= 15 && all.1 >= 3).then_some(all)
    });
    println!("{malformed:?}");
    assert!(lab.events().iter().any(|timed| matches!(&timed.event,
        Event::Dropped { place, why, .. } if place == "nat-a" && why.contains("IP protocol 132"))));
    // Traffic goes on.
    connect(&lab, "a", "s", 80);
}

#[test]
fn a_used_up_hop_limit_is_told() {
    if !can_run() {
        return;
    }
    let lab = lab("homes:port-restricted/equal+open?rtt=4ms");
    let b = SockAddr::from(SocketAddr::new(lab.host("b").unwrap().address(), 80));
    // The NAT and the Internet are two hops, and then the host answers.
    for (ttl, ended) in [
        (1, io::ErrorKind::HostUnreachable),
        (2, io::ErrorKind::HostUnreachable),
        (3, io::ErrorKind::ConnectionRefused),
    ] {
        let dial = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_ttl_v4(ttl)?;
            socket.connect_timeout(&b, PATIENCE)
        };
        let error = lab.host("a").unwrap().enter(dial).unwrap().unwrap_err();
        assert_eq!(error.kind(), ended, "{ttl}: {error}");
    }
}

#[test]
fn there_is_no_way_out() {
    if !can_run() {
        return;
    }
    let lab = lab("homes:open?rtt=4ms");
    let a = lab.host("a").unwrap();
    let devices = a.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
    let names: Vec<&str> = devices.lines().skip(2).filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names.iter().map(|name| name.trim()).collect::<Vec<_>>(), ["lo", "eth0"]);
    let socket = a.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(b"hello", (Ipv4Addr::new(192, 0, 2, 1), 9)).unwrap();
    eventually("it has nowhere to go", || lab.report().unwrap().dropped.get("no route").copied());
}

#[test]
fn captures_and_events_can_be_read() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.json");
    let options =
        LabOptions { pcap: Some(folder.path().to_owned()), events: Some(events.clone()), offload: false };
    let scenario = Scenario::short("homes?rtt=4ms").unwrap();
    let lab = Lab::with_options(&scenario, &options).unwrap();
    connect(&lab, "a", "s", 80);
    lab.report().unwrap();
    drop(lab);
    for (device, source) in [("a-eth0", "192.168.1.2"), ("s-eth0", "45.2.0.1")] {
        let mut tcpdump = std::process::Command::new("tcpdump");
        tcpdump.arg("-nr").arg(folder.path().join(format!("{device}.pcap")));
        let output = tcpdump.output().expect("tcpdump");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let syn =
            text.lines().find(|line| line.contains("Flags [S],")).unwrap_or_else(|| panic!("{output:?}"));
        assert!(syn.contains(&format!("IP {source}.")), "{syn}");
    }
    let log = fs::read_to_string(events).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.first().unwrap()["event"], "started");
    assert_eq!(lines.last().unwrap()["event"], "stopped");
}

#[test]
fn exec_enters_a_running_lab() {
    if !can_run() {
        return;
    }
    let lab = lab("homes");
    let mut exec = natlab();
    exec.args(["exec", "--lab", lab.id(), "s", "--", "cat", "/proc/net/fib_trie"]);
    let output = exec.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("45.1.1.2"), "{output:?}");
    let mut nobody = natlab();
    nobody.args(["exec", "--lab", lab.id(), "nobody", "--", "true"]);
    assert!(!nobody.status().unwrap().success());
}

#[test]
fn run_passes_on_the_exit_code_and_the_addresses() {
    if !can_run() {
        return;
    }
    let mut run = natlab();
    run.args(["run", "homes", "--host", "b", "--also", "s=exec sleep 1000", "--", "sh", "-c"]);
    let output = run.arg("echo $NATLAB_A $NATLAB_B $NATLAB_S; exit 7").output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "192.168.1.2 192.168.2.2 45.1.1.1\n");
}

#[test]
fn an_interface_may_go_down_and_away() {
    if !can_run() {
        return;
    }
    let lab = lab("homes?rtt=4ms");
    let ip = |arguments: &str| {
        let mut ip = lab.host("a").unwrap().command("ip").unwrap();
        assert!(ip.args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
    };
    connect(&lab, "a", "s", 80);
    ip("link set eth0 down");
    connect(&lab, "b", "s", 81);
    // The kernel forgets the routes with the interface.
    ip("link set eth0 up");
    ip("route add default via 192.168.1.1");
    connect(&lab, "a", "s", 82);
    ip("link delete eth0");
    eventually("the lab has seen it", || {
        let gone = |event: &Event| matches!(event, Event::Gone { place, .. } if place == "a/eth0");
        lab.events().iter().any(|timed| gone(&timed.event)).then_some(())
    });
    connect(&lab, "b", "s", 83);
}
