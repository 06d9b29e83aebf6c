//! Tests of the Linux presets against Linux itself, by the same script.

use std::time::Duration;

use natlab::Lab;
use natlab::crossing::{Ended, cross};

use crate::judge::{TcpVerdict, judge_tcp, judge_udp, keeps_port};
use crate::support::{can_run, each, lab};

/// All properties of a router that are compared.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    tcp: TcpVerdict,
    udp: [String; 2],
    /// True when a port is kept towards a stranger who has tried it before, over TCP and UDP.
    keeps_port: [bool; 2],
    /// The punches from and to the home behind it, at once and with a late start.
    punches: Vec<(Ended, Ended)>,
}

fn judge(nat: &str, syn: &str) -> Verdict {
    let fresh = |form: String| -> Lab { lab(&form) };
    let tcp = judge_tcp(&fresh(format!("homes:{nat}?rtt=4ms&syn={syn}")));
    let udp = judge_udp(&fresh(format!("homes:{nat}?rtt=4ms&syn={syn}")));
    let keeps_port = keeps_port(&fresh(format!("homes:{nat}?rtt=4ms&syn={syn}")));
    let mut punches = Vec::new();
    for form in [format!("homes:{nat}+port-restricted/equal"), format!("homes:port-restricted/equal+{nat}")] {
        for skew in [0, 300] {
            let lab = fresh(format!("{form}?rtt=200ms&syn={syn}"));
            let crossing = cross(&lab, Duration::from_millis(skew), Duration::from_millis(2_500)).unwrap();
            let (first, second) = (crossing.first.ended, crossing.second.ended);
            // The RST of a host whose dial is over has sequence number 0. Linux takes that for invalid or not by its
            // distance from the first SYN's number, which is chance. Only a valid one is translated.
            let second =
                if first == Ended::Unreachable && second == Ended::Silent { Ended::Refused } else { second };
            punches.push((first, second));
        }
    }
    Verdict { tcp, udp, keeps_port, punches }
}

#[test]
fn the_presets_behave_as_linux_does() {
    if !can_run() {
        return;
    }
    let mut all = Vec::new();
    for (preset, kernel) in [("linux", "kernel-masquerade"), ("linux-fully-random", "kernel-fully-random")] {
        for syn in ["silence", "rst", "icmp", "own-rst"] {
            all.push((preset, syn));
            all.push((kernel, syn));
        }
    }
    let verdicts = each(&all, |(nat, syn)| judge(nat, syn));
    let mut differing = Vec::new();
    for (pair, verdicts) in all.chunks(2).zip(verdicts.chunks(2)) {
        if verdicts[0] != verdicts[1] {
            differing.push(format!("{pair:?}:\n  {:?}\n  {:?}", verdicts[0], verdicts[1]));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    // Only a packet that the router answers itself makes its own port unusable.
    let keeps: Vec<_> = verdicts.iter().step_by(2).map(|verdict| verdict.keeps_port).take(4).collect();
    assert_eq!(keeps, [[true; 2], [true; 2], [true; 2], [true, false]]);
    // The agreement must not come from finding nothing: masquerade can be punched, fully-random cannot.
    assert_eq!(verdicts[0].punches[0], (Ended::Connected, Ended::Connected));
    assert_eq!(verdicts[8].punches[0], (Ended::Silent, Ended::Silent));
}
