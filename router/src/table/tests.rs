//! The table's rules, one by one and under random interleavings.

use super::*;
use hawser_proto::id::{AppId, BusinessNo};
use proptest::prelude::*;

fn key(device: &str) -> Key {
    Key::device(&AppId::new("demo").unwrap(), device).unwrap()
}

fn owner(life: u32, slot: u32) -> Owner {
    Owner { life: LifeNo(life), stamp: 1, at: SlotRef { slot, generation: 1 } }
}

fn session(owner: Owner, epoch: u64) -> Session {
    Session { owner, epoch, serves: Serves::new(&[1]), since_ms: epoch }
}

fn route(table: &Table, device: &str) -> Option<(Owner, u64)> {
    table.look(&key(device), |owner, route| (owner, route.epoch))
}

const FRESH: Bound = Bound::Taken { fresh: true, replaced: None };
const AGAIN: Bound = Bound::Taken { fresh: false, replaced: None };

#[test]
fn a_newer_session_takes_over_and_names_the_older_connection() {
    let it = Table::default();
    let (a, b) = (owner(1, 1), owner(2, 9));
    assert_eq!(it.bind(&key("d"), session(a, 1000)), FRESH);
    let replaced = Some((a, 1000));
    assert_eq!(it.bind(&key("d"), session(b, 1001)), Bound::Taken { fresh: true, replaced });
    assert_eq!(it.bind(&key("d"), session(a, 1000)), Bound::Behind { epoch: 1001 }, "it came late");
    assert_eq!(route(&it, "d"), Some((b, 1001)));
}

#[test]
fn a_session_told_of_again_stays_with_a_new_stamp() {
    let it = Table::default();
    let a = owner(1, 1);
    it.bind(&key("d"), session(a, 1000));
    let later = Session { since_ms: 9000, ..session(Owner { stamp: 2, ..a }, 1000) };
    assert_eq!(it.bind(&key("d"), later), AGAIN);
    let (stamp, at_ms) = it.look(&key("d"), |owner, route| (owner.stamp, route.at_ms)).unwrap();
    assert_eq!((stamp, at_ms), (2, 1000));
}

#[test]
fn a_session_that_has_not_heard_of_its_new_epoch_is_alive() {
    let it = Table::default();
    let (a, b) = (owner(1, 1), owner(2, 1));
    it.bind(&key("d"), session(a, 1500));
    let again = Owner { stamp: 2, ..a };
    assert_eq!(it.bind(&key("d"), session(again, 1000)), Bound::Behind { epoch: 1500 });
    assert_eq!(route(&it, "d"), Some((again, 1500)));
    let other = Owner { stamp: 3, ..b };
    assert_eq!(it.bind(&key("d"), session(other, 1400)), Bound::Behind { epoch: 1500 });
    assert_eq!(route(&it, "d"), Some((again, 1500)), "another one's word says nothing of it");
    assert!(!it.has_later(&key("d"), &a, 1000), "it is the same connection");
    assert!(it.has_later(&key("d"), &b, 1499));
    assert!(!it.has_later(&key("d"), &b, 1500) && !it.has_later(&key("e"), &b, 1));
}

#[test]
fn without_the_store_a_session_stays_and_takes_no_other_ones_place() {
    let it = Table::default();
    let (a, b) = (owner(1, 1), owner(2, 1));
    assert_eq!(it.vouch(&key("d"), session(a, 1000)), Some(true), "nobody is known to be there");
    assert_eq!(it.vouch(&key("d"), session(Owner { stamp: 2, ..a }, 1000)), Some(false));
    assert_eq!(it.vouch(&key("d"), session(b, 1001)), None);
    assert_eq!(it.vouch(&key("d"), session(a, 999)), None);
    assert_eq!(route(&it, "d"), Some((Owner { stamp: 2, ..a }, 1000)));
}

