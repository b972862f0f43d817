//! A real device process, killed again and again while stored pushes come: what its handler wrote
//! down, what it acknowledged, and what it names when it comes back must agree.

use crate::node::{Node, soon};
use bytes::Bytes;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::limits::INBOX_WINDOW_ENTRIES;
use hawser_proto::params;
use hawser_sdk::{Builder, FileCursors};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const POINT: &str = "HAWSER_TEST_POINT";
const FOLDER: &str = "HAWSER_TEST_FOLDER";
/// Pushes in all, and how often the process is killed on the way.
const PUSHES: u64 = 600;
const KILLS: u64 = 20;

/// Not a test: the process that the test below kills. Alone it does nothing.
#[tokio::test]
async fn device() {
    let (Ok(point), Ok(folder)) = (std::env::var(POINT), std::env::var(FOLDER)) else { return };
    let path = Path::new(&folder).join("handled");
    let mut handled = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    let client = Builder::pinned("demo", "d", "token-1", [point.parse().unwrap()])
        .business("chat")
        .cursors(FileCursors::new(&folder))
        .build()
        .unwrap();
    let mut pushes = client.business("chat").pushes();
    client.start();
    while let Some(push) = pushes.next_push().await {
        let line = format!("{} {}\n", std::process::id(), push.position.unwrap().seq);
        handled.write_all(line.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn spawn(node: &Node, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::device"])
        .env(POINT, format!("tcp://{}:{}", node.point.host, node.point.port))
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn stored(seq: u64) -> NodeFrame {
    let push = params::Push {
        business: 5,
        term: 1,
        seq,
        prev_term: u64::from(seq > 1),
        prev_seq: seq - 1,
        ..Default::default()
    };
    NodeFrame::Push(push, Bytes::new())
}

/// One life of the process.
#[derive(Debug)]
struct Life {
    process: u32,
    cursor: u64,
    acked: u64,
    sent: u64,
}

#[tokio::test]
async fn a_device_that_is_killed_at_any_time_loses_nothing_and_repeats_only_what_was_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::tcp().await;
    let mut lives: Vec<Life> = Vec::new();
    let mut acked = 0;
    while acked < PUSHES {
        let number = lives.len() as u64;
        let mut process = spawn(&node, folder.path());
        let mut peer = node.accept().await;
        let cursor = peer.welcome().await.cursors.first().map_or(0, |cursor| cursor.seq);
        let mut life = Life { process: process.id(), cursor, acked: cursor, sent: cursor };
        // From within the first handler to several windows later, and at every phase of a batch.
        let lives_for = Duration::from_micros(1_000 + number * 37_717 % 90_000);
        let end = tokio::time::sleep(lives_for);
        tokio::pin!(end);
        while life.acked < PUSHES {
            while life.sent < PUSHES && life.sent < life.acked + INBOX_WINDOW_ENTRIES as u64 {
                life.sent += 1;
                peer.send(stored(life.sent)).await;
            }
            tokio::select! {
                frame = peer.next() => match frame {
                    Some(DeviceFrame::Ack(ack)) => life.acked = life.acked.max(ack.inboxes[0].seq),
                    other => panic!("{other:?}"),
                },
                () = &mut end, if number < KILLS => break,
            }
        }
        process.kill().unwrap(); // SIGKILL
        process.wait().unwrap();
        // What it had still said.
        while let Some(frame) = soon("the end of the link", peer.next()).await {
            if let DeviceFrame::Ack(ack) = frame {
                life.acked = life.acked.max(ack.inboxes[0].seq);
            }
        }
        acked = life.acked;
        lives.push(life);
    }

    let text = std::fs::read_to_string(folder.path().join("handled")).unwrap();
    let handled: Vec<(u32, u64)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(process, seq)| (process.parse().unwrap(), seq.parse().unwrap()))
        .collect();
    let all: BTreeSet<u64> = handled.iter().map(|(_, seq)| *seq).collect();
    assert!(all.iter().copied().eq(1..=PUSHES), "lost: {}", PUSHES as usize - all.len());
    for (life, next) in lives.iter().zip(lives.iter().skip(1)) {
        assert!(life.acked <= next.cursor, "acknowledged before it was kept: {life:?}, {next:?}");
    }
    for life in &lives {
        let mine = handled.iter().filter(|(process, _)| *process == life.process);
        let mine: Vec<u64> = mine.map(|(_, seq)| *seq).collect();
        let from_the_cursor = (life.cursor + 1..).take(mine.len());
        assert!(mine.iter().copied().eq(from_the_cursor), "{life:?}: {mine:?}");
    }
    let repeated = handled.len() - all.len();
    println!("{} lives, {repeated} handled twice", lives.len());
    assert!(repeated <= lives.len() * INBOX_WINDOW_ENTRIES, "{repeated}");
    assert!(lives.len() as u64 > KILLS / 2, "it was killed on the way: {}", lives.len());
}
