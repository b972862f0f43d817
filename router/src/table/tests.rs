//! The table's rules, one by one and under random interleavings.

use super::*;
use crate::legacy_store::memory::InMemory;
use hawser_proto::id::{AppId, BusinessNo};
use proptest::prelude::*;

const ALIVE: fn(&Owner) -> bool = |_| true;
const DEAD: fn(&Owner) -> bool = |_| false;

struct Fixture {
    store: Arc<InMemory>,
    table: Table,
}

impl Fixture {
    fn new() -> Self {
        let store = Arc::new(InMemory::default());
        let table = Table::new(store.clone(), Arc::default());
        Self { store, table }
    }

    /// A new process over what the store has.
    fn restart(&mut self) {
        self.table = Table::new(self.store.clone(), Arc::default());
    }

    fn flush(&self) {
        for shard in 0..SHARDS {
            if let Some(round) = self.table.take_writes(shard) {
                self.store.remember(&round.writes).unwrap();
                self.table.committed(&round);
            }
        }
    }

    fn claim(&self, device: &str, login: Login, now_ms: u64) -> Verdict {
        let mut verdict = None;
        let act = |said| verdict = Some(said);
        self.table.claim(&key(device), login, now_ms, ALIVE, act).unwrap();
        verdict.expect("a decided claim acts once")
    }

    fn announce(&self, device: &str, epoch: u64, login: Login, now_ms: u64) -> Verdict {
        let mut verdict = None;
        let act = |said| verdict = Some(said);
        self.table.announce(&key(device), epoch, login, now_ms, ALIVE, act).unwrap();
        verdict.expect("a decided announcement acts once")
    }

    fn route(&self, device: &str) -> Option<(Owner, u64)> {
        self.table.look(&key(device), |owner, route| (owner, route.epoch))
    }
}

fn key(device: &str) -> Key {
    Key::device(&AppId::new("demo").unwrap(), device).unwrap()
}

fn owner(life: u32, slot: u32) -> Owner {
    Owner { life: LifeNo(life), stamp: 1, at: SlotRef { slot, generation: 1 } }
}

fn login(owner: Owner, instance: u8, attempt: u64) -> Login {
    Login { owner, instance: [instance; 16], attempt, serves: Serves::new(&[1]) }
}

fn bound(epoch: u64, displaced: Option<(Owner, u64)>) -> Verdict {
    let displaced = displaced.map(|(owner, epoch)| Displaced { owner, epoch, live: true });
    Verdict::Bound { epoch, fresh: true, displaced }
}

#[test]
fn a_newer_login_takes_over_and_names_the_older_connection() {
    let it = Fixture::new();
    let (a, b) = (owner(1, 1), owner(2, 9));
    assert_eq!(it.claim("d", login(a, 7, 1), 1000), bound(1000, None));
    assert_eq!(it.claim("d", login(b, 7, 2), 1000), bound(1001, Some((a, 1000))));
    assert_eq!(it.route("d"), Some((b, 1001)));
    assert_eq!(it.claim("d", login(a, 8, 1), 900), bound(1002, Some((b, 1001))), "clock set back");
}

#[test]
fn an_old_login_that_comes_late_is_refused() {
    let it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 5), 1000);
    for attempt in [1, 4, 5] {
        assert_eq!(it.claim("d", login(owner(1, 2), 7, attempt), 1001), Verdict::Stale);
    }
    assert!(it.table.release(&key("d"), LifeNo(1), owner(1, 1).at, 1000, 1002));
    assert_eq!(it.claim("d", login(owner(1, 2), 7, 5), 1003), Verdict::Stale, "also after release");
    assert_eq!(
        it.claim("d", login(owner(1, 2), 9, 1), 1003),
        bound(1003, None),
        "another instance"
    );
}

#[test]
fn a_login_whose_answer_was_lost_gets_it_again() {
    let it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 5), 1000);
    let again = Verdict::Bound { epoch: 1000, fresh: false, displaced: None };
    assert_eq!(it.claim("d", login(owner(1, 1), 7, 5), 2000), again);
}

#[test]
fn a_release_compares_connection_and_epoch() {
    let it = Fixture::new();
    let (a, b) = (owner(1, 1), owner(2, 1));
    it.claim("d", login(a, 7, 1), 1000);
    it.claim("d", login(b, 7, 2), 1001);
    let release =
        |owner: Owner, epoch| it.table.release(&key("d"), owner.life, owner.at, epoch, 1002);
    assert!(!release(a, 1000), "it was superseded");
    assert!(!release(b, 1000), "another epoch");
    assert!(!release(a, 1001), "another connection");
    assert_eq!(it.route("d"), Some((b, 1001)));
    assert!(release(b, 1001));
    assert_eq!(it.route("d"), None);
    assert!(!release(b, 1001), "once");
}

