//! Who has the session, and what a device says it has.

use super::desk::{
    BEGIN_MS, CHAT, DAY_MS, Desk, HOUR_MS, SHOP, WIDE, bodies, entry, login, stored,
};
use crate::inbox::{Announced, Claimed, Fenced, InboxState, Priority, Session};
use hawser_proto::id::Position;

const MINUTE_MS: u64 = 60_000;

pub(super) async fn a_claim_raises_the_epoch_above_the_clock_and_the_last_one(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.claim(&key, login(1, 1, 1), vec![]).await;
    assert_eq!(first.session.epoch, BEGIN_MS);
    assert_eq!((first.displaced, first.inboxes), (None, vec![]));
    it.now_ms -= HOUR_MS;
    let second = it.claim(&key, login(2, 1, 2), vec![]).await;
    assert_eq!(second.session.epoch, BEGIN_MS + 1);
    assert_eq!(second.displaced, Some(first.session));
    it.now_ms += 2 * HOUR_MS;
    let third = it.claim(&key, login(3, 1, 3), vec![]).await;
    assert_eq!(third.session.epoch, it.now_ms);
}

pub(super) async fn the_same_claim_again_gets_the_same_answer(it: &mut Desk<'_>) {
    let key = it.device("a");
    it.push(&key, "a").await;
    let first = it.claim(&key, login(1, 1, 5), vec![]).await;
    it.now_ms += 1;
    let again = it.claim(&key, login(1, 1, 5), vec![]).await;
    assert_eq!((again.session, again.displaced), (first.session, None));
    assert_eq!(again.inboxes, first.inboxes);
}

pub(super) async fn an_old_login_that_comes_late_is_refused(it: &mut Desk<'_>) {
    let key = it.device("a");
    let now = it.claim(&key, login(1, 1, 5), vec![]).await;
    for (slot, attempt) in [(2, 5), (1, 4), (2, 1)] {
        let late = it.try_claim(&key, login(slot, 1, attempt), vec![]).await;
        assert_eq!(late, Claimed::Stale);
    }
    assert!(it.try_fetch(&key, &now.session, Position::START, super::desk::ALL).await.is_ok());
}

pub(super) async fn another_installation_takes_the_session_over(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.claim(&key, login(1, 1, 500), vec![]).await;
    let second = it.claim(&key, login(1, 2, 1), vec![]).await;
    assert_eq!(second.displaced, Some(first.session.clone()));
    assert_eq!(second.session.epoch, first.session.epoch + 1);
}

pub(super) async fn a_release_keeps_instance_and_attempt(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.claim(&key, login(1, 1, 5), vec![]).await;
    assert!(it.release(&key, &first.session, vec![]).await);
    assert!(!it.release(&key, &first.session, vec![]).await);
    it.now_ms += DAY_MS - 1;
    assert_eq!(it.try_claim(&key, login(1, 1, 5), vec![]).await, Claimed::Stale);
    it.now_ms = BEGIN_MS;
    let next = it.claim(&key, login(2, 1, 6), vec![]).await;
    assert_eq!((next.session.epoch, next.displaced), (BEGIN_MS + 1, None));
}

pub(super) async fn a_release_by_anyone_else_changes_nothing(it: &mut Desk<'_>) {
    let key = it.device("a");
    let unknown = Session { owner: super::desk::owner(1), epoch: 5 };
    assert!(!it.release(&key, &unknown, vec![]).await);
    let first = it.claim(&key, login(1, 1, 1), vec![]).await;
    let second = it.claim(&key, login(2, 1, 2), vec![]).await;
    let older = Session { epoch: first.session.epoch, ..second.session.clone() };
    let other = Session { epoch: second.session.epoch, ..first.session.clone() };
    for wrong in [first.session, older, other] {
        assert!(!it.release(&key, &wrong, vec![]).await);
    }
    assert!(it.release(&key, &second.session, vec![]).await);
}

pub(super) async fn a_route_is_forgotten_a_day_after_its_release(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.claim(&key, login(1, 1, 5), vec![]).await;
    it.release(&key, &first.session, vec![]).await;
    it.now_ms += DAY_MS;
    let next = it.claim(&key, login(1, 1, 1), vec![]).await;
    assert_eq!(next.session.epoch, it.now_ms);
}

pub(super) async fn a_session_in_use_is_not_forgotten(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.claim(&key, login(1, 1, 5), vec![]).await;
    for _ in 0..5 {
        it.now_ms += 29 * DAY_MS;
        assert_eq!(it.sweep(&key, &first.session, vec![]).await, Ok(vec![]));
    }
    it.now_ms += 30 * DAY_MS;
    assert_eq!(it.sweep(&key, &first.session, vec![]).await, Err(Fenced::Forgotten));
}

