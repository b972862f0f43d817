//! Edits on a catalogue, and what watchers hear: following the changes must give what a new snapshot
//! shows.

use super::edit::app::{AppPatch, OpenAccess};
use super::edit::business::BusinessPatch;
use super::edit::{self, Edit};
use super::*;
use crate::config::MasterKey;
use crate::seal::Sealer;
use hawser_proto::code::ErrorCode;
use hawser_proto::limits::{CLOCK_LEEWAY, RESUME_TICKET_LIFE};
use std::time::Duration;

const CLOSED: OpenAccess = OpenAccess(false);
const SECOND: u64 = 1_000;

struct World {
    catalogue: Catalogue,
    sealer: Sealer,
    /// What a watcher holds that has seen every change, by entity name.
    watcher: hawser_proto::catalogue::Catalogue,
    heard: Vec<wire::Change>,
}

impl World {
    fn new() -> Self {
        Self {
            catalogue: Catalogue::default(),
            sealer: Sealer::new(&MasterKey::new([3; 32])).unwrap(),
            watcher: hawser_proto::catalogue::Catalogue::default(),
            heard: Vec::new(),
        }
    }

    fn take(&mut self, edit: Edit) {
        let heard: Vec<_> =
            edit.changes.iter().flat_map(|change| self.catalogue.heard(change)).collect();
        for change in edit.changes {
            if let Change::PutApp(app) = &change {
                let serial = &mut self.catalogue.counters.serial;
                *serial = (*serial).max(app.serial);
            }
            self.catalogue.apply(change);
        }
        for change in heard {
            self.catalogue.counters.revision += 1;
            let revision = self.catalogue.counters.revision;
            let what = Some(wire::update::What::Change(change.clone()));
            self.watcher = self.watcher.apply(wire::Update { revision, what });
            self.heard.push(change);
        }
    }

    fn app(&mut self, name: &str) -> AppId {
        let app = id(name);
        let patch = AppPatch::default();
        let made = edit::app::create(&self.catalogue, &self.sealer, &app, patch, CLOSED, 0);
        self.take(made.unwrap().0);
        app
    }

    fn business(&mut self, app: &AppId, name: &str) -> u32 {
        let patch = BusinessPatch::default();
        let made = edit::business::create(&self.catalogue, app, &business(name), patch, 0);
        let (edit, made) = made.unwrap();
        self.take(edit);
        made.number
    }
}

fn id(name: &str) -> AppId {
    AppId::new(name).unwrap()
}

fn business(name: &str) -> BusinessId {
    BusinessId::new(name).unwrap()
}

fn refused<T>(outcome: Result<T, crate::refusal::Refusal>) -> ErrorCode {
    outcome.err().expect("refused").code
}

#[test]
fn business_numbers_are_never_used_again() {
    let mut world = World::new();
    let (a, b) = (world.app("a"), world.app("b"));
    assert_eq!(
        [world.business(&a, "x"), world.business(&a, "y"), world.business(&b, "x")],
        [1, 2, 1]
    );
    let gone = edit::business::remove(&world.catalogue, &a, &business("y")).unwrap().0;
    world.take(gone);
    assert_eq!(world.business(&a, "y"), 3);
    let gone = edit::app::remove(&world.catalogue, &a, 0).unwrap().0;
    world.take(gone);
    let again = world.app("a");
    assert_eq!(world.business(&again, "x"), 4, "also not by a later app of the same name");
}

#[test]
fn a_watcher_that_follows_holds_what_a_snapshot_shows() {
    let mut world = World::new();
    let app = world.app("demo");
    world.business(&app, "chat");
    world.business(&app, "feed");
    let (chat, feed) = (business("chat"), business("feed"));
    let key = edit::business::add_key(&world.catalogue, &app, &chat, vec![], None, 0).unwrap();
    let key_id = key.1.what.id.clone();
    world.take(key.0);
    let overlap = Duration::from_secs(5);
    let rotated =
        edit::business::rotate_key(&world.catalogue, &app, &chat, &key_id, overlap, 0).unwrap();
    world.take(rotated.0);
    let first = edit::signing::first(&world.catalogue, &world.sealer, 0).unwrap().unwrap();
    world.take(first);
    assert!(edit::signing::first(&world.catalogue, &world.sealer, 0).is_none());
    let revoked = edit::revoke(&world.catalogue, &app, None, 0).unwrap().0;
    world.take(revoked);
    compare(&world);

    let gone = edit::business::remove(&world.catalogue, &app, &feed).unwrap().0;
    world.take(gone);
    let swept = edit::sweep(&world.catalogue, 5_000).unwrap();
    world.take(swept);
    compare(&world);
    let gone = edit::app::remove(&world.catalogue, &app, 0).unwrap().0;
    world.take(gone);
    compare(&world);
    assert_eq!(world.watcher.apps().count() + world.watcher.businesses().count(), 0);
}

