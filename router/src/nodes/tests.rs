//! Lives, leases, and when the routes are complete.

use super::leases::Standing;
use super::life::SweepDue;
use super::*;
use crate::store::NodeLease;
use crate::table::Owner;
use hawser_proto::id::SlotRef;

const LEASE: Duration = Duration::from_secs(10);

fn name() -> NodeId {
    NodeId::new("node-1").unwrap()
}

fn at(life: &Life, stamp: u16) -> Owner {
    Owner { life: life.no, stamp, at: SlotRef { slot: 1, generation: 1 } }
}

#[test]
fn another_boot_waits_for_the_lease_and_ends_the_life_before_it() {
    let nodes = Nodes::new(LEASE);
    let first = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    assert_eq!(nodes.admit(&name(), BootId(2), false, 9_999).err(), Some(Held));
    assert!(nodes.renew(&first, 9_999));
    assert_eq!(nodes.admit(&name(), BootId(2), false, 19_998).err(), Some(Held));
    let early = nodes.admit(&name(), BootId(2), false, 19_999).err();
    assert_eq!(early, Some(Held), "another router may hear it");
    nodes.looked(19_999, 19_999, &[]);
    let second = nodes.admit(&name(), BootId(2), false, 19_999).unwrap();
    assert_ne!(first.no, second.no);
    assert!(nodes.view(19_999).life(first.no).is_none());
    assert!(!nodes.renew(&first, 19_999), "the dead do not come back");
}

#[test]
fn one_boot_keeps_its_life_over_many_streams() {
    let nodes = Nodes::new(LEASE);
    let first = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let again = nodes.admit(&name(), BootId(1), false, 5_000).unwrap();
    assert_eq!(first.no, again.no);
    assert!(again.is_live(14_999), "a hello renews");
    nodes.looked(15_000, 15_000, &[]);
    let later = nodes.admit(&name(), BootId(1), false, 15_000).unwrap();
    assert_ne!(first.no, later.no, "the lease had ended: its routes are dead");
}

#[test]
fn routes_not_told_of_again_die_after_a_while() {
    let nodes = Nodes::new(LEASE);
    let life = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let stamp = nodes.attach_control(&life, ControlStream::loose(), false, 0);
    let stamp_now = nodes.attach_control(&life, ControlStream::loose(), false, 1_000);
    for heard in [8_000, 16_000] {
        assert!(nodes.renew(&life, heard));
    }
    assert!(nodes.view(20_999).owner(&at(&life, stamp)).is_some());
    nodes.await_announcements(&life, 6_000);
    assert!(nodes.view(25_999).owner(&at(&life, stamp)).is_some(), "others come in");
    assert!(nodes.view(26_000).owner(&at(&life, stamp)).is_none());
    assert!(nodes.view(25_999).owner(&at(&life, stamp_now)).is_some());
}

#[test]
fn who_said_goodbye_makes_room_for_its_next_boot() {
    let nodes = Nodes::new(LEASE);
    let life = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let stream = ControlStream::loose();
    nodes.attach_control(&life, stream.clone(), false, 0);
    assert!(nodes.detach_control(&life, &stream, true, 0));
    assert!(life.is_live(1) && !life.is_heard());
    assert!(nodes.admit(&name(), BootId(2), false, 1).is_ok());
    assert!(!life.is_live(1));
}

#[test]
fn a_late_view_knows_who_came_before_its_first_use() {
    let nodes = Nodes::new(LEASE);
    let (early, late) = (nodes.view(0), nodes.late_view(0));
    let life = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let stamp = nodes.attach_control(&life, ControlStream::loose(), false, 0);
    assert!(early.owner(&at(&life, stamp)).is_none());
    assert!(late.is_live(&at(&life, stamp)));
    assert!(!early.is_over(life.no), "it cannot know");
    nodes.looked(10_000, 10_000, &[]);
    nodes.expire(10_000);
    assert!(nodes.view(10_000).is_over(life.no));
}

#[test]
fn expired_lives_are_found_once() {
    let nodes = Nodes::new(LEASE);
    nodes.admit(&name(), BootId(1), false, 0).unwrap();
    nodes.looked(9_999, 9_999, &[]);
    assert!(nodes.expire(9_999).is_empty());
    assert!(nodes.expire(10_000).is_empty(), "the store was not asked since");
    nodes.looked(10_000, 10_000, &[]);
    assert_eq!(nodes.expire(10_000).len(), 1);
    assert!(nodes.expire(10_000).is_empty());
}

