//! What a crash leaves: killed processes, torn journals, full disks.
//!
//! The everyday run is short; `HAWSER_CRASH_ROUNDS` makes it long, `HAWSER_CRASH_SEED` repeats one.

mod full_disk;
mod killed;
mod torn;

use super::{Embedded, Settings};
use crate::inbox::{Announced, Appended, Caps, Limits, Login, NewEntry, Owner, Priority, Session};
use crate::key::Key;
use crate::store::{Durability, Store, StoreError};
use bytes::Bytes;
use hawser_proto::id::{AppId, BootId, BusinessNo, NodeId, Position, SlotRef};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

const CHAT: BusinessNo = BusinessNo(1);
const CAPS: Caps = Caps { entries_max: 1_000_000, bytes_max: 1 << 40, drops_oldest: false };
const DAY_MS: u64 = 24 * 3_600_000;

fn device(id: &str) -> Key {
    Key::device(&AppId::new("crash").expect("a name"), id).expect("an id")
}

fn open(folder: &Path) -> Embedded {
    let call_timeout = Duration::from_secs(20);
    let mend_interval = Duration::from_millis(50);
    let settings = Settings { call_timeout, mend_interval, ..Settings::new(folder.to_owned()) };
    Embedded::open(settings).expect("it opens by itself")
}

fn entry(id: &str, bytes: usize) -> NewEntry {
    entry_of(id, noise(bytes))
}

fn entry_of(id: &str, body: &[u8]) -> NewEntry {
    NewEntry {
        push_id: Bytes::copy_from_slice(id.as_bytes()),
        digest: 1,
        expires_at_ms: super::writer::now_ms() + DAY_MS,
        collapse_key: Bytes::new(),
        priority: Priority::Normal,
        blob: Bytes::from([id.as_bytes(), b"|", body].concat()),
    }
}

/// Bytes that do not shrink when they are compressed.
fn noise(bytes: usize) -> &'static [u8] {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut dice = Dice(1);
        (0..256 * 1024).map(|_| dice.below(256) as u8).collect()
    });
    &NOISE[..bytes]
}

async fn append(
    store: &Embedded,
    key: &Key,
    new: NewEntry,
    durability: Durability,
) -> Result<(Appended, Durability), StoreError> {
    let now_ms = super::writer::now_ms();
    store.append(key, CHAT, new, CAPS, Some(durability), now_ms).await
}

/// Takes the device's session over.
async fn session(store: &Embedded, key: &Key, epoch: u64) -> Session {
    let node = NodeId::new("node").expect("a name");
    let owner = Owner { node, boot: BootId(1), at: SlotRef { slot: 1, generation: 1 } };
    let login = Login { owner: owner.clone(), instance: [1; 16], attempt: epoch, watchers: vec![] };
    let now_ms = super::writer::now_ms();
    let told = store.announce(key, epoch, login, vec![], false, now_ms).await.expect("a store");
    assert!(matches!(told, Announced::Bound { .. }), "{told:?}");
    Session { owner, epoch }
}

/// Ids and positions of everything in a device's inbox.
async fn all(store: &Embedded, key: &Key, session: &Session) -> Vec<(String, Position)> {
    let limits = Limits { entries_max: 500, bytes_max: 4 << 20 };
    let (mut after, mut found) = (Position::START, Vec::new());
    loop {
        let now_ms = super::writer::now_ms();
        let batch = store.fetch(key, session, CHAT, after, limits, now_ms).await;
        let batch = batch.expect("reads go on").expect("the owner");
        for item in &batch.items {
            assert!(item.position > after, "in order");
            after = item.position;
            if let Some(entry) = &item.entry {
                let text = entry.blob.split(|&byte| byte == b'|').next().unwrap_or_default();
                found.push((String::from_utf8(text.to_vec()).expect("an id"), item.position));
            }
        }
        if batch.items.is_empty() || after == batch.tail {
            return found;
        }
    }
}

/// Random numbers from a seed, printed.
struct Dice(u64);

impl Dice {
    fn new(test: &str) -> Self {
        let named = std::env::var("HAWSER_CRASH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = named.unwrap_or_else(rand::random::<u64>);
        eprintln!("{test}: HAWSER_CRASH_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn rounds(everyday: u64) -> u64 {
    let named = std::env::var("HAWSER_CRASH_ROUNDS").ok();
    named.and_then(|rounds| rounds.parse().ok()).unwrap_or(everyday)
}
