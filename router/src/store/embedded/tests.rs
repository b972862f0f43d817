#![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]

use super::*;
use crate::store::contract::{self, Harness};
use tempfile::TempDir;

struct Folder {
    store: Arc<Embedded>,
    folder: TempDir,
}

/// As in a test: nobody is in a hurry.
fn settings(folder: &std::path::Path) -> Settings {
    let call_timeout = Duration::from_secs(30);
    Settings { call_timeout, ..Settings::new(folder.to_owned()) }
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: Arc::new(Embedded::open(settings(folder.path())).unwrap()), folder }
    }
}

#[tonic::async_trait]
impl Harness for Folder {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn restart(&mut self) {
        self.store.close().await;
        self.store = Arc::new(Embedded::open(settings(self.folder.path())).unwrap());
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_folder_is_for_its_owner_alone_also_one_that_was_open() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mode = || folder.path().metadata().unwrap().permissions().mode() & 0o777;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let store = Embedded::open(settings(folder.path())).unwrap();
    assert_eq!(mode(), 0o700);
    store.close().await;
}

#[tokio::test]
async fn the_embedded_store_keeps_the_rules() {
    contract::run_cases(&mut Folder::new()).await;
}

#[tokio::test]
async fn the_embedded_store_answers_as_the_reference_does() {
    contract::run_model(&mut Folder::new(), 4, 1_500).await;
}

mod by_hand {
    use super::*;
    use crate::inbox::{Priority, Remembered};
    use crate::store::HistoryCaps;
    use crate::store::contract::desk::{CHAT, SHOP, WIDE, entry, login};
    use hawser_proto::id::AppId;

    fn device(id: &str) -> Key {
        Key::device(&AppId::new("demo").unwrap(), id).unwrap()
    }

