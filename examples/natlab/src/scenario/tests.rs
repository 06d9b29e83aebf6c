//! Tests of good and bad scenarios.

use std::time::Duration;

use p2p_core::nat::{Filtering, Mapping};
use p2p_core::sim::nat::{PortChoice, StepScope, Unsolicited};
use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Scenario {
    Scenario::parse("test.toml", text).unwrap()
}

/// Returns the line and the message of an error.
fn fault(text: &str) -> (usize, String) {
    match Scenario::parse("test.toml", text) {
        Err(ScenarioError::Line { line, problem, .. }) => (line, problem),
        other => panic!("{text}: {other:?}"),
    }
}

fn nat(scenario: &Scenario, router: usize) -> &NatConfig {
    match &scenario.routers[router].kind {
        RouterKind::Simulated { v4: Some(nat), .. } => nat,
        other => panic!("{other:?}"),
    }
}

const HOME: &str =
    "[net.home]\nv4 = \"192.168.1.0/24\"\n[host.a]\nnet = \"home\"\n[router.r]\ninside = \"home\"\n";

fn home_with(lines: &str) -> String {
    format!("{HOME}{lines}\n")
}

#[test]
fn two_homes_are_what_they_say() {
    let scenario = Scenario::short(
        "homes:port-restricted/equal+symmetric/independent/3?rtt=40ms&syn=rst,icmp&loss=0.19&rate=10M&range=5000-6000",
    )
    .unwrap();
    assert_eq!(scenario.hosts().collect::<Vec<_>>(), ["a", "b", "s"]);
    assert_eq!(scenario.external("nat-a"), ["45.2.0.1".parse::<Ipv4Addr>().unwrap()]);
    assert_eq!(scenario.addresses("b"), ["192.168.2.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(scenario.addresses("s").len(), 4);
    let (a, b) = (nat(&scenario, 0), nat(&scenario, 1));
    assert_eq!(
        (a.tcp.flow.mapping, a.tcp.flow.filtering),
        (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent)
    );
    assert_eq!(a.tcp.unsolicited, Unsolicited::Reset);
    assert!(matches!(b.tcp.unsolicited, Unsolicited::Icmp(_)));
    assert_eq!(b.udp.flow.ports, PortChoice::Step { by: 3, scope: StepScope::Global });
    assert_eq!((b.tcp.flow.range.first, b.tcp.flow.range.last), (5_000, 6_000));
    let cable = scenario.routers[0].cable.up;
    assert_eq!((cable.latency, cable.rate), (Duration::from_millis(10), Some(10_000_000)));
    assert!((cable.loss - 0.1).abs() < 1e-9, "two cables of 10 % lose 19 %");
}

#[test]
fn every_form_is_a_scenario_and_prints_as_one() {
    let forms = [
        "homes",
        "homes:open+linux",
        "homes:kernel-masquerade+kernel-fully-random?syn=own-rst",
        "homes?v6=firewall",
        "homes:symmetric-firewall+blocked",
        "homes:full-cone?hairpin=external-source",
        "lan",
        "lan:carrier/512",
        "cgn",
        "cgn:linux+carrier/64+open",
        "two-uplinks",
        "v6-firewall?syn=rst",
        "upnp",
        "upnp:symmetric?jitter=3ms&seed=9",
    ];
    for form in forms {
        let scenario = Scenario::short(form).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parse(scenario.source()), scenario, "{form}");
    }
}

#[test]
fn simulated_scenarios_can_be_played_in_virtual_time() {
    for form in ["homes", "lan", "cgn", "two-uplinks", "v6-firewall", "homes:open?v6=open"] {
        let lab = Scenario::short(form).unwrap().simulate().unwrap_or_else(|error| panic!("{form}: {error}"));
        assert!(lab.hosts.contains_key("a") && lab.hosts.contains_key("s"), "{form}");
    }
    let kernel = Scenario::short("upnp").unwrap().simulate().unwrap_err();
    assert_eq!(kernel, SimulateError::Kernel("nat-a".to_owned()));
    let isolated =
        parse("[net.island]\nv4 = \"10.0.0.0/24\"\n[host.a]\nnet = \"island\"\n").simulate().unwrap_err();
    assert_eq!(isolated, SimulateError::Isolated("island".to_owned()));
}

#[test]
fn addresses_are_given_out_around_those_that_are_named() {
    let scenario = parse(&home_with(
        "external = [\"45.9.9.9\", \"45.9.9.8\"]\npreset = \"carrier\"\n[host.b]\nnet = \"home\"\naddress = \"192.168.1.2\"",
    ));
    assert_eq!(scenario.addresses("a"), ["192.168.1.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(nat(&scenario, 0).external.len(), 2);
    let own = scenario.routers[0].inner.iter().map(Cidr::to_string).collect::<Vec<_>>();
    assert_eq!(own, ["192.168.1.1/24"]);
}

#[test]
fn a_nat_can_be_given_in_all_detail() {
    let scenario = parse(&home_with(
        "[router.r.nat]\nblock = 64\n[router.r.nat.tcp]\nunsolicited = \"reset\"\n[router.r.nat.tcp.flow]\nparity = true",
    ));
    let nat = nat(&scenario, 0);
    assert_eq!((nat.block, nat.tcp.unsolicited, nat.tcp.flow.parity), (Some(64), Unsolicited::Reset, true));
    assert_eq!(nat.external, ["45.2.0.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_impossible_scenario_names_its_line() {
    for (text, line, part) in [
        ("", 1, "there is no host"),
        ("[host.a]\nnet = \"internet\"\nx", 3, ""),
        ("[host.a]\nnte = \"internet\"", 2, "unknown key `nte`: did you mean `net`?"),
        ("[hots.a]\nnet = \"internet\"", 1, "did you mean `host`?"),
        ("[host.a]\nnet = \"interent\"", 2, "unknown network `interent`: did you mean `internet`?"),
        ("[host.a]\nnet = \"internet\"\nlink = { latncy = \"1ms\" }", 3, "did you mean `latency`?"),
        ("[host.a]\nnet = \"internet\"\nlink = { loss = 1.5 }", 3, "loss"),
        ("[host.a]\nnet = \"internet\"\nlink = { latency = \"5\" }", 3, "unit"),
        ("[host.a]\nnet = \"internet\"\nrouting = \"best\"", 3, "unknown value `best`"),
        ("[host.a]\naddress = \"45.1.0.1\"", 2, "has no `net`"),
        ("[host.a]\nrouting = \"metric\"", 1, "0 interfaces"),
        ("[host.a]\nnet = \"internet\"\naddress = \"nonsense\"", 3, "not an IP address"),
        ("[host.a]\nnet = \"internet\"\naddress = []", 3, "empty list"),
        ("[host.a]\nnet = \"internet\"\naddress = \"46.0.0.1\"", 3, "no address of the network `internet`"),
        ("[host.a]\nnet = \"internet\"\naddress = \"45.0.0.1\"", 3, "taken: by the gateway"),
        (
            "[host.a]\nnet = \"internet\"\naddress = \"45.1.0.1\"\n[host.b]\nnet = \"internet\"\naddress = \"45.1.0.1\"",
            6,
            "taken: by a",
        ),
        (
            "[net.n]\nv4 = \"10.0.0.0/24\"\n[host.a]\nnet = \"n\"\naddress = \"fd00::1\"",
            5,
            "has no IPv6 prefix",
        ),
        ("[net.n]\nv4 = \"fd00::/64\"\n[host.a]\nnet = \"n\"", 2, "not IPv4"),
        ("[net.n]\nv4 = \"10.0.0.1/24\"\n[host.a]\nnet = \"n\"", 2, "10.0.0.0/24 is meant"),
        ("[net.n]\nv4 = \"10.0.0.0/33\"\n[host.a]\nnet = \"n\"", 2, "not an address with a prefix"),
        ("[net.n]\n[host.a]\nnet = \"n\"", 1, "neither"),
        ("[net.N]\nv4 = \"10.0.0.0/24\"\n[host.a]\nnet = \"N\"", 1, "is no name"),
        ("[net.internet]\nv4 = \"10.0.0.0/24\"\n[host.a]\nnet = \"internet\"", 1, "[internet]"),
        (
            "[net.n]\nv4 = \"10.0.0.0/30\"\n[host.a]\nnet = \"n\"\n[host.b]\nnet = \"n\"\n[host.c]\nnet = \"n\"",
            7,
            "no address left",
        ),
        ("[net.n]\nv6 = \"fd00::/64\"\n[net.m]\nv6 = \"fd00::/32\"\n[host.a]\nnet = \"n\"", 3, "overlaps"),
    ] {
        let (found, problem) = fault(text);
        assert!(found == line && problem.contains(part), "{text}\n{found}: {problem}");
        assert!(!problem.contains('\n'), "{problem}");
    }
}

#[test]
fn an_impossible_router_names_its_line() {
    for (lines, line, part) in [
        ("preset = \"port-restricted/eqal\"", 7, "did you mean `equal`?"),
        ("preset = \"port-restricted/equal/3\"", 7, "has no value"),
        ("preset = \"symetric\"", 7, "did you mean `symmetric`?"),
        ("preset = \"symmetric/independent/0\"", 7, "step of zero"),
        ("preset = \"carrier/99999\"", 7, "no number"),
        ("preset = \"linux\"\nrange = \"6000-5000\"", 8, "empty"),
        ("preset = \"linux\"\nrange = \"0-5000\"", 7, "port 0"),
        ("range = \"5000-6000\"", 7, "needs a NAT"),
        ("preset = \"linux\"\nsyn = \"rts\"", 8, "did you mean `rst`?"),
        ("preset = \"linux\"\nnat = { }", 8, "keep one"),
        ("nat = { external = [\"45.2.0.1\"] }", 7, "`external` of the router"),
        ("nat = { tcp = { flow = { maping = 1 } } }", 7, "did you mean `mapping`?"),
        ("preset = \"linux\"\nexternal = [\"2a0f::5\"]", 8, "translates IPv4"),
        ("preset = \"linux\"\nexternal = [\"46.0.0.1\"]", 8, "no address of the network"),
        ("preset = \"linux\"\nv6 = \"firewall\"", 8, "no IPv6 prefix"),
        ("upnp = true", 7, "kernel"),
        ("kernel = \"masquerade\"\nhairpin = \"none\"", 8, "Linux itself"),
        ("kernel = \"masquerade\"\nsyn = \"rst-after-6s\"", 8, "at once or never"),
        ("outside = \"home\"", 6, "leads back"),
        ("[router.q]\ninside = \"home\"", 6, "two routers"),
        ("[router.q]\ninside = \"internet\"", 8, "outside of every router"),
        ("[host.r]\nnet = \"internet\"", 7, "name of a router"),
        ("[internet]\nv4 = \"192.168.0.0/16\"", 6, "overlaps"),
    ] {
        let text = home_with(lines);
        let (found, problem) = fault(&text);
        assert!(found == line && problem.contains(part), "{text}\n{found}: {problem}");
    }
}

#[test]
fn a_wrong_form_says_so_without_a_line() {
    for (form, part) in [
        ("home", "did you mean `homes`?"),
        ("homes:a+b+c", "at most 2"),
        ("homes:simetric", "symmetric"),
        ("homes?rtt", "no key=value"),
        ("homes?rtt=5", "unit"),
        ("homes?los=1", "did you mean `loss`?"),
        ("homes?loss=2", "loss"),
        ("homes?syn=\"", "quotes"),
        ("homes?rate=fast", "100M"),
        ("two-uplinks:open", "router"),
        ("lan:open", "router"),
        ("cgn:open", "router"),
    ] {
        let error = Scenario::load(form).unwrap_err();
        assert!(matches!(error, ScenarioError::Form { .. }), "{form}: {error:?}");
        assert!(error.to_string().contains(part), "{form}: {error}");
    }
    assert!(matches!(Scenario::load("missing.toml"), Err(ScenarioError::File { .. })));
}

proptest! {
    #[test]
    fn no_form_is_too_strange(text in "(homes|lan|cgn|upnp|two-uplinks)?[:?a-z0-9/+&=.-]{0,40}") {
        let _ = Scenario::short(&text);
    }

    #[test]
    fn no_file_is_too_strange(text in "(\\[(host|net|router|internet)\\.?[a-z]{0,2}\\]\n|[a-z0-9]{1,9} ?= ?(\"[^\"]{0,20}\"|[0-9.]{1,9}|\\{ ?\\}|\\[ ?\\])\n){0,9}") {
        let _ = Scenario::parse("test.toml", &text);
    }

    #[test]
    fn no_address_is_too_strange(text in "[0-9a-f.:/]{0,45}") {
        if let Ok(cidr) = text.parse::<Cidr>() {
            prop_assert_eq!(cidr.to_string().parse::<Cidr>(), Ok(cidr));
            prop_assert!(cidr.contains(cidr.network().ip()) && cidr.overlaps(&cidr));
            let _ = (cidr.nth(u32::MAX), cidr.is_usable(cidr.ip()));
        }
    }
}
