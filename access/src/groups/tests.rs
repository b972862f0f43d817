//! The races of a group's stay, with the router's queue in the test's own hands.

use super::*;
use hawser_proto::rpc::node::up::What;
use std::sync::Arc;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than a moment, and over within the test.
const LATER: Duration = Duration::from_millis(500);

struct Place {
    groups: Arc<Groups>,
    routers: Arc<Routers>,
    words: mpsc::Receiver<What>,
    metrics: Arc<Metrics>,
    key: GroupKey,
}

impl Place {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()));
        let (routers, mut queues) = Routers::new(&["http://router".to_owned()]);
        Self {
            groups: Arc::new(Groups::new(2, metrics.clone())),
            routers: Arc::new(routers),
            words: queues.remove(0),
            metrics,
            key: (AppId::new("demo").unwrap(), GroupId::new("room").unwrap()),
        }
    }

    fn enter(&self, lane: usize, patience: Duration) -> tokio::task::JoinHandle<Verdict> {
        let (groups, routers, key) = (self.groups.clone(), self.routers.clone(), self.key.clone());
        #[allow(clippy::disallowed_methods, reason = "a test owns its task")]
        tokio::spawn(async move { groups.enter(&key, lane, &routers, patience).await })
    }

    /// The next report: its sequence number, and whether members are there.
    async fn report(&mut self) -> (u64, bool) {
        match self.words.recv().await.unwrap() {
            What::Group(report) => (report.seq, report.present),
            other => panic!("{other:?}"),
        }
    }

    fn is_silent(&mut self) -> bool {
        self.words.try_recv().is_err()
    }

    fn decide(&self, call: u64, refused: Option<ErrorCode>) -> Option<GroupKey> {
        self.decide_made(call, refused, 1)
    }

    /// The router's word on a group that was made at this time.
    fn decide_made(
        &self,
        call: u64,
        refused: Option<ErrorCode>,
        created_ms: i64,
    ) -> Option<GroupKey> {
        let result = GroupResult {
            call,
            app: "demo".into(),
            group: "room".into(),
            status: refused.map_or(0, ErrorCode::number),
            business: 7,
            created_ms,
            ..Default::default()
        };
        self.groups.decided(&result, &self.routers)
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
        assert_eq!(place.decide(seq, Some(ErrorCode::GroupNotFound)), None);
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
async fn a_dropped_group_gives_up_those_who_wait_and_forgets_those_who_are_in() {
    let mut place = Place::new();
    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report().await;
    assert!(place.groups.drop_group(&place.key));
    assert_eq!(asked.await.unwrap(), Err(ErrorCode::Unavailable));
    place.decide(seq, None);
    assert!(place.members().is_empty(), "an answer from before is nobody's");

    let asked = place.enter(0, PATIENCE);
    let (seq, _) = place.report().await;
    place.decide(seq, None);
    let old = asked.await.unwrap().unwrap();
    assert!(place.groups.drop_group(&place.key));
    assert!(!place.groups.drop_group(&place.key));
    assert!(!place.groups.lasts(&place.key, old.seq));

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
    let again = place.groups.announcements();
    let What::Group(report) = &again[0] else { panic!("{again:?}") };
    assert!(report.seq > lost && report.present);
    place.decide(lost, None);
    assert!(place.members().is_empty(), "the answer of the broken stream is too old");
    place.decide(report.seq, None);
    let stay = asked.await.unwrap().unwrap();
    assert_eq!(stay.seq, report.seq);

    // And one that is live, and was deleted meanwhile.
    let again = place.groups.announcements();
    let What::Group(report) = &again[0] else { panic!("{again:?}") };
    assert_eq!(place.decide(report.seq, None), None);
    assert!(place.groups.lasts(&place.key, stay.seq), "an announcement is no new stay");
    assert_eq!(place.decide(report.seq, Some(ErrorCode::GroupNotFound)), Some(place.key.clone()));
    assert!(!place.groups.lasts(&place.key, stay.seq));
    assert_eq!(place.metrics.groups.get(), 0);
}

#[tokio::test]
async fn a_group_of_the_same_name_that_was_made_anew_does_not_inherit_members() {
    let mut place = Place::new();
    let entering = place.enter(0, PATIENCE);
    let (seq, _) = place.report().await;
    assert_eq!(place.decide_made(seq, None, 100), None);
    entering.await.unwrap().unwrap();

    // The stream broke; the same group is still there when it is announced again.
    let again = place.groups.announcements().len();
    assert_eq!((again, place.decide_made(seq + 1, None, 100)), (1, None));
    assert_eq!(place.members().iter().sum::<u32>(), 1);

    // It broke again, and meanwhile the group was deleted and its name taken by another.
    place.groups.announcements();
    assert_eq!(place.decide_made(seq + 2, None, 200), Some(place.key.clone()));
    assert!(place.members().is_empty());
    assert!(!place.report().await.1, "the node has nobody in the new one");
}
