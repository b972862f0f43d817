//! The races of a group's stay, with the routers' queues in the test's own hands.

use super::*;
use hawser_proto::rpc::node::up::What;
use std::sync::Arc;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than a moment, and over within the test.
const LATER: Duration = Duration::from_millis(500);
/// Longer than any pause before a router is told again.
const LONG_AFTER: Duration = Duration::from_mins(5);
/// What routers do.
const PUSH: u32 = 2;
const LOGINS: u32 = 1;

struct Place {
    groups: Arc<Groups>,
    routers: Arc<Routers>,
    words: Vec<mpsc::Receiver<What>>,
    metrics: Arc<Metrics>,
    key: GroupKey,
    now: Instant,
}

impl Place {
    fn new() -> Self {
        Self::with(&[0])
    }

    /// With a router for each of these, on the streams 1, 2, ..
    fn with(functions: &[u32]) -> Self {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()));
        let (routers, words) = Routers::fake(functions);
        Self {
            groups: Arc::new(Groups::new(2, metrics.clone())),
            routers: Arc::new(routers),
            words,
            metrics,
            key: (AppId::new("demo").unwrap(), GroupId::new("room").unwrap()),
            now: Instant::now(),
        }
    }

    fn enter(&self, lane: usize, patience: Duration) -> tokio::task::JoinHandle<Verdict> {
        let (groups, routers, key) = (self.groups.clone(), self.routers.clone(), self.key.clone());
        #[allow(clippy::disallowed_methods, reason = "a test owns its task")]
        tokio::spawn(async move { groups.enter(&key, lane, &routers, patience).await })
    }

    async fn report(&mut self) -> (u64, bool) {
        self.report_at(1).await
    }

    /// The next report to a router: its sequence number, and whether members are there.
    async fn report_at(&mut self, stream: usize) -> (u64, bool) {
        match self.words[stream - 1].recv().await.unwrap() {
            What::Group(report) => (report.seq, report.present),
            other => panic!("{other:?}"),
        }
    }

    fn is_silent(&mut self) -> bool {
        self.words.iter_mut().all(|words| words.try_recv().is_err())
    }

    /// Tells a router of the group, as after a break of its stream.
    fn tell_all(&self, stream: u64) -> u64 {
        let ups = self.routers.ups();
        let up = ups.iter().find(|up| up.stream == stream).unwrap();
        match self.groups.report_to(&self.key, up) {
            Some(What::Group(report)) if report.present => report.seq,
            other => panic!("{other:?}"),
        }
    }

    /// Longer has passed than any pause.
    fn tell_again(&mut self) {
        self.now += LONG_AFTER;
        self.groups.tell_again(&self.routers, self.now);
    }

    fn decide(&self, call: u64, refused: Option<ErrorCode>) -> bool {
        self.decide_at(1, call, refused, 1)
    }

    /// A router's word on a group that was made at this time. True: its members are out.
    fn decide_at(
        &self,
        stream: u64,
        call: u64,
        refused: Option<ErrorCode>,
        created_ms: i64,
    ) -> bool {
        let result = GroupResult {
            call,
            app: "demo".into(),
            group: "room".into(),
            status: refused.map_or(0, ErrorCode::number),
            business: 7,
            created_ms,
            ..Default::default()
        };
        self.groups.decided(stream, &result, &self.routers).is_some()
    }

    fn is_dropped(&self, stream: u64, created_ms: i64) -> bool {
        self.groups.drop_group(stream, &self.key, created_ms, &self.routers).is_some()
    }

    fn members(&self) -> Vec<u32> {
        self.groups.members(&self.key).to_vec()
    }

    fn leave(&self, stay: Stay, lane: usize) {
        self.groups.leave(&self.key, stay.seq, lane, &self.routers);
    }
}