fn compare(world: &World) {
    let fresh = hawser_proto::catalogue::Catalogue::default().apply(world.catalogue.snapshot());
    // `Debug` of a hash map has no order; its sorted lines do.
    let lines = |catalogue: &hawser_proto::catalogue::Catalogue| {
        let mut lines: Vec<_> =
            format!("{catalogue:#?}").lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&world.watcher), lines(&fresh));
}

#[test]
fn watchers_hear_nothing_of_what_they_cannot_see() {
    let mut world = World::new();
    let app = world.app("demo");
    world.heard.clear();
    let edit = edit::app::add_owner_key(&world.catalogue, &app, 0).unwrap().0;
    world.take(edit);
    let zero = Duration::ZERO;
    let edit = edit::app::rotate_client_secret(&world.catalogue, &world.sealer, &app, zero, 0);
    world.take(edit.unwrap().0);
    assert!(world.heard.is_empty(), "{:?}", world.heard);
}

#[test]
fn owner_keys_open_until_they_or_their_app_are_gone() {
    let mut world = World::new();
    let app = world.app("demo");
    let (edit, made) = edit::app::add_owner_key(&world.catalogue, &app, 0).unwrap();
    world.take(edit);
    let sha256 = crate::key::sha256(&made.text);
    assert_eq!(world.catalogue.owner(&sha256), Some(&(app.clone(), made.what.id.clone())));
    let gone = edit::app::remove_owner_key(&world.catalogue, &app, &made.what.id).unwrap().0;
    world.take(gone);
    assert_eq!(world.catalogue.owner(&sha256), None);
    let missing = edit::app::remove_owner_key(&world.catalogue, &app, &made.what.id);
    assert_eq!(refused(missing), ErrorCode::NotFound);

    let (edit, made) = edit::app::add_owner_key(&world.catalogue, &app, 0).unwrap();
    world.take(edit);
    let gone = edit::app::remove(&world.catalogue, &app, 0).unwrap().0;
    world.take(gone);
    assert_eq!(world.catalogue.owner(&crate::key::sha256(&made.text)), None);
}

#[test]
fn quotas_and_bounds_hold() {
    let mut world = World::new();
    let app = world.app("demo");
    let patch =
        AppPatch { businesses_max: Some(1), keys_per_business_max: Some(1), ..AppPatch::default() };
    let edit = edit::app::update(&world.catalogue, &app, patch, CLOSED).unwrap().0;
    world.take(edit);
    world.business(&app, "chat");
    let chat = business("chat");
    let second =
        edit::business::create(&world.catalogue, &app, &business("b"), BusinessPatch::default(), 0);
    assert_eq!(refused(second), ErrorCode::QuotaExceeded);
    let again = edit::business::create(&world.catalogue, &app, &chat, BusinessPatch::default(), 0);
    assert_eq!(refused(again), ErrorCode::AlreadyExists);

    let life = Some(Duration::from_secs(1));
    let key = edit::business::add_key(&world.catalogue, &app, &chat, vec![], life, 0).unwrap().0;
    world.take(key);
    let full = edit::business::add_key(&world.catalogue, &app, &chat, vec![], None, 999);
    assert_eq!(refused(full), ErrorCode::QuotaExceeded);
    let dead_ones_do_not_count =
        edit::business::add_key(&world.catalogue, &app, &chat, vec![], None, 1_000);
    assert!(dead_ones_do_not_count.is_ok());

    for patch in [
        AppPatch { heartbeat_ms: Some(99), ..AppPatch::default() },
        AppPatch { heartbeat_ms: Some(35_000), ..AppPatch::default() },
        AppPatch { idle_timeout_ms: Some(25_000), ..AppPatch::default() },
        AppPatch { frame_bytes_max: Some(1 << 21), ..AppPatch::default() },
    ] {
        let outcome = edit::app::update(&world.catalogue, &app, patch, CLOSED);
        assert_eq!(refused(outcome), ErrorCode::InvalidArgument);
    }
    let open = AppPatch { open: Some(true), ..AppPatch::default() };
    let outcome = edit::app::update(&world.catalogue, &app, open.clone(), CLOSED);
    assert_eq!(refused(outcome), ErrorCode::Disabled);
    assert!(edit::app::update(&world.catalogue, &app, open, OpenAccess(true)).is_ok());
}

