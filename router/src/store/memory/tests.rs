use super::*;
use crate::inbox::InboxState;
use crate::store::contract::desk::{BEGIN_MS, CHAT, WIDE, entry, login};
use crate::store::contract::{self, Dice, Harness};
use hawser_proto::id::AppId;
use std::collections::HashSet;
use std::sync::Arc;

struct Maps(Arc<InMemory>);

#[tonic::async_trait]
impl Harness for Maps {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    async fn restart(&mut self) {
        self.0.restart();
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_reference_keeps_the_rules() {
    contract::run_cases(&mut Maps(Arc::new(InMemory::new()))).await;
}

#[tokio::test]
async fn the_reference_is_its_own_model() {
    contract::run_model(&mut Maps(Arc::new(InMemory::new())), 5, 1_000).await;
}

/// A device that does as `WIRE.md` says, on a store that restarts, goes back in time and is late.
struct Device {
    store: InMemory,
    key: Key,
    now_ms: u64,
    attempt: u64,
    session: Session,
    /// Of the connection: the last position taken, and how far the node has written.
    received: Position,
    /// On the device's disk.
    cursor: Position,
    has: HashSet<String>,
}

impl Device {
    async fn new() -> Self {
        let store = InMemory::new();
        let key = Key::device(&AppId::new("demo").unwrap(), "d").unwrap();
        let session = Session { owner: login(0, 1, 0).owner, epoch: 0 };
        let (received, cursor) = (Position::START, Position::START);
        let (now_ms, has) = (BEGIN_MS, HashSet::new());
        let mut it = Self { store, key, now_ms, attempt: 0, session, received, cursor, has };
        it.login().await;
        it
    }

    async fn login(&mut self) {
        self.attempt += 1;
        let login = login(self.attempt as u32, 1, self.attempt);
        let owner = login.owner.clone();
        let cursors = vec![(CHAT, self.cursor)];
        let claimed = self.store.claim(&self.key, login, cursors, self.now_ms).await.unwrap();
        let Claimed::Bound { epoch, inboxes, .. } = claimed else { panic!("a newer attempt") };
        self.session = Session { owner, epoch };
        self.received = self.cursor;
        for inbox in inboxes {
            if inbox.state == InboxState::CursorRefused {
                self.received = inbox.floor;
                self.cursor = inbox.floor;
            }
        }
    }

    /// The store does not know the session: it went back.
    async fn announce(&mut self) {
        let epoch = self.session.epoch;
        let login = login(self.attempt as u32, 1, self.attempt);
        let sent = vec![(CHAT, self.received)];
        let told = self.store.announce(&self.key, epoch, login, sent, true, self.now_ms).await;
        match told.unwrap() {
            Announced::Bound { epoch, .. } => self.session.epoch = epoch,
            Announced::Superseded { .. } => self.login().await,
        }
    }

    async fn pull(&mut self, entries_max: u32) {
        let limits = Limits { entries_max, bytes_max: 10_000 };
        let (key, session) = (&self.key, &self.session);
        let fetched = self.store.fetch(key, session, CHAT, self.received, limits, self.now_ms);
        let Ok(batch) = fetched.await.unwrap() else { return self.announce().await };
        for item in batch.items {
            assert!(item.position > self.received && item.prev <= self.received);
            self.received = item.position;
            if let Some(entry) = item.entry {
                let id = String::from_utf8(entry.blob.to_vec()).unwrap().replace("body of ", "");
                assert!(self.has.insert(id.clone()) || item.redelivered, "{id} twice, unflagged");
            }
        }
    }

    async fn ack(&mut self) {
        self.cursor = self.received;
        let upto = vec![(CHAT, self.cursor)];
        let acked = self.store.ack(&self.key, &self.session, upto, self.now_ms).await.unwrap();
        if acked.is_err() {
            self.announce().await;
        }
    }
}

#[tokio::test]
async fn what_is_accepted_after_a_store_went_back_is_delivered() {
    let first = rand::random::<u64>();
    for seed in 0..1_500 {
        let mut dice = Dice(first.wrapping_add(seed));
        let mut it = Device::new().await;
        let (mut accepted, mut kept): (Vec<String>, _) = (Vec::new(), None);
        let mut latest_ms = 0;
        for step in 0..150 {
            it.now_ms += dice.below(2_000);
            latest_ms = latest_ms.max(it.now_ms);
            match dice.below(40) {
                0..18 => {
                    let id = format!("p{step}");
                    let new = entry(&id, it.now_ms);
                    let done = it.store.append(&it.key, CHAT, new, WIDE, None, it.now_ms).await;
                    assert!(matches!(done, Ok((Appended::Stored { .. }, _))), "{done:?}");
                    accepted.push(id);
                }
                18..28 => it.pull(1 + dice.below(6) as u32).await,
                28..32 => it.ack().await,
                32 | 33 => it.login().await,
                34 => {
                    let sent = vec![(CHAT, it.received)];
                    let session = it.session.clone();
                    it.store.release(&it.key, session, sent, false, it.now_ms).await.unwrap();
                    it.login().await;
                }
                35 => it.store.restart(),
                36 | 37 => kept = Some((it.store.snapshot(), accepted.clone())),
                38 => {
                    if let Some((held, then)) = kept.clone() {
                        it.store.forget_everything_after(held);
                        accepted = then;
                        it.now_ms = latest_ms;
                        // A clock that is behind as well is only survived by who speaks up in time.
                        if dice.below(2) == 0 {
                            it.now_ms -= dice.below(120_000);
                            it.ack().await;
                        }
                    }
                }
                _ => it.announce().await,
            }
        }
        for _ in 0..60 {
            it.pull(50).await;
        }
        let lost: Vec<_> = accepted.iter().filter(|id| !it.has.contains(*id)).collect();
        assert!(lost.is_empty(), "seed {}: {lost:?}", first.wrapping_add(seed));
        it.ack().await;
        let left = it.store.describe(&it.key, CHAT).await.unwrap().entries;
        assert_eq!(left, 0, "seed {}", first.wrapping_add(seed));
    }
}