#[tokio::test]
async fn those_who_come_together_are_announced_once_and_told_together() {
    let mut place = Place::new();
    let (a, b) = (place.enter(0, PATIENCE), place.enter(1, PATIENCE));
    let (seq, present) = place.report().await;
    assert!(present);
    tokio::task::yield_now().await;
    place.decide(seq, None);
    let stay = a.await.unwrap().unwrap();
    assert_eq!((stay.seq, stay.business), (seq, BusinessNo(7)));
    assert_eq!(b.await.unwrap(), Ok(stay));
    assert_eq!(place.members(), [1, 1]);
    assert_eq!(place.enter(1, PATIENCE).await.unwrap(), Ok(stay), "live: nobody is asked");
    assert!(place.is_silent());
    place.leave(stay, 1);
    place.leave(stay, 1);
    assert!(place.is_silent(), "one is left");
    assert!(place.groups.lasts(&place.key, stay.seq));
    place.leave(stay, 0);
    let (later, present) = place.report().await;
    assert!(later > seq && !present);
    assert!(!place.groups.lasts(&place.key, stay.seq));
    assert_eq!(place.metrics.groups.get(), 0);
}

#[tokio::test]
async fn a_refused_group_leaves_nothing_and_can_be_asked_for_again() {
    let mut place = Place::new();
    for _ in 0..2 {
        let asked = place.enter(0, PATIENCE);
        let (seq, _) = place.report().await;
        assert!(!place.decide(seq, Some(ErrorCode::GroupNotFound)));
        assert_eq!(asked.await.unwrap(), Err(ErrorCode::GroupNotFound));
        assert!(place.is_silent(), "what was refused needs no leave");
    }
}

#[tokio::test]
async fn the_last_to_lose_patience_takes_the_announcement_back() {
    let mut place = Place::new();
    let short = place.enter(0, Duration::from_millis(20));
    tokio::task::yield_now().await;
    let long = place.enter(1, LATER);
    let (seq, _) = place.report().await;
    assert_eq!(short.await.unwrap(), Err(ErrorCode::Unavailable));
    assert!(place.is_silent(), "the other one still waits");
    assert_eq!(long.await.unwrap(), Err(ErrorCode::Unavailable));
    let (later, present) = place.report().await;
    assert!(later > seq && !present);
    // The answer comes all the same: it is nobody's.
    place.decide(seq, None);
    assert!(place.members().is_empty());
}

#[tokio::test]
async fn one_who_lost_patience_is_not_counted_among_those_who_did_not() {
    let mut place = Place::new();
    let short = place.enter(0, Duration::from_millis(20));
    tokio::task::yield_now().await;
    let long = place.enter(1, LATER);
    let (seq, _) = place.report().await;
    assert_eq!(short.await.unwrap(), Err(ErrorCode::Unavailable));
    place.decide(seq, None);
    let stay = long.await.unwrap().unwrap();
    assert_eq!(place.members(), [0, 1]);
    place.leave(stay, 1);
    assert!(!place.report().await.1);
}

#[tokio::test]
async fn a_dropped_group_forgets_those_who_are_in() {
    let mut place = Place::new();
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report().await;
    assert!(!place.is_dropped(1, 0), "its answer is still to come, and will tell");
    place.decide(seq, None);
    let old = asked.await.unwrap().unwrap();
    assert!(place.is_dropped(1, 0));
    assert!(!place.is_dropped(1, 0));
    assert!(!place.groups.lasts(&place.key, old.seq));
    assert!(!place.report().await.1);

    // A group of the same name, perhaps of someone else: the old stay does not count in it.
    let asked = place.enter(1, PATIENCE);
    let (seq, _) = place.report().await;
    place.decide(seq, None);
    let new = asked.await.unwrap().unwrap();
    place.leave(old, 0);
    assert_eq!(place.members(), [0, 1]);
    assert!(place.groups.lasts(&place.key, new.seq) && !place.groups.lasts(&place.key, old.seq));
    assert!(place.is_silent());
}

#[tokio::test]
async fn an_announcement_after_a_break_counts_anew_for_those_who_wait() {
    let mut place = Place::new();
    let asked = place.enter(0, PATIENCE);
    let (lost, _) = place.report().await;
    let again = place.tell_all(1);
    assert!(again > lost);
    place.decide(lost, None);
    assert!(place.members().is_empty(), "the answer of the broken stream is too old");
    place.decide(again, None);
    let stay = asked.await.unwrap().unwrap();

    // And one that is live, and was deleted meanwhile.
    let again = place.tell_all(1);
    assert!(place.groups.lasts(&place.key, stay.seq), "an announcement is no new stay");
    assert!(place.decide(again, Some(ErrorCode::GroupNotFound)));
    assert!(!place.groups.lasts(&place.key, stay.seq));
    assert_eq!(place.metrics.groups.get(), 0);
}