pub(super) async fn an_announcement_is_taken_in_place(it: &mut Desk<'_>) {
    let key = it.device("a");
    let told = it.announce(&key, 900, login(1, 1, 5), vec![]).await;
    assert_eq!((told.displaced, told.inboxes), (None, vec![]));
    let again = it.announce(&key, 900, login(1, 1, 5), vec![]).await;
    assert_eq!(again.displaced, None);
    assert_eq!(it.try_claim(&key, login(2, 1, 5), vec![]).await, Claimed::Stale);
    let newer = it.announce(&key, 901, login(2, 2, 1), vec![]).await;
    assert_eq!(newer.displaced, Some(told.session));
}

pub(super) async fn an_announcement_of_an_older_session_is_superseded(it: &mut Desk<'_>) {
    let key = it.device("a");
    let now = it.claim(&key, login(1, 1, 5), vec![]).await;
    let epoch = now.session.epoch;
    let superseded = Announced::Superseded { epoch };
    assert_eq!(it.try_announce(&key, epoch - 1, login(2, 1, 4), vec![]).await, superseded);
    assert_eq!(it.try_announce(&key, epoch, login(2, 1, 4), vec![]).await, superseded);
    it.release(&key, &now.session, vec![]).await;
    assert_eq!(it.try_announce(&key, epoch - 1, login(2, 1, 4), vec![]).await, superseded);
}

pub(super) async fn an_announcement_after_a_release_is_taken_under_a_new_epoch(it: &mut Desk<'_>) {
    for (id, waited_ms) in [("at-once", 0), ("later", HOUR_MS)] {
        let key = it.device(id);
        let before = it.claim(&key, login(1, 1, 5), vec![]).await.session;
        it.release(&key, &before, vec![]).await;
        assert_eq!(it.sweep(&key, &before, vec![]).await, Err(Fenced::Forgotten));
        it.now_ms += waited_ms;
        let now = it.announce(&key, before.epoch, login(1, 1, 5), vec![]).await;
        assert_eq!(now.session.epoch, it.now_ms.max(before.epoch + 1), "{id}");
        assert_eq!(now.displaced, None);
        assert_eq!(it.sweep(&key, &now.session, vec![]).await, Ok(vec![]));
        assert!(!it.release(&key, &before, vec![]).await, "{id}: it goes on under another epoch");
        let owner = before.owner.clone();
        assert!(
            it.store.end_lost(&key, &owner.node, owner.boot, it.now_ms).await.expect("a store")
        );
        let again = it.announce(&key, now.session.epoch, login(1, 1, 5), vec![]).await;
        assert!(again.session.epoch > now.session.epoch, "{id}: its node was lost");
    }
}

pub(super) async fn a_raised_session_is_known_by_the_epoch_of_before(it: &mut Desk<'_>) {
    let key = it.device("a");
    let before = it.claim(&key, login(1, 1, 5), vec![]).await.session;
    it.release(&key, &before, vec![]).await;
    let raised = it.announce(&key, before.epoch, login(1, 1, 5), vec![]).await.session;
    // The answer was lost: what the node asks meanwhile does not end it, and it tells of itself again.
    assert_eq!(it.sweep(&key, &before, vec![]).await, Err(Fenced::Forgotten));
    let again = it.announce(&key, before.epoch, login(1, 1, 5), vec![]).await.session;
    assert_eq!(again, raised);
    // And it was taken for over once more.
    assert!(it.release(&key, &raised, vec![]).await);
    assert_eq!(it.sweep(&key, &before, vec![]).await, Err(Fenced::Forgotten));
    let once_more = it.announce(&key, before.epoch, login(1, 1, 5), vec![]).await.session;
    assert!(once_more.epoch > raised.epoch);
    // A later login is another session, also after its end.
    let later = it.claim(&key, login(2, 1, 6), vec![]).await.session;
    let superseded = Announced::Superseded { epoch: later.epoch };
    for session in [&before, &once_more] {
        assert_eq!(it.sweep(&key, session, vec![]).await, Err(Fenced::Superseded));
        let told = it.try_announce(&key, session.epoch, login(1, 1, 5), vec![]).await;
        assert_eq!(told, superseded);
    }
    it.release(&key, &later, vec![]).await;
    let told = it.try_announce(&key, once_more.epoch, login(1, 1, 5), vec![]).await;
    assert_eq!(told, superseded);
}