#[test]
fn a_release_compares_connection_and_epoch() {
    let it = Table::default();
    let (a, b) = (owner(1, 1), owner(2, 1));
    it.bind(&key("d"), session(a, 1000));
    it.bind(&key("d"), session(b, 1001));
    let release = |owner: Owner, epoch| it.release(&key("d"), owner.life, owner.at, epoch);
    assert!(!release(a, 1000), "it was superseded");
    assert!(!release(b, 1000), "another epoch");
    assert!(!release(a, 1001), "another connection");
    assert_eq!(route(&it, "d"), Some((b, 1001)));
    assert!(release(b, 1001));
    assert_eq!(route(&it, "d"), None);
    assert!(!release(b, 1001), "once");
}

#[test]
fn a_sweep_frees_what_is_dead() {
    let it = Table::default();
    it.bind(&key("d"), session(owner(1, 1), 1000));
    it.bind(&key("e"), session(owner(2, 1), 1000));
    let mut dead = Vec::new();
    for shard in 0..SHARDS {
        it.sweep(shard, |owner| owner.life == LifeNo(2), |_, route| dead.push(route.owner()));
    }
    assert_eq!(dead, [owner(1, 1)]);
    assert_eq!((route(&it, "d"), route(&it, "e")), (None, Some((owner(2, 1), 1000))));
}

#[test]
fn apps_do_not_meet() {
    let it = Table::default();
    it.bind(&key("d"), session(owner(1, 1), 1000));
    let other = Key::device(&AppId::new("demo2").unwrap(), "d").unwrap();
    assert!(it.look(&other, |_, _| ()).is_none());
    assert!(!it.release(&other, LifeNo(1), owner(1, 1).at, 1000));
    assert!(it.look(&key("d"), |_, route| route.serves.contains(BusinessNo(1))).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    /// The store gave the device to a connection; its word comes now, or after later ones.
    Bind {
        life: u32,
        late: usize,
    },
    Vouch {
        pick: usize,
    },
    Release {
        pick: usize,
    },
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// In whatever order the store's word comes: the route is the newest session's that was heard of and
    /// not released, and only its owner removes it.
    #[test]
    fn the_route_is_the_newest_session_heard_of(
        steps in proptest::collection::vec(prop_oneof![
            4 => (0..3u32, 0..3usize).prop_map(|(life, late)| Step::Bind { life, late }),
            2 => any::<usize>().prop_map(|pick| Step::Vouch { pick }),
            3 => any::<usize>().prop_map(|pick| Step::Release { pick }),
        ], 1..60)
    ) {
        let it = Table::default();
        let (mut given, mut waiting) = (Vec::new(), Vec::new());
        let mut model: Option<(Owner, u64)> = None;
        for step in steps {
            match step {
                Step::Bind { life, late } => {
                    let epoch = 1000 + given.len() as u64;
                    let owner = owner(life, epoch as u32);
                    given.push((owner, epoch));
                    waiting.push((late, owner, epoch));
                    let due = |one: &mut (usize, Owner, u64)| {
                        let is_due = one.0 == 0;
                        one.0 = one.0.saturating_sub(1);
                        is_due
                    };
                    for (_, owner, epoch) in waiting.extract_if(.., due) {
                        let bound = it.bind(&key("d"), session(owner, epoch));
                        let is_newer = model.is_none_or(|(_, known)| known <= epoch);
                        prop_assert_eq!(matches!(bound, Bound::Taken { .. }), is_newer);
                        if let Bound::Taken { replaced, .. } = bound {
                            let other = model.filter(|known| *known != (owner, epoch));
                            prop_assert_eq!(replaced, other);
                            model = Some((owner, epoch));
                        }
                    }
                }
                Step::Vouch { pick } if !given.is_empty() => {
                    let (owner, epoch) = given[pick % given.len()];
                    let told = it.vouch(&key("d"), session(owner, epoch));
                    let is_same = model == Some((owner, epoch));
                    prop_assert_eq!(told.is_some(), is_same || model.is_none());
                    model = model.or(Some((owner, epoch)));
                }
                Step::Release { pick } if !given.is_empty() => {
                    let (owner, epoch) = given[pick % given.len()];
                    let released = it.release(&key("d"), owner.life, owner.at, epoch);
                    prop_assert_eq!(released, model == Some((owner, epoch)));
                    if released {
                        model = None;
                    }
                }
                Step::Vouch { .. } | Step::Release { .. } => {}
            }
            prop_assert_eq!(route(&it, "d"), model);
        }
    }
}
