//! The figures this crate is held to, each printed beside its floor, measured in the same run.
//!
//! `cargo bench -p p2p-node --bench figures -- [connect|throughput|bind|idle|leak]`; without a name, all of them.
//! Nothing is asserted: machines differ, and a busy one is slow. Everything runs on loopback.

mod bind;
mod connect;
mod idle;
mod leak;
mod table;
mod throughput;
mod world;

#[path = "../mosquitto/mod.rs"]
mod mosquitto;
#[path = "../../../p2p-actors/tests/stories/mod.rs"]
mod stories;

type Figure = (&'static str, fn());

const FIGURES: [Figure; 5] = [
    ("connect", connect::print),
    ("throughput", throughput::print),
    ("bind", bind::print),
    ("idle", idle::print),
    ("leak", leak::print),
];

fn main() {
    // `cargo bench` adds options of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let [child, rest @ ..] = &words[..]
        && child == idle::CHILD
    {
        return idle::be(rest);
    }
    let known = |word: &String| FIGURES.iter().any(|(name, _)| name == word);
    if let Some(unknown) = words.iter().find(|word| !known(word)) {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        eprintln!("no figure is called {unknown:?}; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, print) in FIGURES {
        if words.is_empty() || words.iter().any(|word| word == name) {
            print();
            println!();
        }
    }
}