pub(super) async fn an_announcement_of_an_older_node_keeps_its_epoch(it: &mut Desk<'_>) {
    let key = it.device("a");
    let session = it.claim(&key, login(1, 1, 5), vec![]).await.session;
    it.release(&key, &session, vec![]).await;
    it.now_ms += 5;
    let (epoch, now_ms) = (session.epoch, it.now_ms);
    let asked = it.store.announce(&key, epoch, login(1, 1, 5), vec![], false, now_ms);
    let bound = Announced::Bound { epoch, displaced: None, inboxes: vec![] };
    assert_eq!(asked.await.expect("a store"), bound);
    assert_eq!(it.sweep(&key, &session, vec![]).await, Ok(vec![]));
}

pub(super) async fn a_claim_goes_above_only_while_it_is_the_session(it: &mut Desk<'_>) {
    let key = it.device("a");
    let claimed = it.claim(&key, login(1, 1, 5), vec![]).await.session;
    let above = claimed.epoch + 1_000;
    let raise = async |session: &Session, above, now_ms| {
        it.store.raise(&key, session.clone(), above, true, now_ms).await.expect("a store")
    };
    let other = Session { epoch: claimed.epoch + 1, ..claimed.clone() };
    assert_eq!(raise(&other, above, it.now_ms).await, Err(Fenced::Forgotten), "another epoch");
    for _ in 0..2 {
        assert_eq!(
            raise(&claimed, above, it.now_ms).await,
            Ok(()),
            "also when it was raised before"
        );
        let route = it.store.route(&key, it.now_ms).await.expect("a store").expect("it is kept");
        assert_eq!((route.epoch, route.owner.as_ref()), (above, Some(&claimed.owner)));
        assert_eq!((route.instance, route.attempt), (login(1, 1, 5).instance, 5));
    }
    assert_eq!(raise(&claimed, above + 1, it.now_ms).await, Err(Fenced::Forgotten));
    // A later login has taken over: the epoch that is to be gone above is its own.
    let later = it.claim(&key, login(2, 1, 6), vec![]).await.session;
    let raised = Session { epoch: above, ..claimed.clone() };
    for session in [&claimed, &raised] {
        let told = raise(session, later.epoch + 1, it.now_ms).await;
        assert_eq!(told, Err(Fenced::Superseded));
    }
    assert_eq!(it.sweep(&key, &later, vec![]).await, Ok(vec![]));
    it.release(&key, &later, vec![]).await;
    let told = it.store.raise(&key, later.clone(), later.epoch + 1, true, it.now_ms).await;
    assert_eq!(told.expect("a store"), Err(Fenced::Forgotten), "it is over");
}

pub(super) async fn an_announcement_raises_the_term_above_what_was_sent(it: &mut Desk<'_>) {
    let key = it.device("a");
    let first = it.push(&key, "a").await;
    // The store lost what was sent after the first, and its clock is behind.
    let sent = Position::new(it.now_ms + MINUTE_MS, 40);
    let told = it.announce(&key, 900, login(1, 1, 5), vec![(CHAT, sent), (SHOP, sent)]).await;
    let (next, prev) = stored(it.append(&key, entry("b", it.now_ms), WIDE).await);
    assert!(next > sent, "{next} lies above {sent}");
    assert_eq!(prev, first);
    let (other, _) = stored(it.append_to(&key, SHOP, entry("c", it.now_ms), WIDE).await);
    assert!(other > sent, "{other} lies above {sent}");
    assert_eq!(bodies(&it.fetch(&key, &told.session, Position::START).await), ["a", "b"]);
    let absurd = Position::new(it.now_ms + HOUR_MS, 40);
    it.announce(&key, 900, login(1, 1, 5), vec![(CHAT, absurd)]).await;
    assert!(it.push(&key, "d").await < absurd);
}

pub(super) async fn a_superseded_session_can_do_nothing(it: &mut Desk<'_>) {
    let key = it.device("a");
    let old = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let at = it.push(&key, "a").await;
    let new = it.claim(&key, login(2, 1, 2), vec![]).await.session;
    let same_epoch = Session { epoch: new.epoch, ..old.clone() };
    for session in [&old, &same_epoch] {
        let fetched = it.try_fetch(&key, session, Position::START, super::desk::ALL).await;
        assert_eq!(fetched, Err(Fenced::Superseded));
        assert_eq!(it.ack(&key, session, at).await, Err(Fenced::Superseded));
        let swept = it.sweep(&key, session, vec![(CHAT, at)]).await;
        assert_eq!(swept, Err(Fenced::Superseded));
        assert!(!it.release(&key, session, vec![(CHAT, at)]).await);
    }
    assert_eq!(bodies(&it.fetch(&key, &new, Position::START).await), ["a"]);
}

