//! A type name is defined once in the workspace.

use std::collections::{BTreeMap, BTreeSet};

use super::{CRATES, read};

/// Names that every machine and module may use for a thing of its own: they are read with the module's name.
const COMMON: [&str; 6] = ["Act", "Config", "Error", "Event", "Output", "State"];

/// Names that are defined more than once and have to go, and how often. This list only shrinks.
const KNOWN: [(&str, usize); 109] = [
    ("Answer", 2),
    ("Ask", 2),
    ("Body", 3),
    ("Bounds", 2),
    ("Broker", 3),
    ("Bucket", 2),
    ("Candidate", 2),
    ("Carried", 2),
    ("Channel", 2),
    ("Client", 2),
    ("ClientConfig", 2),
    ("Codec", 2),
    ("ConfigFault", 2),
    ("Connect", 2),
    ("Connection", 4),
    ("ConnectionId", 2),
    ("Connections", 2),
    ("Counters", 7),
    ("Credentials", 2),
    ("Datagrams", 2),
    ("Delivery", 2),
    ("End", 4),
    ("Ending", 2),
    ("Endpoint", 2),
    ("Failure", 5),
    ("Fate", 3),
    ("Frame", 2),
    ("FrameError", 2),
    ("Framer", 2),
    ("Hairpin", 2),
    ("Header", 2),
    ("Heard", 3),
    ("Holder", 2),
    ("Host", 2),
    ("Interface", 2),
    ("Key", 2),
    ("Kind", 2),
    ("Lane", 3),
    ("Last", 2),
    ("Layout", 2),
    ("Limits", 2),
    ("Line", 5),
    ("Link", 3),
    ("Login", 2),
    ("Meeting", 2),
    ("Memory", 2),
    ("Message", 4),
    ("Messages", 2),
    ("Nat", 3),
    ("NetworkView", 2),
    ("Next", 2),
    ("Node", 2),
    ("NtpServer", 2),
    ("Outcome", 2),
    ("Packet", 5),
    ("Pair", 2),
    ("Pending", 2),
    ("Phase", 3),
    ("Piece", 2),
    ("Plan", 2),
    ("Ports", 2),
    ("Punch", 2),
    ("Purpose", 3),
    ("Question", 2),
    ("Queue", 2),
    ("Race", 2),
    ("Rate", 2),
    ("Reader", 2),
    ("Refusal", 2),
    ("Refused", 2),
    ("Reply", 2),
    ("Report", 4),
    ("Request", 2),
    ("Rested", 2),
    ("Role", 2),
    ("Route", 3),
    ("Router", 2),
    ("RouterConfig", 2),
    ("Said", 2),
    ("Sample", 2),
    ("Scheme", 2),
    ("Seat", 2),
    ("Seen", 2),
    ("Sent", 2),
    ("Server", 3),
    ("ServerReport", 2),
    ("Session", 3),
    ("Side", 2),
    ("Socket", 3),
    ("SocketAct", 2),
    ("Step", 4),
    ("Stream", 4),
    ("StunServer", 3),
    ("Tally", 2),
    ("Told", 3),
    ("TooManyServers", 2),
    ("Track", 2),
    ("Transport", 2),
    ("Try", 2),
    ("TurnServer", 2),
    ("Value", 2),
    ("Verdict", 3),
    ("Vote", 2),
    ("Waiting", 2),
    ("Way", 4),
    ("Wire", 3),
    ("WireError", 2),
    ("Wish", 2),
    ("Word", 2),
];

#[test]
fn a_type_name_is_defined_once() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, _) in CRATES {
        for of in read(name) {
            for module in &of.modules {
                for defined in &module.types {
                    let place = format!("{name}/src/{}:{}", module.file, defined.line);
                    found.entry(defined.text.clone()).or_default().insert(place);
                }
            }
        }
    }
    found.retain(|name, places| places.len() > 1 && !COMMON.contains(&name.as_str()));
    let known: BTreeMap<_, _> = KNOWN.into_iter().collect();
    let names: BTreeSet<_> = found.keys().map(String::as_str).chain(known.keys().copied()).collect();
    let mut wrong = String::new();
    for name in names {
        let places = found.get(name).cloned().unwrap_or_default();
        let places: Vec<_> = places.into_iter().collect();
        let (now, before) = (places.len(), known.get(name).copied().unwrap_or(1));
        if now < before {
            wrong += &format!("{name}: {now} of {before} are left, shrink the list of known names\n");
        } else if now > before {
            wrong += &format!("{name} is defined {now} times: {}\n", places.join(", "));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