    async fn push(
        store: &Embedded,
        key: &Key,
        id: &str,
        durability: Option<Durability>,
    ) -> (Appended, Durability) {
        let now_ms = writer::now_ms();
        let new = entry(id, now_ms);
        store.append(key, CHAT, new, WIDE, durability, now_ms).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_asked_for_is_reached_and_a_repetition_is_as_durable_as_it_says() {
        let house = Folder::new();
        let store = &house.store;
        let key = device("d");
        let (_, reached) = push(store, &key, "a", Some(Durability::Memory)).await;
        assert_eq!((reached, store.work_done().1), (Durability::Memory, 0));
        let (again, reached) = push(store, &key, "a", Some(Durability::Memory)).await;
        assert_eq!((reached, store.work_done().1), (Durability::Memory, 0));
        assert!(matches!(again, Appended::Repeated { .. }));
        // Asked for the disk, the repetition brings the first one there.
        let (_, reached) = push(store, &key, "a", Some(Durability::Disk)).await;
        assert_eq!((reached, store.work_done().1), (Durability::Disk, 1));
        let (_, reached) = push(store, &key, "a", Some(Durability::Disk)).await;
        assert_eq!((reached, store.work_done().1), (Durability::Disk, 1), "it is there already");
        for asked in [None, Some(Durability::Replica)] {
            let (_, reached) = push(store, &key, &format!("{asked:?}"), asked).await;
            assert_eq!(reached, Durability::Disk);
        }
        assert_eq!(store.work_done().1, 3);
        // Claims and acknowledgements sync nothing.
        let now_ms = writer::now_ms();
        store.claim(&key, login(1, 1, 1), vec![], now_ms).await.unwrap();
        assert_eq!(store.work_done().1, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn calls_that_wait_share_a_sync() {
        let house = Folder::new();
        let pushes = (0..500).map(|number| {
            let store = house.store.clone();
            tokio::spawn(async move {
                let key = device(&format!("d{}", number % 7));
                push(&store, &key, &number.to_string(), None).await
            })
        });
        let mut positions = std::collections::HashSet::new();
        for pushed in pushes.collect::<Vec<_>>() {
            let (Appended::Stored { position, .. }, Durability::Disk) = pushed.await.unwrap()
            else {
                panic!("stored on disk")
            };
            positions.insert(position);
        }
        let (_, syncs) = house.store.work_done();
        assert!(syncs < 250, "{syncs} syncs for 500 calls");
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused_and_nothing_is_done_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { calls_waiting_max: 3, ..settings(folder.path()) };
        let store = Arc::new(Embedded::open(settings).unwrap());
        // The writer is held up inside a call.
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let release = device("d");
        let stuck = tokio::spawn({
            let store = store.clone();
            async move {
                store
                    .write(0, move |_| {
                        let _ = held.recv();
                        Ok(())
                    })
                    .await
            }
        });
        let waiting: Vec<_> = (0..8)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move {
                    let now_ms = writer::now_ms();
                    let new = entry(&number.to_string(), now_ms);
                    store.append(&release, CHAT, new, WIDE, None, now_ms).await
                })
            })
            .collect();
        // Every one of them has been to the queue.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(go_on);
        stuck.await.unwrap().unwrap();
        let (mut done, mut refused) = (0u64, 0);
        for call in waiting {
            match call.await.unwrap() {
                Ok(_) => done += 1,
                Err(StoreError::Overloaded) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(refused >= 4 && done >= 2, "{done} done, {refused} refused");
        let described = store.describe(&release, CHAT).await.unwrap();
        assert_eq!(described.entries, done);
    }

    #[tokio::test]
    async fn a_call_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let call_timeout = Duration::from_millis(30);
        let store = Embedded::open(Settings { call_timeout, ..settings(folder.path()) }).unwrap();
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let stuck = store.write(0, move |_| {
            let _ = held.recv();
            Ok(())
        });
        assert!(matches!(stuck.await, Err(StoreError::Timeout)));
        drop(go_on);
    }

    #[tokio::test]
    async fn a_walk_lets_go_of_what_is_over_its_time_and_of_nothing_else() {
        let house = Folder::new();
        let store = &house.store;
        let now_ms = writer::now_ms();
        for number in 0..20 {
            let key = device(&format!("d{number:02}"));
            let lives_ms = if number % 2 == 0 { 60_000 } else { 3 * 24 * 3_600_000 };
            let new = NewEntry {
                expires_at_ms: now_ms + lives_ms,
                priority: Priority::High,
                collapse_key: bytes::Bytes::from_static(b"kind"),
                ..entry("a", now_ms)
            };
            store.append(&key, CHAT, new, WIDE, None, now_ms).await.unwrap();
            let claimed = store.claim(&key, login(1, 1, 1), vec![], now_ms).await.unwrap();
            if let (Claimed::Bound { epoch, .. }, true) = (claimed, number < 10) {
                let session = Session { owner: login(1, 1, 1).owner, epoch };
                assert!(store.release(&key, session, vec![], false, now_ms).await.unwrap());
            }
        }
        let count = |space| {
            let disk = store.shared.disk.read().clone().unwrap();
            disk.scan(space, Bound::Unbounded, &[], 10_000).unwrap().len()
        };
        assert_eq!((count(Space::Entries), count(Space::Shelves)), (20, 60));
        let walk = |at_ms: u64| {
            let disk = store.shared.disk.read().clone().unwrap();
            let mut walk = Walk::new(Duration::ZERO);
            for _ in 0..20 {
                let mut overlay = Overlay::new(&disk);
                walk.step(&disk, &mut overlay, at_ms).unwrap();
                overlay.commit().unwrap();
            }
        };
        walk(now_ms);
        assert_eq!((count(Space::Entries), count(Space::Shelves)), (20, 60));
        let day_ms = 24 * 3_600_000;
        walk(now_ms + day_ms);
        // Half the entries with their collapse keys, and the routes of those that were released.
        assert_eq!((count(Space::Entries), count(Space::Shelves)), (10, 40));
        walk(now_ms + 9 * day_ms);
        assert_eq!((count(Space::Entries), count(Space::Shelves)), (0, 10));
        walk(now_ms + 31 * day_ms);
        assert_eq!(count(Space::Shelves), 0);
    }

    #[tokio::test]
    async fn push_ids_over_their_time_leave_when_tables_are_merged() {
        let house = Folder::new();
        let store = &house.store;
        let long_ago = writer::now_ms() - 3_600_000;
        for number in 0..50 {
            let new = entry(&number.to_string(), long_ago);
            store.append(&device("d"), CHAT, new, WIDE, None, long_ago).await.unwrap();
        }
        push(store, &device("d"), "fresh", None).await;
        let disk = store.shared.disk.read().clone().unwrap();
        let count = || disk.scan(Space::Remembered, Bound::Unbounded, &[], 1_000).unwrap().len();
        assert_eq!(count(), 51);
        disk.space(Space::Remembered).rotate_memtable_and_wait().unwrap();
        disk.space(Space::Remembered).major_compact().unwrap();
        assert_eq!(count(), 1);
        let again = push(store, &device("d"), "fresh", None).await;
        assert!(matches!(again.0, Appended::Repeated { .. }));
    }

    #[tokio::test]
    async fn a_call_that_fails_takes_back_what_it_wrote_and_nothing_else() {
        let house = Folder::new();
        let store = &house.store;
        let key = device("d");
        let failed = store.write(0, move |step| -> Result<(), StoreError> {
            let mut shelf = step.device(&key);
            let now_ms = writer::now_ms();
            rules::append(&mut shelf, CHAT, entry("a", now_ms), WIDE, 9, now_ms)?;
            assert!(shelf.meta(CHAT)?.is_some());
            Err(StoreError::Value)
        });
        assert!(matches!(failed.await, Err(StoreError::Value)));
        assert_eq!(store.describe(&key, CHAT).await.unwrap(), Described::default());
    }

    #[tokio::test]
    async fn a_call_that_panics_fails_alone() {
        let house = Folder::new();
        let store = &house.store;
        let key = device("d");
        let broken = store.write(0, move |step| -> Result<(), StoreError> {
            let now_ms = writer::now_ms();
            rules::append(&mut step.device(&key), CHAT, entry("a", now_ms), WIDE, 9, now_ms)?;
            panic!("on purpose");
        });
        assert!(matches!(broken.await, Err(StoreError::Engine(_))));
        assert_eq!(store.describe(&key, CHAT).await.unwrap(), Described::default());
        assert!(matches!(push(store, &key, "a", None).await.0, Appended::Stored { .. }));
    }

    #[tokio::test]
    async fn a_walk_that_breaks_off_leaves_the_shelf_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let walk_interval = Duration::from_millis(20);
        let store = Embedded::open(Settings { walk_interval, ..settings(folder.path()) }).unwrap();
        let long_ago = writer::now_ms() - 2 * 24 * 3_600_000;
        let (broken, whole) = (device("a"), device("b"));
        let put = move |step: &mut Step<'_, '_>| {
            for (key, business) in [(broken, CHAT), (broken, SHOP), (whole, CHAT)] {
                let new = entry("a", long_ago);
                rules::append(&mut step.device(&key), business, new, WIDE, 9, long_ago)?;
            }
            // The second inbox of the first device cannot be read.
            let prefix = form::Prefix::new(Kind::Device, broken.as_bytes()).entries(SHOP);
            let found = step.overlay().scan(Space::Entries, Bound::Unbounded, &prefix, 9)?;
            for (entry, _) in found.iter().filter(|(entry, _)| entry.starts_with(&prefix)) {
                step.overlay().set(Space::Entries, entry.to_vec(), vec![0]);
            }
            Ok(())
        };
        store.write(0, put).await.unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while store.describe(&whole, CHAT).await.unwrap().entries > 0 {
            assert!(std::time::Instant::now() < until, "the walk goes on behind it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(store.describe(&broken, CHAT).await.unwrap().entries, 1);
        store.close().await;
    }

    #[tokio::test]
    async fn push_ids_of_a_groups_earlier_life_are_not_its_own() {
        let house = Folder::new();
        let store = &house.store;
        let group = Key::group(&AppId::new("demo").unwrap(), "g").unwrap();
        let now_ms = writer::now_ms();
        let history = Some(HistoryCaps { entries_max: 10, age_ms_max: 3_600_000 });
        let meta = |created_ms| GroupMeta { owner: 1, created_ms, history };
        let publish = async |of| {
            store.publish(&group, &of, entry("a", now_ms), WIDE, None, now_ms).await.unwrap().0
        };
        store.change_groups(vec![GroupChange::Put(group, meta(now_ms - 9), None)]).await.unwrap();
        let Appended::Stored { position, .. } = publish(meta(now_ms - 9)).await else {
            panic!("the first")
        };
        store.change_groups(vec![GroupChange::Delete(group, meta(now_ms - 9))]).await.unwrap();
        // As if there had been too many to forget at once.
        let left = form::Prefix::new(Kind::Group, group.as_bytes()).remembered(GROUP, b"a");
        let until_ms = now_ms + 60_000;
        let what = form::write_remembered(&Remembered { position, digest: 0, until_ms });
        let put = move |step: &mut Step<'_, '_>| {
            step.overlay().set(Space::Remembered, left, what);
            Ok(())
        };
        store.write(0, put).await.unwrap();
        let born_ms = position.term + 1;
        store.change_groups(vec![GroupChange::Put(group, meta(born_ms), None)]).await.unwrap();
        assert!(matches!(publish(meta(born_ms)).await, Appended::Stored { .. }));
        // Written anew, it is the same group.
        store.change_groups(vec![GroupChange::Put(group, meta(born_ms), None)]).await.unwrap();
        assert!(matches!(publish(meta(born_ms)).await, Appended::Repeated { .. }));
    }
}
