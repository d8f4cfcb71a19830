//! Tries everything in `corpus/`, and what it was begun with, without a fuzzer.

use std::path::Path;

use super::*;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 12] = [
    ("nat", nat),
    ("fullnat", fullnat),
    ("across", across),
    ("snat", snat),
    ("dr", dr),
    ("tunnel", tunnel),
    ("local", local),
    ("icmp", icmp),
    ("parse", parse),
    ("commands", commands),
    ("requests", requests),
    ("configuration", configuration),
];

#[test]
fn what_fuzzing_begins_with_and_what_it_found() {
    for (name, target) in TARGETS {
        let seeds = seeds(name).unwrap();
        assert!(!seeds.is_empty(), "{name} begins with nothing");
        seeds.iter().for_each(|seed| target(seed));
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut found = std::fs::read_dir(&corpus).unwrap().map(|file| file.unwrap().path()).peekable();
        assert!(found.peek().is_some(), "{corpus:?} is empty");
        found.for_each(|file| target(&std::fs::read(file).unwrap()));
    }
}