#[test]
fn signing_keys_overlap_and_end() {
    let mut world = World::new();
    let edit = edit::signing::first(&world.catalogue, &world.sealer, SECOND).unwrap().unwrap();
    world.take(edit);
    let old = world.catalogue.signer(SECOND).unwrap().kid.clone();
    let (delay, ttl) = (Duration::from_secs(10), Duration::from_secs(100));
    let rotate = |world: &World, now_ms| {
        edit::signing::rotate(&world.catalogue, &world.sealer, delay, ttl, now_ms)
    };
    let (edit, new) = rotate(&world, 2 * SECOND).unwrap();
    world.take(edit);
    assert_eq!(new.active_from_ms, 12 * SECOND);
    let signer = |world: &World, now_ms| world.catalogue.signer(now_ms).unwrap().kid.clone();
    assert_eq!(signer(&world, 11_999), old);
    assert_eq!(signer(&world, 12_000), new.kid);
    assert_eq!(signer(&world, 0), old, "a clock that went back still signs");

    // 12 s + 100 s of token life + 60 s of leeway.
    let verifies = |world: &World, now_ms: u64| {
        world.catalogue.signing_keys().filter(|key| key.verifies(now_ms)).count()
    };
    assert_eq!(verifies(&world, 171_999), 2);
    assert_eq!(verifies(&world, 172_000), 1);
    let swept = edit::sweep(&world.catalogue, 172_000).unwrap();
    world.take(swept);
    assert_eq!(world.catalogue.signing_keys().count(), 1);
    assert!(edit::sweep(&world.catalogue, 172_000).is_none());

    for _ in 0..7 {
        let (edit, _) = rotate(&world, 200 * SECOND).unwrap();
        world.take(edit);
    }
    assert_eq!(refused(rotate(&world, 200 * SECOND)), ErrorCode::QuotaExceeded);
}

#[test]
fn client_secrets_overlap_and_are_few() {
    let mut world = World::new();
    let app = world.app("demo");
    let rotate = |world: &World, seconds, now_ms| {
        let overlap = Duration::from_secs(seconds);
        edit::app::rotate_client_secret(&world.catalogue, &world.sealer, &app, overlap, now_ms)
    };
    let live = |world: &World, now_ms| {
        let secrets = &world.catalogue.tenant(&app).unwrap().app.client_secrets;
        secrets.iter().filter(|secret| secret.is_live(now_ms)).count()
    };
    let edit = rotate(&world, 10, 0).unwrap().0;
    world.take(edit);
    assert_eq!([live(&world, 9_999), live(&world, 10_000)], [2, 1]);
    let edit = rotate(&world, 0, 20_000).unwrap().0;
    world.take(edit);
    assert_eq!(live(&world, 20_000), 1);
    for _ in 0..3 {
        let edit = rotate(&world, 60, 20_000).unwrap().0;
        world.take(edit);
    }
    assert_eq!(refused(rotate(&world, 60, 20_000)), ErrorCode::QuotaExceeded);
}

#[test]
fn revocations_are_kept_until_no_token_can_be_alive() {
    let mut world = World::new();
    let app = world.app("demo");
    let device = DeviceId::new("d").unwrap();
    let (edit, revocation) =
        edit::revoke(&world.catalogue, &app, Some(device.clone()), 500).unwrap();
    world.take(edit);
    assert_eq!(world.catalogue.revoked_before_ms(&app, &device), 1_000);
    assert_eq!(world.catalogue.revoked_before_ms(&app, &DeviceId::new("e").unwrap()), 0);
    assert!(edit::sweep(&world.catalogue, revocation.forget_at_ms() - 1).is_none());
    let swept = edit::sweep(&world.catalogue, revocation.forget_at_ms()).unwrap();
    world.take(swept);
    assert_eq!(world.catalogue.revocations().count(), 0);
    let unknown = edit::revoke(&world.catalogue, &id("nobody"), None, 0);
    assert_eq!(refused(unknown), ErrorCode::NotFound);
}

