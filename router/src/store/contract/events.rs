//! Connection events: what is due, what was heard, which devices are marked.

use super::desk::{CHAT, Desk, SHOP, login};
use crate::inbox::{Event, EventCause, Heard, Login, Session};
use crate::key::Key;
use crate::store::{EVENT_SHARDS, Marked, event_shard};
use hawser_proto::id::BusinessNo;

fn watched(slot: u32, attempt: u64, watchers: &[BusinessNo]) -> Login {
    Login { watchers: watchers.to_vec(), ..login(slot, 1, attempt) }
}

fn over(session: Session) -> Heard {
    Heard { epoch: session.epoch, is_online: false, owner: session.owner, is_confirmed: true }
}

impl Desk<'_> {
    async fn log_in(&mut self, device: &Key, login: Login) -> Session {
        self.now_ms += 1_000;
        let owner = login.owner.clone();
        let claimed = self.store.claim(device, login, Vec::new(), self.now_ms).await;
        match claimed.expect("the store is there") {
            crate::inbox::Claimed::Bound { epoch, .. } => Session { owner, epoch },
            crate::inbox::Claimed::Stale => panic!("a newer attempt"),
        }
    }

    async fn log_out(&mut self, device: &Key, session: &Session) {
        self.now_ms += 1_000;
        let released =
            self.store.release(device, session.clone(), Vec::new(), false, self.now_ms).await;
        assert!(released.expect("the store is there"));
    }

    async fn due(&self, device: &Key) -> Vec<Event> {
        self.store.events_due(device, self.now_ms).await.expect("the store is there")
    }

    /// What is due, as business, epoch and cause.
    async fn due_in_short(&self, device: &Key) -> Vec<(BusinessNo, u64, EventCause)> {
        let due = self.due(device).await;
        due.iter().map(|it| (it.business, it.heard.epoch, it.cause)).collect()
    }

    async fn hear(&self, device: &Key, events: &[Event]) {
        for event in events {
            let (business, heard) = (event.business, event.heard.clone());
            let heard = self.store.event_heard(device, business, heard, self.now_ms).await;
            heard.expect("the store is there");
        }
    }

    /// The business is about to be told that the session began.
    async fn mean(&self, device: &Key, event: &Event) -> bool {
        let heard = Heard { is_confirmed: false, ..event.heard.clone() };
        let noted = self.store.event_heard(device, event.business, heard, self.now_ms).await;
        noted.expect("the store is there")
    }

    async fn mark(&self, device: &Key) -> Option<Marked> {
        let shard = event_shard(device.as_bytes());
        let mut after = 0;
        loop {
            let page = self.store.marked(shard, after, 100).await.expect("the store is there");
            after = page.last()?.at;
            if let Some(mark) = page.into_iter().find(|it| *it.device == *device.as_bytes()) {
                return Some(mark);
            }
        }
    }

    async fn unmark(&self, seen: &Marked) {
        let shard = event_shard(&seen.device);
        self.store.unmark(shard, seen).await.expect("the store is there");
    }
}

pub(super) async fn a_login_that_is_watched_is_marked_and_due(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let login = watched(1, 1, &[CHAT, SHOP]);
    let session = desk.log_in(&device, login.clone()).await;
    let heard =
        Heard { epoch: session.epoch, is_online: true, owner: session.owner, is_confirmed: true };
    let event = |business| Event {
        business,
        heard: heard.clone(),
        at_ms: session.epoch,
        cause: EventCause::None,
    };
    assert_eq!(desk.due(&device).await, [event(CHAT), event(SHOP)]);
    assert!(desk.mark(&device).await.is_some());
    let route = desk.store.route(&device, desk.now_ms).await.unwrap().unwrap();
    assert_eq!((route.watchers, route.is_lost), (vec![CHAT, SHOP], false));
}

pub(super) async fn a_login_that_nobody_watches_is_not_due(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let session = desk.log_in(&device, watched(1, 1, &[])).await;
    assert_eq!(desk.due(&device).await, []);
    desk.log_out(&device, &session).await;
    assert_eq!(desk.due(&device).await, []);
    assert_eq!(desk.mark(&device).await, None);
}

pub(super) async fn what_was_heard_is_not_due_again_and_the_end_is(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let session = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    assert_eq!(desk.due(&device).await, []);
    let began = desk.mark(&device).await.expect("it was marked");
    desk.unmark(&began).await;
    desk.log_out(&device, &session).await;
    let due = desk.due(&device).await;
    let heard = over(session);
    let (at_ms, cause) = (desk.now_ms, EventCause::Closed);
    assert_eq!(due, [Event { business: CHAT, heard, at_ms, cause }]);
    assert!(desk.mark(&device).await.is_some_and(|ended| ended.at > began.at));
    desk.hear(&device, &due).await;
    assert_eq!(desk.due(&device).await, []);
}

