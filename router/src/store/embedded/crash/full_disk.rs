//! A full disk: nothing false is acknowledged, reads go on, and it goes on by itself when there is space.

use super::{all, append, device, entry, entry_of, noise, open, session};
use crate::inbox::{Appended, Session};
use crate::store::embedded::Embedded;
use crate::store::{Durability, Store, StoreError};
use hawser_proto::id::Position;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A small file system of its own.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    /// `None`: not permitted here.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let small = Self { folder };
        if run(
            &["mount", "-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"],
            small.path(),
        ) {
            return Some(small);
        }
        // A right that a container may not have, and that nothing can be installed for.
        eprintln!(
            "SKIPPED, the full disk was NOT tested: a tmpfs cannot be mounted here; run it as root"
        );
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn grow(&self, mebibytes: u32) {
        let size = format!("remount,size={mebibytes}m");
        assert!(run(&["mount", "-o", &size], self.path()), "it was mounted once");
    }

    fn store(&self) -> PathBuf {
        self.path().join("store")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run(&["umount", "-l"], self.path());
    }
}

fn run(command: &[&str], path: &Path) -> bool {
    let ended = Command::new(command[0]).args(&command[1..]).arg(path).status();
    ended.is_ok_and(|status| status.success())
}

/// Appends until something else than an OK comes; what was acknowledged is added.
async fn fill(
    store: &Embedded,
    body: &[u8],
    durability: Durability,
    acknowledged: &mut Vec<(String, Position)>,
) -> StoreError {
    loop {
        let id = format!("p{}", acknowledged.len());
        match append(store, &device("d"), entry_of(&id, body), durability).await {
            Ok((Appended::Stored { position, .. }, _)) => acknowledged.push((id, position)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return error,
        }
    }
}

/// Everything acknowledged is there, in its place. One more may be: answered with an error, done anyway.
async fn is_all_there(store: &Embedded, session: &Session, acknowledged: &[(String, Position)]) {
    let found = all(store, &device("d"), session).await;
    let extra = found.iter().filter(|one| !acknowledged.contains(one)).count();
    let there = acknowledged.iter().filter(|one| found.contains(one)).count();
    assert_eq!(there, acknowledged.len());
    assert!(extra <= 4, "{extra} that nobody knows of");
}

async fn a_disk_that_fills_up(small: &Small, body: &[u8], durability: Durability, grown: u32) {
    let store = open(&small.store());
    let mut changes = store.changes();
    let session = session(&store, &device("d"), 1).await;
    let mut acknowledged = Vec::new();
    let error = fill(&store, body, durability, &mut acknowledged).await;
    eprintln!("full after {} entries: {error:?}", acknowledged.len());
    // Refused for as long as it is full, and said so at once.
    let until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < until {
        let refused = append(&store, &device("d"), entry_of("x", body), durability).await;
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    is_all_there(&store, &session, &acknowledged).await;
    small.grow(grown);
    let until = Instant::now() + Duration::from_secs(20);
    let (next, reached) = loop {
        assert!(Instant::now() < until, "it takes writes again");
        match append(&store, &device("d"), entry("next", 10), Durability::Disk).await {
            Ok(done) => break done,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(reached, Durability::Disk);
    assert!(changes.has_changed().unwrap(), "whoever watches is told");
    assert!(*changes.borrow_and_update() > 0);
    let Appended::Stored { position, .. } = next else { panic!("{next:?}") };
    assert!(acknowledged.iter().all(|(_, at)| *at < position));
    acknowledged.push(("next".to_owned(), position));
    is_all_there(&store, &session, &acknowledged).await;
    store.close().await;
    let store = open(&small.store());
    is_all_there(&store, &session, &acknowledged).await;
    let repeated = append(&store, &device("d"), entry("next", 10), Durability::Disk).await;
    assert_eq!(repeated.unwrap().0, Appended::Repeated { position });
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_survived() {
    let Some(small) = Small::mount(24) else { return };
    a_disk_that_fills_up(&small, noise(50_000), Durability::Disk, 120).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_when_tables_are_written_is_survived() {
    // The journal, which is compressed, fits easily; what fails are the tables, in the engine's own threads.
    let Some(small) = Small::mount(24) else { return };
    a_disk_that_fills_up(&small, &vec![b'.'; 200_000], Durability::Memory, 240).await;
}