#[test]
fn an_announcement_is_taken_in_place_unless_a_newer_session_is_known() {
    let mut it = Fixture::new();
    let (a, b) = (owner(1, 1), owner(2, 1));
    it.claim("d", login(a, 7, 1), 1000);
    let in_place = Verdict::Bound { epoch: 1000, fresh: false, displaced: None };
    assert_eq!(it.announce("d", 1000, login(a, 7, 1), 1500), in_place);
    it.claim("d", login(b, 7, 2), 2000);
    assert_eq!(it.announce("d", 1000, login(a, 7, 1), 2500), Verdict::Superseded { epoch: 2000 });
    it.flush();
    it.restart();
    assert_eq!(it.announce("d", 1000, login(a, 7, 1), 3000), Verdict::Superseded { epoch: 2000 });
    assert_eq!(it.announce("d", 2000, login(b, 7, 2), 3000), bound(2000, None));
    assert_eq!(
        it.claim("d", login(a, 7, 2), 3000),
        Verdict::Stale,
        "what it brought is remembered"
    );
}

#[test]
fn an_announcement_survives_a_store_that_lost_its_claim() {
    let mut it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 1), 5000);
    it.restart();
    assert_eq!(it.announce("d", 5000, login(owner(3, 1), 7, 1), 6000), bound(5000, None));
    let next = it.claim("d", login(owner(4, 1), 7, 2), 1);
    assert_eq!(
        next,
        bound(5001, Some((owner(3, 1), 5000))),
        "the epoch grows also with a bad clock"
    );
}

#[test]
fn epoch_and_attempt_survive_a_restart() {
    let mut it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 5), 9000);
    it.flush();
    it.restart();
    assert_eq!(it.route("d"), None, "no node has told of it yet");
    assert_eq!(it.claim("d", login(owner(2, 1), 7, 5), 1), Verdict::Stale);
    assert_eq!(it.claim("d", login(owner(2, 1), 7, 6), 1), bound(9001, None));
}

#[test]
fn a_sweep_frees_only_what_is_dead_and_stored() {
    let it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 1), 1000);
    let sweep = |now_ms, live: fn(&Owner) -> bool| {
        let mut dead = 0;
        (0..SHARDS).for_each(|shard| it.table.sweep(shard, now_ms, live, |_, _| dead += 1));
        dead
    };
    let in_memory = || it.table.shards.iter().map(|shard| shard.lock().routes.len()).sum();
    let check = |dead: usize, held: usize, swept: usize| {
        assert_eq!((swept, in_memory()), (dead, held));
    };
    check(0, 1, sweep(900_000, ALIVE));
    check(1, 1, sweep(1_000_000, DEAD));
    assert_eq!(it.route("d"), None);
    check(0, 1, sweep(1_100_000, DEAD));
    it.flush();
    check(0, 1, sweep(1_059_999, DEAD));
    check(0, 0, sweep(1_060_000, DEAD));
    assert_eq!(it.claim("d", login(owner(2, 1), 7, 1), 1), Verdict::Stale, "the store remembers");
}

#[test]
fn a_store_that_is_too_far_behind_refuses_logins() {
    let it = Fixture::new();
    it.table.writes_waiting.store(WRITES_WAITING_MAX, Ordering::Relaxed);
    let login = login(owner(1, 1), 7, 1);
    let refused = it.table.claim(&key("d"), login, 1, ALIVE, |_| panic!("not decided"));
    assert!(matches!(refused, Err(ClaimError::Behind)));
}

#[test]
fn what_needs_no_write_is_answered_however_far_behind_the_store_is() {
    let it = Fixture::new();
    let (a, b) = (owner(1, 1), owner(2, 1));
    it.claim("d", login(a, 7, 2), 1000);
    it.table.writes_waiting.store(WRITES_WAITING_MAX, Ordering::Relaxed);
    let in_place = Verdict::Bound { epoch: 1000, fresh: false, displaced: None };
    assert_eq!(it.announce("d", 1000, login(a, 7, 2), 1500), in_place);
    assert_eq!(it.announce("d", 999, login(b, 7, 1), 1500), Verdict::Superseded { epoch: 1000 });
    assert_eq!(it.claim("d", login(a, 7, 2), 1500), in_place, "its answer was lost");
    assert_eq!(it.claim("d", login(b, 7, 1), 1500), Verdict::Stale);
    for device in ["d", "new"] {
        let newer = login(b, 7, 3);
        let refused = it.table.announce(&key(device), 1001, newer, 1500, ALIVE, |_| panic!());
        assert!(matches!(refused, Err(ClaimError::Behind)), "{device}: this would be noted");
    }
    assert_eq!((it.route("d"), it.route("new")), (Some((a, 1000)), None));
}