#[test]
fn a_node_that_comes_and_goes_takes_no_more_room_each_time() {
    let nodes = Nodes::new(LEASE);
    let mut before = None;
    for boot in 1..100 {
        let life = nodes.admit(&name(), BootId(boot), true, 0).unwrap();
        let view = nodes.view(0);
        assert_eq!((view.lives().count(), view.lives.by_no.len()), (1, 1));
        assert!(!view.is_over(life.no) && !view.is_over(LifeNo(life.no.0 + 1)));
        let past = before.replace(life.no);
        assert!(past.is_none_or(|no| view.is_over(no) && view.life(no).is_none()));
    }
}

fn lease(boot: u64, left_ms: u64) -> NodeLease {
    NodeLease { node: name(), boot: BootId(boot), left_ms }
}

/// A router that has looked for a lease, and one node on a stream of now.
fn settled() -> (Nodes, Arc<Life>, Arc<ControlStream>, u16) {
    let nodes = Nodes::new(LEASE);
    nodes.looked(1, 1, &[]);
    let life = nodes.admit(&name(), BootId(1), true, 10_000).unwrap();
    let stream = ControlStream::loose();
    let stamp = nodes.attach_control(&life, stream.clone(), true, 10_000);
    nodes.looked(10_001, 10_001, &[lease(1, 9_999)]);
    (nodes, life, stream, stamp)
}

#[test]
fn the_routes_are_complete_once_all_who_live_have_told_of_all() {
    let (nodes, life, stream, stamp) = settled();
    assert!(!nodes.is_complete(), "it may tell of more");
    nodes.all_told(&life, stamp.wrapping_sub(1), 10_002);
    assert!(!nodes.is_complete(), "that was on a stream before");
    nodes.all_told(&life, stamp, 10_002);
    assert!(nodes.is_complete() && nodes.view(10_002).is_complete());
    let other = NodeLease { node: NodeId::new("node-2").unwrap(), boot: BootId(7), left_ms: 500 };
    nodes.looked(10_100, 10_100, &[lease(1, 9_900), other]);
    assert!(!nodes.is_complete(), "another node lives, and was not heard here");
    nodes.expire(10_600);
    assert!(nodes.is_complete(), "its lease has ended");
    assert!(nodes.detach_control(&life, &stream, false, 10_700));
    assert!(!nodes.is_complete(), "what happens there now is not heard");
    let later = nodes.attach_control(&life, ControlStream::loose(), true, 10_800);
    assert!(!nodes.is_complete());
    nodes.all_told(&life, later, 10_900);
    assert!(nodes.is_complete());
    nodes.expire(20_101);
    assert!(!nodes.is_complete(), "the store was not heard for a lease");
}

#[test]
fn a_node_that_tells_one_router_alone_is_never_complete() {
    let (nodes, life, ..) = settled();
    let stamp = nodes.attach_control(&life, ControlStream::loose(), false, 10_002);
    nodes.all_told(&life, stamp, 10_003);
    assert!(!nodes.is_complete());
}

#[test]
fn what_was_not_told_of_is_dead_as_soon_as_all_is_told() {
    let (nodes, life, _, before) = settled();
    let stamp = nodes.attach_control(&life, ControlStream::loose(), true, 10_010);
    assert!(nodes.view(10_011).owner(&at(&life, before)).is_some(), "it may come");
    nodes.all_told(&life, stamp, 10_012);
    nodes.await_announcements(&life, 10_013);
    assert!(nodes.view(10_013).owner(&at(&life, before)).is_none());
    assert!(nodes.view(10_013).owner(&at(&life, stamp)).is_some());
}

#[test]
fn a_node_that_others_hear_lives_and_is_not_heard_here() {
    let (nodes, life, ..) = settled();
    nodes.looked(19_000, 19_000, &[lease(1, 9_000)]);
    assert!(nodes.expire(20_000).is_empty());
    assert!(life.is_live(20_000) && !life.is_heard(), "its silent streams are cut");
    nodes.looked(28_000, 28_000, &[]);
    assert_eq!(nodes.expire(28_000).len(), 1);
    assert_eq!(nodes.standing(&name(), BootId(1), 28_000), Standing::Dead);
}