pub(super) async fn a_session_that_the_store_does_not_know_is_forgotten(it: &mut Desk<'_>) {
    let key = it.device("a");
    let unknown = Session { owner: super::desk::owner(1), epoch: 5 };
    let fetched = it.try_fetch(&key, &unknown, Position::START, super::desk::ALL).await;
    assert_eq!(fetched, Err(Fenced::Forgotten));
    assert_eq!(it.sweep(&key, &unknown, vec![]).await, Err(Fenced::Forgotten));
    let known = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let later = Session { epoch: known.epoch + 1, ..known };
    assert_eq!(it.ack(&key, &later, Position::new(1, 1)).await, Err(Fenced::Forgotten));
}

pub(super) async fn a_cursor_trims(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b", "c"]).await;
    let bound = it.claim(&key, login(1, 1, 1), vec![(CHAT, at[1])]).await;
    let [inbox] = bound.inboxes.as_slice() else { panic!("one inbox: {:?}", bound.inboxes) };
    assert_eq!((inbox.business, inbox.tail, inbox.floor), (CHAT, at[2], at[1]));
    assert_eq!((inbox.count, inbox.state), (1, InboxState::Fine));
    assert_eq!(inbox.priority, Priority::Normal);
    assert_eq!(it.describe(&key).await.entries, 1);
    let bound = it.claim(&key, login(1, 1, 2), vec![(CHAT, at[2])]).await;
    assert_eq!(bound.inboxes, vec![]);
    // Another installation begins before everything: it is told that there was something.
    let bound = it.claim(&key, login(1, 2, 1), vec![(CHAT, Position::START)]).await;
    assert_eq!(bound.inboxes.len(), 1);
    assert_eq!((bound.inboxes[0].tail, bound.inboxes[0].count), (at[2], 0));
}

pub(super) async fn a_cursor_ahead_is_believed_and_all_that_follows_lies_above_it(
    it: &mut Desk<'_>,
) {
    for (id, ahead) in [("same-term", 0), ("later-term", 4 * MINUTE_MS), ("at-most", 5 * MINUTE_MS)]
    {
        let key = it.device(id);
        it.push_all(&key, &["a", "b"]).await;
        let cursor = Position::new(it.now_ms + ahead, 30);
        let bound = it.claim(&key, login(1, 1, 1), vec![(CHAT, cursor)]).await;
        let [inbox] = bound.inboxes.as_slice() else { panic!("one inbox: {:?}", bound.inboxes) };
        assert_eq!((inbox.state, inbox.count), (InboxState::TermChanged, 0), "{id}");
        assert_eq!((inbox.tail, inbox.floor), (cursor, cursor), "{id}");
        // It is said once.
        let bound = it.claim(&key, login(1, 1, 2), vec![(CHAT, cursor)]).await;
        assert_eq!(bound.inboxes, vec![], "{id}");
        let (next, prev) = stored(it.append(&key, entry("c", it.now_ms), WIDE).await);
        assert!(next.term > cursor.term, "{id}: {next} after {cursor}");
        assert_eq!((next.seq, prev), (1, cursor), "{id}");
        let (after, _) = stored(it.append(&key, entry("d", it.now_ms), WIDE).await);
        assert_eq!(after, Position::new(next.term, 2), "{id}");
        assert_eq!(bodies(&it.fetch(&key, &bound.session, cursor).await), ["c", "d"]);
    }
}

pub(super) async fn a_cursor_for_an_unknown_inbox_is_believed(it: &mut Desk<'_>) {
    let key = it.device("a");
    let cursor = Position::new(it.now_ms + MINUTE_MS, 9);
    let bound = it.claim(&key, login(1, 1, 1), vec![(CHAT, cursor)]).await;
    let [inbox] = bound.inboxes.as_slice() else { panic!("one inbox: {:?}", bound.inboxes) };
    assert_eq!((inbox.state, inbox.tail), (InboxState::TermChanged, cursor));
    assert!(it.push(&key, "a").await > cursor);
    let bound = it.claim(&key, login(1, 1, 2), vec![(SHOP, Position::START)]).await;
    assert_eq!(bound.inboxes.len(), 1, "nothing is said of an inbox that never was");
}

