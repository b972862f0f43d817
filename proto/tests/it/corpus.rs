//! The seeds of the fuzz targets, made from the vectors, and the targets run over them on stable.

use crate::vectors::{self, Expect, Frame};
use crate::{check_file, fuzz, tokens};
use proptest::prelude::*;

type Target = (&'static str, fn(&[u8]), Vec<(String, Vec<u8>)>);

/// Seeds of all targets by name.
fn targets() -> Vec<Target> {
    let cases = vectors::all();
    let named = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let decode = cases.iter().map(|case| named(case.name, &case.bytes)).collect();
    let whole = cases.iter().filter(|case| case.bytes.len() >= 12);
    let parse = whole
        .map(|case| {
            let (head, rest) = case.bytes.split_at(12);
            named(case.name, &[&[head[3], head[6], head[7]], rest].concat())
        })
        .collect();
    vec![
        ("decode", fuzz::decode as fn(&[u8]), decode),
        ("parse", fuzz::parse, parse),
        ("stream_splits", fuzz::stream_splits, streams(&cases)),
        ("token", fuzz::token, texts()),
    ]
}

/// All good frames of a side glued together, alone and with each bad end.
fn streams(cases: &[vectors::Case]) -> Vec<(String, Vec<u8>)> {
    let glued = |wanted: fn(&Frame) -> bool| -> Vec<u8> {
        let frames = cases.iter().filter_map(|case| match &case.expect {
            Expect::Frames(frames) => Some(frames),
            _ => None,
        });
        frames.flatten().filter(|frame| wanted(frame)).flat_map(Frame::encode).collect()
    };
    let device = glued(|frame| matches!(frame, Frame::Device(_)));
    let node = glued(|frame| matches!(frame, Frame::Node(_)));
    let seeded = |seed: u64, stream: &[u8]| [&seed.to_le_bytes(), stream].concat();
    vec![
        ("device".to_owned(), seeded(1, &device)),
        ("node".to_owned(), seeded(2, &node)),
        ("magic".to_owned(), seeded(3, &[&device[..], b"GET / HTTP/1.1"].concat())),
        ("cut".to_owned(), seeded(4, &node[..node.len() - 1])),
    ]
}

fn texts() -> Vec<(String, Vec<u8>)> {
    let example = [("example".to_owned(), tokens::example().into_bytes())];
    let confused = tokens::confused().into_iter().enumerate();
    let confused = confused.map(|(at, text)| (format!("confused_{at}"), text.into_bytes()));
    example.into_iter().chain(confused).collect()
}

#[test]
fn the_corpus_is_made_from_the_vectors() {
    for (target, _, seeds) in targets() {
        assert!(seeds.len() >= 4, "{target} has seeds");
        for (name, bytes) in seeds {
            check_file(&format!("fuzz/corpus/{target}/{name}"), &bytes);
        }
    }
}

#[test]
fn every_seed_passes_its_target() {
    for (_, run, seeds) in targets() {
        for (_, bytes) in &seeds {
            run(bytes);
        }
    }
}

/// One change to a seed.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, b)| Change::Insert(at, b)),
        at().prop_map(Change::Remove),
        at().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match change {
        Change::Set(at, byte) => bytes[at.index(length)] = byte,
        Change::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Change::Insert(at, new) => {
            let at = at.index(length);
            bytes.splice(at..at, new);
        }
        Change::Remove(at) => {
            bytes.remove(at.index(length));
        }
        Change::Cut(at) => bytes.truncate(at.index(length)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_perturbed_seed_passes_its_target(
        target in 0usize..4,
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        thread_local!(static TARGETS: Vec<Target> = targets());
        TARGETS.with(|targets| {
            let (_, run, seeds) = &targets[target];
            let mut bytes = seeds[seed.index(seeds.len())].1.clone();
            for change in changes {
                apply(&mut bytes, change);
            }
            run(&bytes);
        });
    }

    #[test]
    fn random_bytes_pass_every_target(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::decode(&bytes);
        fuzz::parse(&bytes);
        fuzz::stream_splits(&bytes);
        fuzz::token(&bytes);
    }
}