#[test]
fn apps_do_not_meet() {
    let it = Fixture::new();
    it.claim("d", login(owner(1, 1), 7, 1), 1000);
    let other = Key::device(&AppId::new("demo2").unwrap(), "d").unwrap();
    assert!(it.table.look(&other, |_, _| ()).is_none());
    assert!(!it.table.release(&other, LifeNo(1), owner(1, 1).at, 1000, 1001));
    assert!(it.table.look(&key("d"), |_, route| route.serves.contains(BusinessNo(1))).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Claim {
        device: u8,
        life: u32,
        slot: u32,
        instance: u8,
        attempt: u64,
    },
    /// Announces the `pick`th of all sessions ever bound.
    Announce {
        pick: usize,
    },
    Release {
        pick: usize,
    },
    Tick {
        ms: u64,
    },
    Flush,
    Sweep,
    /// In good order: everything is flushed first.
    Restart,
    /// Without: what was not flushed is lost.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3u8, 0..3u32, 0..4u32, 0..2u8, 1..6u64).prop_map(
            |(device, life, slot, instance, attempt)| {
                Step::Claim { device, life, slot, instance, attempt }
            }
        ),
        4 => any::<usize>().prop_map(|pick| Step::Announce { pick }),
        4 => any::<usize>().prop_map(|pick| Step::Release { pick }),
        2 => (0..200_000u64).prop_map(|ms| Step::Tick { ms }),
        2 => Just(Step::Flush),
        2 => Just(Step::Sweep),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What the table should hold of one device.
#[derive(Clone, Copy, Debug, Default)]
struct Model {
    session: Option<(Owner, u64)>,
    epoch_max: u64,
    last_try: Option<(u8, u64)>,
    /// A crash may have lost the last try and brought back an older, higher one.
    unsure: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens in whatever order: one session per device is authoritative, it is the last one
    /// bound, epochs grow, only the owner of a route removes it, and late logins are refused.
    #[test]
    fn one_session_per_device_is_authoritative(steps in steps()) {
        let mut it = Fixture::new();
        let mut models = [Model::default(); 3];
        let mut sessions: Vec<(u8, Login, u8, u64)> = Vec::new();
        let mut now_ms = 1_000_000;
        let mut generation = 0;
        for step in steps {
            match step {
                Step::Claim { device, life, slot, instance, attempt } => {
                    generation += 2;
                    let mut owner = owner(life, slot);
                    owner.at.generation = generation;
                    let login = login(owner, instance, attempt);
                    let model = &mut models[usize::from(device)];
                    let late = model.last_try.is_some_and(|(i, a)| i == instance && attempt <= a);
                    match it.claim(&device.to_string(), login.clone(), now_ms) {
                        Verdict::Bound { epoch, fresh, displaced } => {
                            prop_assert!(!late, "a late login won");
                            prop_assert!(fresh && epoch > model.epoch_max);
                            prop_assert_eq!(displaced.map(|d| (d.owner, d.epoch)), model.session);
                            model.session = Some((owner, epoch));
                            model.epoch_max = epoch;
                            model.last_try = Some((instance, attempt));
                            model.unsure = false;
                            sessions.push((device, login, instance, epoch));
                        }
                        Verdict::Stale => {
                            prop_assert!(late || model.unsure, "a good login lost");
                        }
                        Verdict::Superseded { .. } => prop_assert!(false, "not for a claim"),
                    }
                }
                Step::Announce { pick } if !sessions.is_empty() => {
                    let (device, login, instance, epoch) = sessions[pick % sessions.len()].clone();
                    let model = &mut models[usize::from(device)];
                    let device = device.to_string();
                    match it.announce(&device, epoch, login.clone(), now_ms) {
                        Verdict::Bound { epoch: same, displaced, .. } => {
                            prop_assert_eq!(same, epoch);
                            prop_assert!(displaced.is_none_or(|d| d.epoch < epoch));
                            // After a crash the newest may have been forgotten, until it tells again.
                            if epoch == model.epoch_max {
                                model.last_try = Some((instance, login.attempt));
                            }
                            model.session = Some((login.owner, epoch));
                        }
                        Verdict::Superseded { epoch: newer } => prop_assert!(newer > epoch),
                        Verdict::Stale => prop_assert!(false, "not for an announcement"),
                    }
                }
                Step::Release { pick } if !sessions.is_empty() => {
                    let (device, login, _, epoch) = sessions[pick % sessions.len()].clone();
                    let model = &mut models[usize::from(device)];
                    let (life, at) = (login.owner.life, login.owner.at);
                    let key = key(&device.to_string());
                    let released = it.table.release(&key, life, at, epoch, now_ms);
                    prop_assert_eq!(released, model.session == Some((login.owner, epoch)));
                    if released {
                        model.session = None;
                    }
                }
                Step::Announce { .. } | Step::Release { .. } => {}
                Step::Tick { ms } => now_ms += ms,
                Step::Flush => it.flush(),
                Step::Sweep => {
                    for shard in 0..SHARDS {
                        it.table.sweep(shard, now_ms, ALIVE, |_, _| panic!("all live"));
                    }
                }
                Step::Restart | Step::Crash => {
                    if matches!(step, Step::Restart) {
                        it.flush();
                    }
                    it.restart();
                    now_ms += 1_000;
                    for model in &mut models {
                        model.session = None;
                        if matches!(step, Step::Crash) {
                            model.last_try = None;
                            model.unsure = true;
                        }
                    }
                }
            }
            for (device, model) in models.iter().enumerate() {
                prop_assert_eq!(it.route(&device.to_string()), model.session);
            }
        }
    }
}
