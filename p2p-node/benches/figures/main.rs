//! The figures this crate is held to, each printed beside its floor, measured in the same run.
//!
//! `cargo bench -p p2p-node --bench figures -- [NAME …]`; without a name, all of them. `relay` stands for all whose
//! names begin with it, and those need coturn. An unknown name has the known ones printed. Nothing is asserted, as
//! machines differ and a busy one is slow. Everything runs on loopback.

mod bind;
mod connect;
mod idle;
mod leak;
mod relay;
mod table;
mod throughput;
mod world;

#[path = "../coturn/mod.rs"]
mod coturn;
#[path = "../mosquitto/mod.rs"]
mod mosquitto;
#[path = "../raw/mod.rs"]
mod raw;
#[path = "../../../p2p-actors/tests/stories/mod.rs"]
mod stories;
#[path = "../../tests/turn/mod.rs"]
mod turn;

type Figure = (&'static str, fn());

const FIGURES: [Figure; 10] = [
    ("connect", connect::print),
    ("throughput", throughput::print),
    ("bind", bind::print),
    ("idle", idle::print),
    ("leak", leak::print),
    ("relay-datagrams", relay::datagrams::print),
    ("relay-connections", relay::connections::print),
    ("relay-idle", relay::idle::print),
    ("relay-restart", relay::restart::print),
    ("relay-minutes", relay::minutes::print),
];

fn main() {
    // `cargo bench` adds options of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let [child, rest @ ..] = &words[..]
        && child == idle::CHILD
    {
        return idle::be(rest);
    }
    if let [child, rest @ ..] = &words[..]
        && child == relay::idle::CHILD
    {
        return relay::idle::be(rest);
    }
    let is_meant = |name: &str, word: &str| {
        name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let is_known = |word: &str| FIGURES.iter().any(|(name, _)| is_meant(name, word));
    if let Some(unknown) = words.iter().find(|word| !is_known(word)) {
        let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        eprintln!("no figure is called {unknown:?}; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, print) in FIGURES {
        if words.is_empty() || words.iter().any(|word| is_meant(name, word)) {
            print();
            println!();
        }
    }
}