pub(super) async fn an_absurd_cursor_is_refused(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push(&key, "a").await;
    let absurd = [
        Position::new(it.now_ms + 5 * MINUTE_MS + 1, 1),
        Position::new(u64::MAX, u64::MAX),
        Position::new(u64::MAX, 0),
        Position::new(at.term, u64::MAX),
        Position::new(at.term, 1 << 53),
    ];
    for (attempt, cursor) in absurd.into_iter().enumerate() {
        let login = login(1, 1, attempt as u64 + 1);
        let bound = it.claim(&key, login, vec![(CHAT, cursor), (SHOP, cursor)]).await;
        let [chat, shop] = bound.inboxes.as_slice() else { panic!("two: {:?}", bound.inboxes) };
        assert_eq!((chat.state, chat.tail, chat.count), (InboxState::CursorRefused, at, 1));
        assert_eq!((shop.state, shop.business), (InboxState::CursorRefused, SHOP));
        assert_eq!((shop.tail, shop.floor, shop.count), (Position::START, Position::START, 0));
        assert_eq!(bodies(&it.fetch(&key, &bound.session, chat.floor).await), ["a"]);
    }
    assert_eq!(it.push(&key, "b").await, Position::new(at.term, at.seq + 1));
    // Below the tail, nothing is absurd.
    let below = Position::new(at.term - 1, u64::MAX);
    let bound = it.claim(&key, login(1, 1, 99), vec![(CHAT, below)]).await;
    assert_eq!((bound.inboxes[0].state, bound.inboxes[0].count), (InboxState::Fine, 2));
}

pub(super) async fn a_cursor_in_a_term_that_was_reached_is_believed_whatever_the_clock_says(
    it: &mut Desk<'_>,
) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b"]).await;
    it.now_ms -= HOUR_MS;
    let bound = it.claim(&key, login(1, 1, 1), vec![(CHAT, at[0])]).await;
    assert_eq!((bound.inboxes[0].state, bound.inboxes[0].count), (InboxState::Fine, 1));
    let ahead = Position::new(at[1].term, at[1].seq + 5);
    let bound = it.claim(&key, login(1, 1, 2), vec![(CHAT, ahead)]).await;
    assert_eq!(bound.inboxes[0].state, InboxState::TermChanged);
    assert!(it.push(&key, "c").await > ahead);
}

pub(super) async fn the_change_of_term_is_told_again_to_a_login_that_asks_again(it: &mut Desk<'_>) {
    for (id, is_known) in [("known", true), ("unknown", false)] {
        let key = it.device(id);
        if is_known {
            it.push(&key, "a").await;
        }
        let cursors = vec![(CHAT, Position::new(it.now_ms, 50))];
        let first = it.claim(&key, login(1, 1, 1), cursors.clone()).await;
        let again = it.claim(&key, login(1, 1, 1), cursors.clone()).await;
        assert_eq!(first.inboxes[0].state, InboxState::TermChanged, "{id}");
        assert_eq!(again.inboxes, first.inboxes, "{id}");
    }
}

pub(super) async fn what_an_earlier_session_may_have_been_sent_is_flagged(it: &mut Desk<'_>) {
    let key = it.device("a");
    let at = it.push_all(&key, &["a", "b", "c"]).await;
    let first = it.claim(&key, login(1, 1, 1), vec![]).await.session;
    let flags = |batch: &crate::inbox::Batch| -> Vec<bool> {
        batch.items.iter().map(|item| item.redelivered).collect()
    };
    assert_eq!(flags(&it.fetch(&key, &first, Position::START).await), [false; 3]);
    it.release(&key, &first, vec![(CHAT, at[1]), (SHOP, Position::START)]).await;
    let second = it.claim(&key, login(1, 1, 2), vec![(CHAT, at[0])]).await.session;
    assert_eq!(flags(&it.fetch(&key, &second, at[0]).await), [true, false]);
    // What is told to have been sent beyond the end flags nothing that comes later.
    let beyond = Position::new(at[2].term, at[2].seq + 10);
    it.release(&key, &second, vec![(CHAT, beyond)]).await;
    let later = it.push(&key, "d").await;
    assert!(later > beyond);
    let third = it.claim(&key, login(1, 1, 3), vec![]).await.session;
    assert_eq!(flags(&it.fetch(&key, &third, at[0]).await), [true, true, false]);
}

pub(super) async fn a_takeover_flags_all_that_waits(it: &mut Desk<'_>) {
    let key = it.device("a");
    it.claim(&key, login(1, 1, 1), vec![]).await;
    it.push_all(&key, &["a", "b"]).await;
    let second = it.claim(&key, login(2, 1, 2), vec![]).await.session;
    let at = it.push(&key, "c").await;
    let batch = it.fetch(&key, &second, Position::START).await;
    let flags: Vec<_> = batch.items.iter().map(|item| item.redelivered).collect();
    assert_eq!(flags, [true, true, false]);
    assert_eq!(batch.tail, at);
}