#[test]
fn while_the_store_is_away_nobody_dies() {
    let (nodes, life, ..) = settled();
    assert!(nodes.expire(500_000).is_empty());
    assert!(life.is_live(500_000) && !life.is_heard());
    assert_eq!(nodes.standing(&name(), BootId(1), 500_000), Standing::Alive);
    nodes.looked(500_001, 500_001, &[]);
    assert_eq!(nodes.expire(500_001).len(), 1);
}

#[test]
fn leases_are_renewed_for_those_that_were_heard_since() {
    let (nodes, life, ..) = settled();
    let due = |now| nodes.to_renew(now).iter().map(|(_, until)| *until).collect::<Vec<_>>();
    assert_eq!(due(13_333), [0; 0], "not heard since");
    assert!(nodes.renew(&life, 12_000));
    assert_eq!(due(13_332), [0; 0], "too early");
    assert_eq!(due(13_333), [22_000]);
    life.renewed(22_000, 13_333);
    assert_eq!(due(17_000), [0; 0]);
    nodes.displaced(&life, 17_000);
    assert!(!life.is_live(17_000));
}

#[test]
fn a_node_that_ends_is_dead_at_once() {
    let (nodes, life, _, stamp) = settled();
    nodes.all_told(&life, stamp, 10_002);
    nodes.goodbye(&life, 10_003);
    assert!(nodes.is_complete());
    assert!(nodes.view(10_003).owner(&at(&life, stamp)).is_none());
    assert!(nodes.admit(&name(), BootId(2), false, 10_003).is_ok());
}

#[test]
fn a_router_that_stood_still_takes_nobody_for_dead_when_it_wakes() {
    let nodes = Nodes::new(LEASE);
    let life = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let stamp = nodes.attach_control(&life, ControlStream::loose(), true, 0);
    nodes.looked(0, 0, &[]);
    nodes.looked(12_000, 12_000, &[]);
    for now in (1_000..=15_000).step_by(1_000) {
        assert!(!nodes.awake(now), "{now}: as it should be");
        assert!(nodes.renew(&life, now));
    }
    nodes.all_told(&life, stamp, 15_000);
    assert!(nodes.is_complete());
    // The store's leases ended meanwhile, and nobody has read what the nodes said.
    assert!(nodes.awake(45_000));
    assert!(!nodes.is_complete(), "devices may have come elsewhere");
    nodes.looked(45_001, 45_002, &[]);
    assert!(nodes.expire(45_002).is_empty());
    assert!(life.is_heard(), "its streams are not cut either");
    assert_eq!(
        nodes.standing(&name(), BootId(2), 45_002),
        Standing::Dead,
        "two never live at once"
    );
    let other = NodeId::new("node-2").unwrap();
    assert_eq!(
        nodes.standing(&other, BootId(1), 45_002),
        Standing::Unsure,
        "heard elsewhere perhaps"
    );
    assert!(nodes.renew(&life, 45_100));
    // Who stays silent has had his lease.
    for now in (46_000..=56_000).step_by(1_000) {
        assert!(!nodes.awake(now));
        nodes.looked(now, now, &[]);
    }
    assert_eq!(nodes.expire(56_000).len(), 1);
}

#[test]
fn sessions_in_doubt_are_asked_for_by_name_until_they_are_too_many() {
    let nodes = Nodes::new(LEASE);
    let life = nodes.admit(&name(), BootId(1), false, 0).unwrap();
    let doubt = |slot| life.want_sweep_of(SlotRef { slot, generation: 1 }, 0);
    let named = || match &*life.sweep_due.lock() {
        SweepDue::Nothing => Some(0),
        SweepDue::Of(named) => Some(named.len()),
        SweepDue::All => None,
    };
    assert_eq!(named(), Some(0));
    (0..1_024).chain(0..10).for_each(doubt);
    assert_eq!(named(), Some(1_024), "each once");
    doubt(1_024);
    assert_eq!(named(), None, "all of them");
    doubt(7);
    assert_eq!(named(), None, "which it stays");
}
