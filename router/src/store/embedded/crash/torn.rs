//! A journal that ends anywhere and in anything: the store opens by itself, and what was synced before
//! the torn place is there.

use super::super::journal;
use super::{Dice, all, append, device, entry, open, rounds, session};
use crate::inbox::Appended;
use crate::store::{Durability, Store};
use hawser_proto::id::Position;
use std::fs;
use std::path::Path;

const ENTRIES: usize = 40;

/// A folder whose journal holds [`ENTRIES`] synced entries: where the journal ended after each.
async fn written(folder: &Path) -> Vec<(u64, Position)> {
    // Opened twice: the engine lays a new journal out in advance, and cuts it to size when it opens again.
    open(folder).close().await;
    let store = open(folder);
    let mut ends = Vec::new();
    for number in 0..ENTRIES {
        let bytes = if number % 8 == 7 { 6_000 } else { 80 };
        let new = entry(&number.to_string(), bytes);
        let done = append(&store, &device("d"), new, Durability::Disk).await.unwrap();
        let (Appended::Stored { position, .. }, Durability::Disk) = done else {
            panic!("{done:?}")
        };
        let path = journal::newest(folder).unwrap().expect("a journal");
        ends.push((journal::whole_bytes(&path).unwrap(), position));
    }
    store.close().await;
    ends
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Makes the journal bad from `at` on, in one of many ways.
fn tear(bytes: &mut Vec<u8>, at: usize, dice: &mut Dice) -> &'static str {
    let end = bytes.len();
    match dice.below(6) {
        0 => {
            bytes.truncate(at);
            "cut"
        }
        1 => {
            bytes.truncate(at);
            bytes.resize(at + 64 * 1024, 0);
            "zeros"
        }
        2 => {
            for byte in &mut bytes[at..] {
                *byte = dice.below(256) as u8;
            }
            "noise to the end"
        }
        3 => {
            let upto = (at + 1 + dice.below(600) as usize).min(end);
            for byte in &mut bytes[at..upto] {
                *byte = !*byte;
            }
            "some bytes turned, whole batches behind"
        }
        4 => {
            let upto = (at + 4_096).min(end);
            bytes[at..upto].fill(0);
            "a page that never reached the disk"
        }
        _ => {
            bytes.truncate(at);
            let noise = dice.below(9_000);
            bytes.extend((0..noise).map(|_| dice.below(5) as u8));
            "cut, and small numbers behind it"
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_journal_opens_by_itself_and_what_was_synced_before_is_there() {
    let mut dice = Dice::new("torn");
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good");
    let ends = written(&good).await;
    let path = journal::newest(&good).unwrap().expect("a journal");
    let name = path.file_name().unwrap();
    let bytes = fs::read(&path).unwrap();
    let first = ends[0].0;
    let last = ends[ENTRIES - 1].0;
    assert_eq!(last, bytes.len() as u64, "the batches are all there is");
    for round in 0..rounds(10) * 4 {
        // Every other one close to where a batch ends.
        let at = if round % 2 == 0 {
            first + dice.below(last - first)
        } else {
            let (end, _) = ends[dice.below(ENTRIES as u64) as usize];
            (end + dice.below(5)).saturating_sub(2).min(last - 1)
        };
        let torn = folder.path().join(format!("torn-{round}"));
        copy_folder(&good, &torn);
        let mut journal = bytes.clone();
        let how = tear(&mut journal, at as usize, &mut dice);
        fs::write(torn.join(name), &journal).unwrap();
        check(&torn, &ends, at, how).await;
        fs::remove_dir_all(&torn).unwrap();
    }
}

async fn check(folder: &Path, ends: &[(u64, Position)], at: u64, how: &str) {
    let store = open(folder);
    let session = session(&store, &device("d"), 1).await;
    let found = all(&store, &device("d"), &session).await;
    let whole: Vec<(String, Position)> =
        ends.iter().enumerate().map(|(number, (_, at))| (number.to_string(), *at)).collect();
    let least = ends.iter().filter(|(end, _)| *end <= at).count();
    assert!(found.len() >= least, "{how} at {at}: {} of {least}", found.len());
    assert_eq!(found, whole[..found.len()], "{how} at {at}: what is there is a beginning");
    // It goes on, above everything that was ever given out; and it opens again.
    let done = append(&store, &device("d"), entry("next", 10), Durability::Disk).await.unwrap();
    let Appended::Stored { position, .. } = done.0 else { panic!("{done:?}") };
    assert!(position > ends[ENTRIES - 1].1, "{how} at {at}: {position}");
    store.close().await;
    let store = open(folder);
    let again = all(&store, &device("d"), &session).await;
    assert_eq!(again.len(), found.len() + 1, "{how} at {at}");
    store.close().await;
}
