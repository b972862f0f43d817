//! `kill -9`, again and again: a process of its own appends and says what was acknowledged; afterwards
//! all of it is there, no position was given twice, and push ids are known.

use super::{Dice, all, append, device, entry, open, rounds, session};
use crate::inbox::Appended;
use crate::store::{Durability, Store};
use hawser_proto::id::Position;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FOLDER: &str = "HAWSER_CRASH_CHILD_FOLDER";
const ROUND: &str = "HAWSER_CRASH_CHILD_ROUND";
/// The test below, as the test binary names it.
const CHILD: &str = "store::embedded::crash::killed::the_process_that_is_killed";
const DEVICES: u64 = 5;
const WRITERS: u64 = 12;

/// Appends until it is killed. Does nothing unless it was started for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_is_killed() {
    let (Ok(folder), Ok(round)) = (std::env::var(FOLDER), std::env::var(ROUND)) else { return };
    let store = Arc::new(open(Path::new(&folder)));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, round) = (store.clone(), round.clone());
        writers.spawn(async move {
            for number in 0u64.. {
                let id = format!("{round}-{writer}-{number}");
                let name = format!("d{}", (number * 7 + writer) % DEVICES);
                let durability =
                    if number % 3 == 0 { Durability::Memory } else { Durability::Disk };
                let bytes = if number % 50 == 0 { 9_000 } else { 100 };
                let done = append(&store, &device(&name), entry(&id, bytes), durability).await;
                if let Ok((Appended::Stored { position, .. }, reached)) = done {
                    let mut line = format!("ACK {name} {id} {position} {reached:?}\n");
                    line = line.replace('-', ":");
                    std::io::stdout().write_all(line.as_bytes()).expect("a pipe");
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("it goes on until the end");
    }
}

struct Acknowledged {
    device: String,
    id: String,
    position: Position,
    is_disk: bool,
}

/// Starts the child, lets it live for a while, kills it. What it has acknowledged.
fn kill_one(folder: &Path, round: u64, lives: Duration) -> Vec<Acknowledged> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).split(b'\n');
    let mut acknowledged = Vec::new();
    let mut killed_at = None;
    for line in output.by_ref() {
        let line = String::from_utf8(line.expect("a pipe")).expect("text");
        if let Some(one) = parse(&line) {
            acknowledged.push(one);
        }
        if acknowledged.is_empty() {
            continue;
        }
        // The clock runs from the first acknowledgement.
        if Instant::now() >= *killed_at.get_or_insert_with(|| Instant::now() + lives) {
            child.kill().expect("a process to kill");
            break;
        }
    }
    // What it said before it died still stands in the pipe; the last line may be cut.
    let rest =
        output.map_while(Result::ok).filter_map(|line| parse(&String::from_utf8(line).ok()?));
    acknowledged.extend(rest);
    child.wait().expect("an end");
    acknowledged
}

/// `None`: another line, or one that was cut.
fn parse(line: &str) -> Option<Acknowledged> {
    let mut words = line.strip_prefix("ACK ")?.split(' ');
    let (device, id) = (words.next()?.to_owned(), words.next()?.replace(':', "-"));
    let (term, seq) = words.next()?.split_once(':')?;
    let position = Position::new(term.parse().ok()?, seq.parse().ok()?);
    let is_disk = match words.next()? {
        "Disk" => true,
        "Memory" => false,
        _ => return None,
    };
    Some(Acknowledged { device, id, position, is_disk })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_no_position_is_given_twice_over_kills() {
    let mut dice = Dice::new("kills");
    let folder = tempfile::tempdir().unwrap();
    let mut highest: HashMap<String, Position> = HashMap::new();
    let (mut disk, mut memory, mut unsaid) = (0, 0, 0);
    for round in 0..rounds(10) {
        let lives = Duration::from_millis(5 + dice.below(120));
        let acknowledged = kill_one(folder.path(), round, lives);
        assert!(!acknowledged.is_empty(), "round {round}: it came up");
        let store = open(folder.path());
        let mut by_device: BTreeMap<&str, Vec<&Acknowledged>> = BTreeMap::new();
        for one in &acknowledged {
            by_device.entry(&one.device).or_default().push(one);
        }
        for (name, acknowledged) in by_device {
            let key = device(name);
            let session = session(&store, &key, round + 1).await;
            let found = all(&store, &key, &session).await;
            let stored: HashMap<&str, Position> =
                found.iter().map(|(id, at)| (id.as_str(), *at)).collect();
            assert_eq!(stored.len(), found.len(), "round {round}: an id stands twice");
            let before = highest.get(name).copied().unwrap_or_default();
            let mut given = HashSet::new();
            for one in &acknowledged {
                assert!(given.insert(one.position), "round {round}: {} twice", one.position);
                assert!(one.position > before, "round {round}: {} again", one.position);
                // A killed process takes nothing with it that the system had: memory or disk.
                let at = stored.get(one.id.as_str());
                assert_eq!(at, Some(&one.position), "round {round}: {}", one.id);
                *(if one.is_disk { &mut disk } else { &mut memory }) += 1;
            }
            unsaid += found.len() - acknowledged.len();
            let last = acknowledged[dice.below(acknowledged.len() as u64) as usize];
            let again = append(&store, &key, entry(&last.id, 1), Durability::Disk).await.unwrap();
            let repeated = Appended::Repeated { position: last.position };
            assert_eq!(again, (repeated, Durability::Disk), "round {round}: {}", last.id);
            let id = format!("after-{round}");
            let (fresh, _) = append(&store, &key, entry(&id, 1), Durability::Memory).await.unwrap();
            let Appended::Stored { position, .. } = fresh else { panic!("{fresh:?}") };
            assert!(found.iter().all(|(_, at)| *at < position));
            highest.insert(name.to_owned(), position);
            let now_ms = super::super::writer::now_ms();
            let upto = vec![(super::CHAT, position)];
            store.ack(&key, &session, upto, now_ms).await.unwrap().unwrap();
        }
        store.close().await;
        if round % 20 == 19 {
            eprintln!("kills: {} rounds, {disk} acknowledged on disk so far", round + 1);
        }
    }
    eprintln!("kills: {disk} acknowledged on disk, {memory} in memory, none lost; {unsaid} unsaid");
}