pub(super) async fn a_takeover_is_due_in_order(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let first = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let second = desk.log_in(&device, watched(2, 2, &[CHAT])).await;
    let right = [(CHAT, first.epoch, EventCause::Superseded)];
    assert_eq!(desk.due_in_short(&device).await, right);
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let right = [(CHAT, second.epoch, EventCause::None)];
    assert_eq!(desk.due_in_short(&device).await, right);
}

pub(super) async fn the_end_is_due_of_whatever_a_business_may_have_heard(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let first = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let began = desk.due(&device).await;
    assert!(desk.mean(&device, &began[0]).await);
    assert_eq!(desk.due(&device).await, began, "until it is confirmed");
    let mark = desk.mark(&device).await.expect("it was marked");
    desk.unmark(&mark).await;
    let second = desk.log_in(&device, watched(2, 2, &[CHAT])).await;
    assert!(desk.mark(&device).await.is_some());
    let right = [(CHAT, first.epoch, EventCause::Superseded)];
    assert_eq!(desk.due_in_short(&device).await, right);
    let next = Event {
        heard: Heard { epoch: second.epoch, owner: second.owner.clone(), ..began[0].heard.clone() },
        ..began[0].clone()
    };
    assert!(!desk.mean(&device, &next).await, "the end of the first comes before it");
    assert_eq!(desk.due_in_short(&device).await, right);
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;

    let began = desk.due(&device).await;
    assert_eq!(began, [Event { at_ms: second.epoch, ..next }]);
    desk.restart().await;
    assert!(desk.mean(&device, &began[0]).await);
    desk.restart().await;
    desk.hear(&device, &began).await;
    assert!(desk.mean(&device, &began[0]).await, "it is known already");
    assert_eq!(desk.due(&device).await, [], "what was confirmed stays so");
    let older = Heard { epoch: first.epoch, ..began[0].heard.clone() };
    assert!(!desk.mean(&device, &Event { heard: older, ..began[0].clone() }).await);
    desk.log_out(&device, &second).await;
    let right = [(CHAT, second.epoch, EventCause::Closed)];
    assert_eq!(desk.due_in_short(&device).await, right);
}

pub(super) async fn a_login_for_other_businesses_marks_the_device_too(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let first = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let began = desk.mark(&device).await.expect("it was marked");
    desk.unmark(&began).await;
    desk.log_in(&device, watched(2, 2, &[])).await;
    let right = [(CHAT, first.epoch, EventCause::Superseded)];
    assert_eq!(desk.due_in_short(&device).await, right);
    assert!(desk.mark(&device).await.is_some());
}

pub(super) async fn a_lost_node_is_said_to_be_lost(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let session = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let began = desk.mark(&device).await.expect("it was marked");
    desk.unmark(&began).await;
    desk.now_ms += 9;
    let owner = &session.owner;
    let ended = desk.store.end_lost(&device, &owner.node, owner.boot, desk.now_ms).await;
    assert!(ended.unwrap());
    let due = desk.due(&device).await;
    let heard = over(session);
    let (at_ms, cause) = (desk.now_ms, EventCause::NodeLost);
    assert_eq!(due, [Event { business: CHAT, heard, at_ms, cause }]);
    assert!(desk.mark(&device).await.is_some());
}

pub(super) async fn a_session_whose_end_was_lost_has_ended_like_any_other(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let session = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let began = desk.mark(&device).await.expect("it was marked");
    desk.unmark(&began).await;
    desk.now_ms += 9;
    assert!(desk.store.end_gone(&device, &session, desk.now_ms).await.unwrap());
    let due = desk.due(&device).await;
    let heard = over(session);
    let (at_ms, cause) = (desk.now_ms, EventCause::Closed);
    assert_eq!(due, [Event { business: CHAT, heard, at_ms, cause }]);
    assert!(desk.mark(&device).await.is_some());
}

pub(super) async fn an_announcement_is_due(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let (epoch, login) = (desk.now_ms, watched(1, 1, &[SHOP]));
    desk.store.announce(&device, epoch, login, Vec::new(), true, desk.now_ms).await.unwrap();
    assert_eq!(desk.due_in_short(&device).await, [(SHOP, epoch, EventCause::None)]);
    assert!(desk.mark(&device).await.is_some());
}