#[tokio::test]
async fn a_group_of_the_same_name_that_was_made_anew_does_not_inherit_members() {
    let mut place = Place::new();
    let entering = place.enter(0, PATIENCE);
    let (seq, _) = place.report().await;
    assert!(!place.decide_at(1, seq, None, 100));
    entering.await.unwrap().unwrap();

    // The stream broke; the same group is still there when it is announced again.
    let again = place.tell_all(1);
    assert!(!place.decide_at(1, again, None, 100));
    assert_eq!(place.members().iter().sum::<u32>(), 1);

    // It broke again, and meanwhile the group was deleted and its name taken by another.
    let again = place.tell_all(1);
    assert!(place.decide_at(1, again, None, 200));
    assert!(place.members().is_empty());
    assert!(!place.report().await.1, "the node has nobody in the new one");
}

// === Several routers ===

#[tokio::test]
async fn a_join_waits_for_every_router_that_takes_pushes() {
    let mut place = Place::with(&[PUSH, LOGINS, PUSH | LOGINS]);
    let mut asked = place.enter(0, PATIENCE);
    for stream in 1..=3 {
        assert!(place.report_at(stream).await.1, "all are told");
    }
    let seq = place.groups.books.lock().entries[&place.key].seq;
    place.decide_at(1, seq, None, 1);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
    assert!(early.is_err(), "the third has not answered");
    place.decide_at(3, seq, None, 1);
    let stay = asked.await.unwrap().unwrap();
    place.tell_again();
    assert!(place.is_silent(), "whoever has agreed is not told again, nor one without pushes");
    place.leave(stay, 0);
    for stream in 1..=3 {
        assert!(!place.report_at(stream).await.1, "and of the last leave");
    }
}

#[tokio::test]
async fn a_router_that_does_not_answer_in_time_is_told_again_until_it_has() {
    let mut place = Place::with(&[0, 0]);
    let asked = place.enter(0, Duration::from_millis(50));
    let (seq, _) = place.report_at(1).await;
    place.report_at(2).await;
    place.decide_at(1, seq, None, 1);
    let stay = asked.await.unwrap().unwrap();
    assert_eq!(place.members(), [1, 0], "one that agreed is enough");
    place.tell_again();
    let (again, present) = place.report_at(2).await;
    assert!(again > seq && present);
    assert!(!place.decide_at(2, seq, Some(ErrorCode::GroupNotFound), 0), "too old a word");
    place.decide_at(2, again, None, 1);
    place.tell_again();
    assert!(place.is_silent());
    assert!(place.groups.lasts(&place.key, stay.seq));
    assert_eq!(place.metrics.group_reports_again.get(), 1);
}