#[test]
fn ticket_keys_take_turns_and_the_old_ones_verify_what_they_made() {
    let mut world = World::new();
    let (delay, rotation) = (Duration::from_secs(10), Duration::from_hours(12));
    let keep = |world: &mut World, now_ms| {
        let sealer = world.sealer.clone();
        let due = edit::ticket_key::keep(&world.catalogue, &sealer, delay, rotation, now_ms);
        due.map(|edit| world.take(edit.unwrap())).is_some()
    };
    assert!(keep(&mut world, 0), "the first, active at once");
    let first = world.watcher.ticket_key(0).unwrap().kid;
    let due_ms = 12 * 3_600 * SECOND;
    assert!(!keep(&mut world, due_ms - 1));
    assert!(keep(&mut world, due_ms));
    assert!(!keep(&mut world, due_ms + 1), "the next one is made already");
    let active_ms = due_ms + 10 * SECOND;
    assert_eq!(world.watcher.ticket_key(active_ms - 1).unwrap().kid, first);
    let second = world.watcher.ticket_key(active_ms).unwrap().kid;
    assert_ne!(second, first);
    let kept = RESUME_TICKET_LIFE + CLOCK_LEEWAY;
    let over_ms = active_ms + kept.as_millis() as u64;
    assert!(world.watcher.ticket_key_of(first, over_ms - 1).is_some());
    assert!(world.watcher.ticket_key_of(first, over_ms).is_none());
    let swept = edit::sweep(&world.catalogue, over_ms).expect("the first has ended");
    world.take(swept);
    assert_eq!(world.catalogue.ticket_keys().map(|key| key.kid).collect::<Vec<_>>(), [second]);
    let held = world.watcher.snapshot();
    let Some(wire::update::What::Snapshot(held)) = held.what else { panic!("a snapshot") };
    assert_eq!(held.ticket_keys.len(), 1, "watchers heard of its end");

    for _ in 0..7 {
        let rotated = edit::ticket_key::rotate(&world.catalogue, &world.sealer, delay, over_ms);
        world.take(rotated.unwrap().0);
    }
    let refused = edit::ticket_key::rotate(&world.catalogue, &world.sealer, delay, over_ms);
    assert_eq!(refused.unwrap_err().code, ErrorCode::QuotaExceeded);
    let (edit, only) =
        edit::ticket_key::start_over(&world.catalogue, &world.sealer, over_ms).unwrap();
    world.take(edit);
    assert_eq!(world.watcher.ticket_key(over_ms).unwrap().kid, only.kid);
    assert_eq!(world.catalogue.ticket_keys().count(), 1);
}

#[test]
fn business_keys_are_known_for_as_long_as_they_open_something() {
    let mut world = World::new();
    let app = world.app("demo");
    let chat = BusinessId::new("chat").unwrap();
    let patch = BusinessPatch::default();
    world.take(edit::business::create(&world.catalogue, &app, &chat, patch, 0).unwrap().0);
    let made = edit::business::add_key(
        &world.catalogue,
        &app,
        &chat,
        vec![business::Scope::Push],
        Some(Duration::from_secs(1)),
        0,
    );
    let (edit, made) = made.unwrap();
    let sha256 = made.what.sha256;
    assert!(!world.catalogue.knows_business_key(&sha256, 0));
    world.take(edit);
    assert!(world.catalogue.knows_business_key(&sha256, 999));
    assert!(!world.catalogue.knows_business_key(&sha256, 1_000), "expired");
    let off = BusinessPatch { enabled: Some(false), ..Default::default() };
    world.take(edit::business::update(&world.catalogue, &app, &chat, off).unwrap().0);
    assert!(!world.catalogue.knows_business_key(&sha256, 0), "switched off");
    let on = BusinessPatch { enabled: Some(true), ..Default::default() };
    world.take(edit::business::update(&world.catalogue, &app, &chat, on).unwrap().0);
    assert!(world.catalogue.knows_business_key(&sha256, 0));
    world.take(edit::business::remove(&world.catalogue, &app, &chat).unwrap().0);
    assert!(!world.catalogue.knows_business_key(&sha256, 0), "gone with its business");
}
