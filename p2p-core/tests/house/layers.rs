//! A room uses rooms of the lines above its own in the table of `ARCHITECTURE.md`, and nothing goes in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Crate;
use super::{architecture, read};

/// Circles among the files and folders of one folder that are known, and have to go: the folder and the names in it.
/// This list only shrinks.
const CIRCLES: [(&str, &str, &[&str]); 3] = [
    ("p2p-core", "sim", &["broker", "world"]),
    ("p2p-node", "pipe", &["bare", "sealed", "stream"]),
    ("p2p-node", "rendezvous/turn", &["relay", "serve", "stream"]),
];

/// The line in the table of each room of `p2p-core`.
fn table() -> BTreeMap<String, usize> {
    let text = architecture();
    let block = text.split("```layers\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut table = BTreeMap::new();
    for line in block.expect("a block called layers").lines() {
        let mut words = line.split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok()).expect("a number first");
        for room in words {
            assert_eq!(table.insert(room.to_owned(), number), None, "{room} is in the table twice");
        }
    }
    table
}

/// Returns what breaks the table, as `file:line: why`.
fn offences(core: &Crate, table: &BTreeMap<String, usize>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for used in core.uses() {
        let (from, to) = (&core.modules[used.from], &core.modules[used.to]);
        let (Some(room), Some(other)) = (from.path.first(), to.path.first()) else { continue };
        // The words of the first line may use each other; that there is no circle is checked below.
        let is_allowed =
            room == other || table[other] < table[room] || (table[room] == 0 && table[other] == 0);
        if !is_allowed {
            let (file, line, written) = (&from.file, used.line, &used.written);
            found.insert(format!(
                "{file}:{line}: `{written}`: {room} is in line {}, {other} in line {}",
                table[room], table[other]
            ));
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_room_uses_only_rooms_above_its_line() {
    let (core, table) = (&read("p2p-core")[0], table());
    let rooms: BTreeSet<_> = core.modules.iter().filter_map(|module| module.path.first().cloned()).collect();
    let listed: BTreeSet<_> = table.keys().cloned().collect();
    assert_eq!(rooms, listed, "the rooms of p2p-core/src and those in the table of ARCHITECTURE.md");
    let offences = offences(core, &table);
    assert!(offences.is_empty(), "below p2p-core/src:\n{}", offences.join("\n"));
}

/// Returns each circle among the files and folders of one folder: its path and their names. A file and the folder
/// of its name are one; what a folder has in common stands in its own file and is used by all in it.
fn circles(of: &Crate) -> BTreeMap<(String, BTreeSet<String>), Vec<String>> {
    let mut edges: BTreeMap<Vec<String>, BTreeMap<(String, String), String>> = BTreeMap::new();
    for used in of.uses() {
        let (from, to) = (&of.modules[used.from], &of.modules[used.to]);
        let common = from.path.iter().zip(&to.path).take_while(|(one, other)| one == other).count();
        let (Some(one), Some(other)) = (from.path.get(common), to.path.get(common)) else { continue };
        let folder = edges.entry(from.path[..common].to_vec()).or_default();
        let text = format!("{}:{}: `{}`", from.file, used.line, used.written);
        folder.entry((one.clone(), other.clone())).or_insert(text);
    }
    let mut circles = BTreeMap::new();
    for (folder, edges) in edges {
        let names: BTreeSet<_> = edges.keys().flat_map(|(one, other)| [one, other]).cloned().collect();
        let reach: BTreeMap<_, _> = names.iter().map(|name| (name, reached(name, &edges))).collect();
        for name in &names {
            let ring: BTreeSet<_> = names
                .iter()
                .filter(|other| reach[name].contains(*other) && reach[other].contains(name))
                .cloned()
                .collect();
            if ring.is_empty() {
                continue;
            }
            let inside = |edge: &&(String, String)| ring.contains(&edge.0) && ring.contains(&edge.1);
            let lines = edges.iter().filter(|(edge, _)| inside(edge)).map(|(_, text)| text.clone()).collect();
            circles.insert((folder.join("/"), ring), lines);
        }
    }
    circles
}

fn reached(from: &str, edges: &BTreeMap<(String, String), String>) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(next) = open.pop() {
        for (_, to) in edges.keys().filter(|edge| edge.0 == next) {
            if reached.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    reached
}

#[test]
fn no_files_or_folders_use_each_other_in_a_circle() {
    let mut found = BTreeMap::new();
    for name in ["p2p-core", "p2p-actors", "p2p-node"] {
        for of in read(name) {
            let of = circles(&of);
            found.extend(of.into_iter().map(|((folder, ring), lines)| ((name, folder, ring), lines)));
        }
    }
    let known: BTreeSet<_> = CIRCLES
        .iter()
        .map(|(name, folder, ring)| {
            (*name, (*folder).to_owned(), ring.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>())
        })
        .collect();
    for circle in &known {
        assert!(
            found.contains_key(circle),
            "{circle:?} is gone or smaller: shrink the list of known circles"
        );
    }
    found.retain(|circle, _| !known.contains(circle));
    let told = |(circle, lines): (&_, &Vec<String>)| format!("{circle:?}:\n    {}\n", lines.join("\n    "));
    assert!(found.is_empty(), "circles:\n{}", found.iter().map(told).collect::<String>());
}