#[tokio::test]
async fn a_join_is_answered_when_the_router_it_waits_for_has_gone() {
    let mut place = Place::with(&[0, 0]);
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report_at(1).await;
    place.decide_at(1, seq, None, 1);
    place.routers.fake_break(2);
    place.groups.stream_broke(2, &place.routers);
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_join_is_refused_when_all_refuse_and_agreed_when_one_agrees() {
    let mut place = Place::with(&[0, 0]);
    for (first, second, expected) in [
        (
            Some(ErrorCode::Unavailable),
            Some(ErrorCode::GroupNotFound),
            Err(ErrorCode::GroupNotFound),
        ),
        (
            Some(ErrorCode::GroupNotFound),
            Some(ErrorCode::Unavailable),
            Err(ErrorCode::GroupNotFound),
        ),
        (Some(ErrorCode::Unavailable), Some(ErrorCode::Unavailable), Err(ErrorCode::Unavailable)),
        (Some(ErrorCode::GroupNotFound), None, Ok(BusinessNo(7))),
    ] {
        let asked = place.enter(0, PATIENCE);
        let (seq, _) = place.report_at(1).await;
        place.report_at(2).await;
        place.decide_at(1, seq, first, 1);
        place.decide_at(2, seq, second, 1);
        assert_eq!(asked.await.unwrap().map(|stay| stay.business), expected);
    }
    // The one that did not know the group is told again, and believed in the end.
    place.tell_again();
    let (again, _) = place.report_at(1).await;
    assert!(!place.decide_at(1, again, Some(ErrorCode::GroupNotFound), 0), "the other knows it");
    place.tell_again();
    let (again, _) = place.report_at(1).await;
    assert!(place.decide_at(1, again, Some(ErrorCode::GroupNotFound), 0), "it says so again");
    assert!(place.members().is_empty());
}

#[tokio::test]
async fn of_two_groups_of_one_name_the_newest_counts() {
    // Both orders of the answers to a join.
    for order in [[100, 200], [200, 100]] {
        let mut place = Place::with(&[0, 0]);
        let asked = place.enter(0, PATIENCE);
        let (seq, _) = place.report_at(1).await;
        place.report_at(2).await;
        place.decide_at(1, seq, None, order[0]);
        place.decide_at(2, seq, None, order[1]);
        assert_eq!(asked.await.unwrap().unwrap().created_ms, 200);
    }
    // One that is live: a router that is behind changes nothing, and is told again; one that is ahead
    // ends the stay.
    let mut place = Place::with(&[0, 0]);
    let asked = place.enter(0, Duration::from_millis(50));
    let (seq, _) = place.report_at(1).await;
    place.report_at(2).await;
    place.decide_at(1, seq, None, 200);
    let stay = asked.await.unwrap().unwrap();
    assert!(!place.decide_at(2, seq, None, 100));
    assert!(!place.is_dropped(2, 100), "that one is gone, and this one is not it");
    place.tell_again();
    let (again, _) = place.report_at(2).await;
    assert!(place.groups.lasts(&place.key, stay.seq));
    assert!(place.decide_at(2, again, None, 300));
    assert!(!place.groups.lasts(&place.key, stay.seq));
}

#[tokio::test]
async fn a_late_word_of_a_group_that_is_gone_leaves_the_one_made_anew_alone() {
    let mut place = Place::with(&[0, 0]);
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report_at(1).await;
    place.report_at(2).await;
    place.decide_at(1, seq, None, 100);
    place.decide_at(2, seq, None, 100);
    asked.await.unwrap().unwrap();
    assert!(place.is_dropped(1, 100), "the first router has deleted it");
    place.report_at(1).await;
    place.report_at(2).await;
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report_at(1).await;
    place.report_at(2).await;
    place.decide_at(1, seq, None, 200);
    assert!(!place.is_dropped(2, 0), "an older release, which has not answered this report");
    place.decide_at(2, seq, None, 200);
    let stay = asked.await.unwrap().unwrap();
    assert!(!place.is_dropped(2, 100));
    assert!(place.groups.lasts(&place.key, stay.seq));
    assert!(place.is_dropped(2, 200));
}

#[tokio::test]
async fn a_late_word_of_a_group_that_is_gone_does_not_fail_the_join_to_the_one_made_anew() {
    let mut place = Place::with(&[0, 0]);
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report_at(1).await;
    place.report_at(2).await;
    place.decide_at(1, seq, None, 200);
    assert!(!place.is_dropped(1, 100), "it has answered for the new one");
    place.decide_at(2, seq, None, 200);
    assert_eq!(asked.await.unwrap().unwrap().created_ms, 200);
}

#[tokio::test]
async fn those_who_have_answered_do_not_keep_the_others_from_being_told_again() {
    let mut place = Place::with(&[0]);
    {
        let mut books = place.groups.books.lock();
        let answered =
            (0..3 * AGAIN_AT_ONCE_MAX as u64).map(|n| again(&place.key, 9, n, place.now));
        books.again.extend(answered);
    }
    let asked = place.enter(0, LATER);
    let (seq, _) = place.report().await;
    place.tell_again();
    let (again, _) = place.report().await;
    assert!(again > seq);
    assert_eq!(place.metrics.group_reports_again.get(), 1);
    place.decide(again, None);
    asked.await.unwrap().unwrap();
    assert!(place.groups.books.lock().again.len() <= 1, "nothing old is left");
}

#[tokio::test]
async fn a_router_that_comes_while_a_join_waits_is_waited_for() {
    let mut place = Place::with(&[0]);
    let mut asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report_at(1).await;
    let words = place.routers.fake_one(0);
    place.words.push(words);
    let call = place.tell_all(2);
    place.decide_at(1, seq, None, 1);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
    assert!(early.is_err(), "a push may come through the new one");
    place.decide_at(2, call, None, 1);
    asked.await.unwrap().unwrap();
}
