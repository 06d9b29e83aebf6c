//! Runs every input of every corpus through its target, as it is and mutated.

use std::fs;
use std::path::{Path, PathBuf};

use p2p_core::Seed;
use p2p_fuzz::TARGETS;

/// The number of mutations of each input.
const MUTATIONS: usize = 60;
/// The targets whose inputs are whole stories, each of which takes milliseconds, and the number of mutations of each.
const STORIES: [(&str, usize); 3] = [("machines", 8), ("node_world", 4), ("turn_server", 8)];

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let dir = corpus(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Changes a few bytes at random places.
fn mutated(input: &[u8], dice: &mut Seed) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() as u64 + 1) as usize;
        match dice.below(4) {
            0 => bytes.insert(at, dice.number() as u8),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

#[test]
fn every_corpus_and_its_mutations() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no seeds");
        let mut dice = Seed::from_u64(inputs.len() as u64);
        let mutations = STORIES.iter().find(|(story, _)| *story == name).map_or(MUTATIONS, |(_, few)| *few);
        for input in inputs {
            target(&input);
            for _ in 0..mutations {
                target(&mutated(&input, &mut dice));
            }
        }
    }
}

#[test]
fn every_corpus_has_a_target() {
    let dirs = fs::read_dir(corpus("")).unwrap();
    for dir in dirs {
        let name = dir.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "corpus/{name} is nobody's");
    }
}