pub(super) async fn an_older_confirmation_changes_nothing(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let old = desk.due(&device).await;
    let session = desk.log_in(&device, watched(2, 2, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    let over = Heard { is_online: false, ..old[0].heard.clone() };
    desk.hear(&device, &old).await;
    desk.hear(&device, &[Event { heard: over, ..old[0].clone() }]).await;
    assert_eq!(desk.due(&device).await, []);
    desk.log_out(&device, &session).await;
    let right = [(CHAT, session.epoch, EventCause::Closed)];
    assert_eq!(desk.due_in_short(&device).await, right);
}

pub(super) async fn a_confirmation_of_a_session_that_is_not_known_changes_nothing(
    desk: &mut Desk<'_>,
) {
    let device = desk.device("d");
    let unknown = |epoch| {
        let owner = login(3, 1, 1).owner;
        let heard = Heard { epoch, is_online: true, owner, is_confirmed: true };
        Event { business: CHAT, heard, at_ms: epoch, cause: EventCause::None }
    };
    desk.hear(&device, &[unknown(desk.now_ms)]).await;
    assert_eq!(desk.due(&device).await, []);
    let session = desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due).await;
    desk.hear(&device, &[unknown(session.epoch + 1)]).await;
    assert_eq!(desk.due(&device).await, []);
    desk.log_out(&device, &session).await;
    let right = [(CHAT, session.epoch, EventCause::Closed)];
    assert_eq!(desk.due_in_short(&device).await, right);
}

pub(super) async fn what_is_due_survives_a_restart(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    let session = desk.log_in(&device, watched(1, 1, &[CHAT, SHOP])).await;
    let due = desk.due(&device).await;
    desk.hear(&device, &due[..1]).await;
    desk.restart().await;
    assert_eq!(desk.due_in_short(&device).await, [(SHOP, session.epoch, EventCause::None)]);
    assert!(desk.mark(&device).await.is_some());
    desk.log_out(&device, &session).await;
    desk.restart().await;
    assert_eq!(desk.due_in_short(&device).await, [(CHAT, session.epoch, EventCause::Closed)]);
}

pub(super) async fn a_mark_goes_only_if_it_is_the_one_that_was_seen(desk: &mut Desk<'_>) {
    let device = desk.device("d");
    desk.log_in(&device, watched(1, 1, &[CHAT])).await;
    let first = desk.mark(&device).await.expect("it was marked");
    desk.log_in(&device, watched(2, 2, &[CHAT])).await;
    let second = desk.mark(&device).await.expect("it was marked");
    assert!(first.at < second.at, "{first:?} {second:?}");
    desk.unmark(&first).await;
    assert_eq!(desk.mark(&device).await, Some(second.clone()));
    desk.unmark(&second).await;
    assert_eq!(desk.mark(&device).await, None);
}

pub(super) async fn marks_come_in_order_and_in_pages(desk: &mut Desk<'_>) {
    // Of other cases' devices some are left.
    let mut counts = Vec::new();
    for shard in 0..EVENT_SHARDS {
        counts.push(desk.store.marks(shard).await.unwrap());
    }
    let devices: Vec<Key> = (0..40).map(|n| desk.device(&format!("d{n}"))).collect();
    for (n, device) in devices.iter().enumerate() {
        // The clock stands still for some, and goes back.
        desk.now_ms -= 1_000 + n as u64 / 2;
        desk.log_in(device, watched(1, 1, &[CHAT])).await;
    }
    for shard in 0..EVENT_SHARDS {
        let of_shard = |device: &&Key| event_shard(device.as_bytes()) == shard;
        let right: Vec<&[u8]> = devices.iter().filter(of_shard).map(Key::as_bytes).collect();
        let mut found = Vec::new();
        while let Some(last) = desk
            .store
            .marked(shard, found.last().map_or(0, |it: &Marked| it.at), 2)
            .await
            .unwrap()
            .into_iter()
            .next()
        {
            found.push(last);
        }
        assert!(found.is_sorted_by(|one, other| one.at < other.at), "{found:?}");
        let count = desk.store.marks(shard).await.unwrap();
        assert_eq!(count, counts[usize::from(shard)] + right.len() as u64);
        let ours: Vec<&[u8]> =
            found.iter().map(|it| &*it.device).filter(|it| right.contains(it)).collect();
        assert_eq!(ours, right, "in the order in which they were marked");
    }
}
