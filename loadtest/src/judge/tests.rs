use super::*;
use hawser_proto::id::Position;

/// A history that is written down one event a millisecond.
#[derive(Default)]
struct History(Vec<Event>);

impl History {
    fn add(&mut self, kind: Kind, set: impl FnOnce(&mut Event)) -> &mut Self {
        let t = (self.0.len() as u64 + 1) * 1_000_000;
        let mut event = Event::new(t, kind).of("shop", "d1", "chat");
        set(&mut event);
        self.0.push(event);
        self
    }

    fn call(&mut self, push: &str) -> &mut Self {
        self.add(Kind::PushCall, |it| push.clone_into(&mut it.push))
    }

    fn ok(&mut self, push: &str, at: (u64, u64)) -> &mut Self {
        self.add(Kind::PushOk, |it| {
            push.clone_into(&mut it.push);
            (it.term, it.seq) = at;
            it.durability = Some(Durability::Memory);
        })
    }

    fn stored(&mut self, push: &str, at: (u64, u64)) -> &mut Self {
        self.call(push).ok(push, at)
    }

    fn handed(&mut self, push: &str, at: (u64, u64), set: impl FnOnce(&mut Event)) -> &mut Self {
        self.add(Kind::RecvApp, |it| {
            push.clone_into(&mut it.push);
            (it.term, it.seq) = at;
            it.process = 1;
            it.body = body(push, "shop", "d1", "chat");
            set(it);
        })
    }

    fn commit(&mut self, at: (u64, u64)) -> &mut Self {
        self.add(Kind::Commit, |it| (it.term, it.seq) = at)
    }

    fn claim(&mut self, epoch: u64, node: &str, attempt: u64) -> &mut Self {
        self.add(Kind::Claim, |it| {
            it.inbox.clear();
            it.epoch = epoch;
            node.clone_into(&mut it.node);
            "i".clone_into(&mut it.instance);
            it.attempt = attempt;
        })
    }

    fn back(&mut self, since: u64) -> &mut Self {
        self.add(Kind::FaultOn, |it| {
            "store_back".clone_into(&mut it.fault);
            it.since = since * 1_000_000;
        })
    }

    fn group(&mut self, kind: Kind, push: &str, at: u64, prev: u64) -> &mut Self {
        self.add(kind, |it| {
            "room".clone_into(&mut it.inbox);
            push.clone_into(&mut it.push);
            "link".clone_into(&mut it.node);
            if at != 0 {
                (it.term, it.seq) = (1, at);
            }
            if prev != 0 {
                (it.prev_term, it.prev_seq) = (1, prev);
            }
        })
    }

    /// Exactly these rules are broken.
    fn check(&self, expected: &[Rule]) {
        let verdict = judge(&self.0, Options::default());
        let found: Vec<Rule> = verdict.counts.keys().copied().collect();
        assert_eq!(found, expected, "{verdict}");
    }
}

fn body(push: &str, app: &str, device: &str, inbox: &str) -> String {
    Payload { push, app, device, inbox }.encode()
}

fn history() -> History {
    History::default()
}

/// Three stored pushes, one crash with one entry handed over again, one volatile push, one group.
fn good() -> History {
    let mut it = history();
    it.claim(5, "a", 1);
    it.stored("p1", (1, 1)).stored("p2", (1, 2)).handed("p1", (1, 1), |_| {});
    it.commit((1, 1));
    it.handed("p2", (1, 2), |_| {});
    it.add(Kind::Start, |it| it.process = 2).claim(6, "b", 2);
    it.handed("p2", (1, 2), |it| (it.process, it.redelivered) = (2, true)).commit((1, 2));
    it.add(Kind::Ack, |it| (it.epoch, it.term, it.seq) = (6, 1, 2));
    it.stored("p3", (1, 3)).handed("p3", (1, 3), |it| it.process = 2);
    it.call("v").add(Kind::Send, |it| {
        (it.push, it.volatile, it.epoch) = ("v".to_owned(), true, 6);
    });
    it.handed("v", (0, 0), |it| (it.process, it.volatile, it.epoch) = (2, true, 6));
    it.group(Kind::Join, "", 3, 0);
    it.group(Kind::GroupPub, "g4", 4, 3).group(Kind::GroupRecv, "g4", 4, 3);
    it.group(Kind::GroupPub, "g5", 5, 4).group(Kind::GroupRecv, "g5", 5, 4);
    it
}

#[test]
fn a_good_history_is_acquitted() {
    good().check(&[]);
    let verdict = judge(&good().0, Options::default());
    assert_eq!((verdict.stored, verdict.handed, verdict.redelivered), (3, 7, 1));
}

#[test]
fn what_was_acknowledged_and_never_came_is_lost() {
    history().stored("p1", (1, 1)).check(&[Rule::Lost]);
    // A call that was not answered promises nothing, and neither does a refusal.
    history().call("p1").add(Kind::PushUnknown, |it| it.push = "p1".into()).check(&[]);
    history().call("p1").add(Kind::PushFail, |it| it.push = "p1".into()).check(&[]);
    // Nor is anything missing while the device is away.
    history().stored("p1", (1, 1)).add(Kind::Rest, |_| {}).check(&[]);
    history().stored("p1", (1, 1)).add(Kind::Rest, |it| it.node = "a".into()).check(&[Rule::Lost]);
}

#[test]
fn what_left_by_policy_is_not_lost_when_the_device_was_told() {
    let evict =
        |overflow: bool| move |it: &mut Event| (it.push, it.overflow) = ("p1".to_owned(), overflow);
    history().stored("p1", (1, 1)).add(Kind::Evict, evict(false)).check(&[]);
    let mut silent = history();
    silent.stored("p1", (1, 1)).add(Kind::Evict, evict(true)).check(&[Rule::SilentRemoval]);
    silent.add(Kind::Gap, |it| (it.term, it.seq) = (1, 1)).check(&[]);
    let mut other = history();
    other.stored("p1", (1, 2)).add(Kind::Gap, |it| (it.term, it.seq) = (1, 1)).check(&[Rule::Lost]);
    history().stored("p1", (1, 1)).add(Kind::Evict, |it| (it.term, it.seq) = (1, 1)).check(&[]);
    let mut late = history();
    late.add(Kind::PushCall, |it| (it.push, it.expires) = ("p1".to_owned(), 2_500_000));
    late.ok("p1", (1, 1)).check(&[Rule::Lost]);
    late.call("p2").check(&[]);
}

#[test]
fn a_gap_that_covers_too_much_is_found_when_removals_are_known() {
    let mut it = history();
    it.stored("p1", (1, 1)).add(Kind::Gap, |it| (it.term, it.seq) = (1, 1)).check(&[]);
    let options = Options { evictions_known: true, ..Options::default() };
    assert_eq!(judge(&it.0, options).count(Rule::Lost), 1);
}

#[test]
fn a_declared_fault_excuses_what_it_can_have_taken_and_no_more() {
    history().stored("p1", (1, 1)).back(1).check(&[]);
    history().stored("p1", (1, 1)).call("x").back(3).check(&[Rule::Lost]);
    history().back(0).stored("p1", (2, 1)).check(&[Rule::Lost]);
    let mut synced = history();
    synced.stored("p1", (1, 1)).back(0);
    synced.0[1].durability = Some(Durability::Disk);
    synced.check(&[Rule::Lost]);
}

#[test]
fn what_comes_twice_is_a_duplicate_but_for_the_uncommitted_after_a_crash() {
    let twice = |set: fn(&mut Event), committed: u64| {
        let mut it = history();
        it.stored("p1", (1, 1)).handed("p1", (1, 1), |_| {});
        if committed > 0 {
            it.commit((1, committed));
        }
        it.handed("p1", (1, 1), set);
        it
    };
    let again: fn(&mut Event) = |it| (it.process, it.redelivered) = (2, true);
    twice(again, 0).check(&[]);
    twice(again, 1).check(&[Rule::Duplicate]);
    twice(|it| it.process = 2, 0).check(&[Rule::Duplicate]);
    twice(|it| it.redelivered = true, 0).check(&[Rule::Duplicate, Rule::Order]);
    // More than a window of them is more than was promised.
    let mut many = history();
    for seq in 1..=65 {
        let push = format!("p{seq}");
        many.stored(&push, (1, seq)).handed(&push, (1, seq), |_| {});
    }
    many.handed("p1", (1, 1), again).check(&[Rule::Duplicate]);
}

#[test]
fn a_push_that_the_store_forgot_may_come_anew() {
    let mut it = history();
    it.stored("p1", (1, 1)).handed("p1", (1, 1), |_| {}).back(0);
    it.add(Kind::TermChanged, |_| {});
    it.stored("p1", (2, 1)).handed("p1", (2, 1), |_| {}).check(&[]);
    it.0.retain(|event| event.kind != Kind::FaultOn);
    it.check(&[Rule::Duplicate, Rule::TwoPositions]);
}

#[test]
fn payloads_name_the_wrong_device_the_wrong_app_and_bytes_that_were_mixed_up() {
    let handed = |payload: String, rule| {
        let mut it = history();
        it.stored("p1", (1, 1)).handed("p1", (1, 1), |it| it.body = payload).check(&[rule]);
    };
    handed(body("p1", "shop", "d2", "chat"), Rule::WrongDevice);
    handed(body("p1", "shop", "d1", "mail"), Rule::CrossTenant);
    handed(body("p1", "bank", "d1", "chat"), Rule::CrossTenant);
    handed(body("p2", "shop", "d1", "chat"), Rule::Corrupt);
    handed(body("p1", "shop", "d1", "chat").replace("d1", "d2"), Rule::Corrupt);
}

#[test]
fn positions_grow_for_each_process() {
    let mut it = history();
    it.stored("p1", (1, 1)).stored("p2", (1, 2));
    it.handed("p2", (1, 2), |_| {}).handed("p1", (1, 1), |_| {}).check(&[Rule::Order]);
    let mut below = history();
    below.stored("p1", (1, 1)).commit((1, 1));
    below.handed("p1", (1, 1), |_| {}).check(&[Rule::Order]);
}

#[test]
fn one_push_id_has_one_position_and_one_position_has_one_push() {
    let mut it = history();
    it.stored("p1", (1, 1)).stored("p1", (1, 1)).handed("p1", (1, 1), |_| {}).check(&[]);
    it.ok("p1", (1, 2)).check(&[Rule::TwoPositions]);
    let mut reused = history();
    reused.stored("p1", (1, 1)).back(0).stored("p2", (1, 1));
    reused.handed("p2", (1, 1), |_| {}).check(&[Rule::PositionReused]);
    // The counter went back behind what the device has: it would drop the new push.
    let mut below = history();
    below.stored("p1", (1, 9)).handed("p1", (1, 9), |_| {}).back(0);
    below.stored("p2", (1, 8)).handed("p2", (1, 8), |it| it.process = 2);
    below.check(&[Rule::PositionReused]);
}

#[test]
fn a_store_that_went_back_says_so() {
    let mut it = history();
    it.stored("p1", (1, 9)).handed("p1", (1, 9), |_| {}).back(0).stored("p2", (2, 1));
    it.handed("p2", (2, 1), |it| (it.prev_term, it.prev_seq) = (1, 8)).check(&[Rule::SilentReturn]);
}

#[test]
fn volatile_pushes_come_once_and_to_the_session_they_were_written_to() {
    let volatile = |it: &mut Event| it.volatile = true;
    history().handed("v", (0, 0), volatile).check(&[]);
    let mut twice = history();
    twice.handed("v", (0, 0), volatile).handed("v", (0, 0), volatile);
    twice.check(&[Rule::VolatileTwice]);
    let send = |it: &mut Event| (it.push, it.volatile, it.epoch) = ("v".to_owned(), true, 5);
    history().add(Kind::Send, send).add(Kind::Send, send).check(&[Rule::VolatileTwice]);
    let mut other = history();
    other.add(Kind::Send, send).handed("v", (0, 0), |it| (it.volatile, it.epoch) = (true, 6));
    other.check(&[Rule::OutsideSession]);
}

#[test]
fn sessions_take_turns() {
    history().claim(5, "a", 1).claim(6, "b", 2).check(&[]);
    history().claim(5, "a", 1).claim(5, "b", 2).check(&[Rule::TwoSessions]);
    history().claim(6, "a", 1).claim(5, "b", 2).check(&[Rule::TwoSessions]);
    history().claim(5, "a", 3).claim(6, "b", 2).check(&[Rule::StaleLogin]);
    history().claim(5, "a", 3).back(0).claim(6, "b", 2).check(&[]);
    let ack = |it: &mut Event| it.epoch = 5;
    history().claim(5, "a", 1).add(Kind::Ack, ack).check(&[]);
    history().claim(5, "a", 1).claim(6, "b", 2).add(Kind::Ack, ack).check(&[Rule::StaleAck]);
    history().claim(5, "a", 1).claim(6, "b", 2).back(1).add(Kind::Ack, ack).check(&[]);
}

#[test]
fn the_route_is_right_at_rest_and_removed_by_its_owner_alone() {
    let set = |it: &mut Event| (it.epoch, it.node) = (5, "a".to_owned());
    history().add(Kind::RouteSet, set).add(Kind::Rest, set).check(&[]);
    history().add(Kind::RouteSet, set).add(Kind::Rest, |_| {}).check(&[Rule::WrongRoute]);
    let mut other = history();
    other.add(Kind::RouteSet, set).add(Kind::Rest, |it| (it.epoch, it.node) = (6, "b".to_owned()));
    other.check(&[Rule::WrongRoute]);
    let mut gone = history();
    gone.add(Kind::RouteSet, set).add(Kind::RouteDel, |it| it.epoch = 5).add(Kind::Rest, |_| {});
    gone.check(&[]);
    let mut stale = history();
    stale.add(Kind::RouteSet, set).add(Kind::RouteDel, |it| it.epoch = 4);
    stale.check(&[Rule::StaleRemoval]);
}

#[test]
fn words_about_sessions_come_in_the_order_of_epochs() {
    let epoch = |epoch: u64| move |it: &mut Event| it.epoch = epoch;
    let mut it = history();
    it.add(Kind::Online, epoch(5)).add(Kind::Offline, epoch(5)).add(Kind::Online, epoch(6));
    it.check(&[]);
    let mut again = History(it.0.clone());
    again.add(Kind::Offline, epoch(5)).add(Kind::Online, epoch(6)).check(&[]);
    it.add(Kind::Offline, epoch(4)).check(&[Rule::EventOrder]);
    let mut late = history();
    late.add(Kind::Offline, epoch(5)).add(Kind::Online, epoch(5)).check(&[Rule::EventOrder]);
    let mut other = history();
    other.add(Kind::Online, epoch(6));
    other.add(Kind::Online, |it| (it.epoch, it.inbox) = (5, "mail".to_owned())).check(&[]);
    let mut back = history();
    back.add(Kind::Online, epoch(6)).back(0).add(Kind::Online, epoch(5)).check(&[]);
}

#[test]
fn at_rest_a_business_that_asked_has_heard_what_is_true() {
    let epoch = |epoch: u64| move |it: &mut Event| it.epoch = epoch;
    let watched = |it: &mut Event| {
        (it.epoch, it.attempt) = (5, 1);
        (it.node, it.instance) = ("a".to_owned(), "i".to_owned());
    };
    let here = |it: &mut Event| (it.epoch, it.node) = (5, "a".to_owned());
    let logged_in = || {
        let mut it = history();
        it.add(Kind::Claim, watched);
        it
    };
    logged_in().add(Kind::Online, epoch(5)).add(Kind::Rest, here).check(&[]);
    logged_in().add(Kind::Rest, here).check(&[Rule::Untold]);
    logged_in().add(Kind::Online, epoch(4)).add(Kind::Rest, here).check(&[Rule::Untold]);
    let mut ended = logged_in();
    ended.add(Kind::Online, epoch(5)).add(Kind::Offline, epoch(5));
    History(ended.0.clone()).add(Kind::Rest, here).check(&[Rule::Untold]);
    ended.add(Kind::Rest, |_| {}).check(&[]);
    logged_in().add(Kind::Online, epoch(5)).add(Kind::Rest, |_| {}).check(&[Rule::Untold]);
    logged_in().add(Kind::Rest, |_| {}).check(&[]);
    let mut unwatched = history();
    unwatched.claim(5, "a", 1);
    unwatched.add(Kind::Rest, here).check(&[]);
}

#[test]
fn members_receive_in_order_without_holes_and_only_while_they_are_in() {
    use Kind::{GroupPub, GroupRecv, GroupReset, Join, Leave};
    let joined = || {
        let mut it = history();
        it.group(Join, "", 3, 0);
        it
    };
    joined().group(GroupRecv, "g4", 4, 3).group(GroupRecv, "g4", 4, 3).check(&[Rule::GroupOrder]);
    joined().group(GroupRecv, "g5", 5, 4).check(&[Rule::GroupHole]);
    joined().group(GroupReset, "", 9, 4).group(GroupRecv, "g5", 5, 4).check(&[]);
    joined().group(GroupPub, "g4", 4, 3).check(&[Rule::GroupHole]);
    joined().group(GroupPub, "g4", 4, 3).group(Leave, "", 0, 0).check(&[]);
    let mut left = joined();
    left.group(Leave, "", 0, 0).group(GroupRecv, "g4", 4, 3).check(&[Rule::AfterLeave]);
    history().group(GroupRecv, "g4", 4, 3).check(&[Rule::NotAMember]);
    let mut live = joined();
    live.group(GroupRecv, "g", 0, 0).group(GroupRecv, "g", 0, 0).check(&[Rule::VolatileTwice]);
    // Out and in again by the app's own wish: it begins with what comes now.
    let mut anew = joined();
    anew.group(GroupPub, "g4", 4, 3).group(Join, "", 0, 0).group(Join, "", 4, 0);
    anew.group(GroupRecv, "g5", 5, 4).check(&[]);
    let tenant = |it: &mut Event| {
        it.body = body("g", "bank", "", "room");
        (it.inbox, it.node) = ("room".to_owned(), "link".to_owned());
    };
    joined().add(GroupRecv, tenant).check(&[Rule::CrossTenant]);
}

#[test]
fn every_mutation_of_what_was_handed_over_is_convicted() {
    let good = good();
    let handed = |event: &Event| {
        matches!(event.kind, Kind::RecvApp | Kind::GroupRecv)
            && !event.redelivered
            && !event.volatile
    };
    let places: Vec<usize> = (0..good.0.len()).filter(|it| handed(&good.0[*it])).collect();
    assert_eq!(places.len(), 5);
    for &place in &places {
        let mut doubled = good.0.clone();
        doubled.insert(place, good.0[place].clone());
        assert!(!judge(&doubled, Options::default()).is_clean(), "doubled {place}");
        // The one that came again after the crash came after all.
        if good.0[place].push != "p2" {
            let mut dropped = good.0.clone();
            dropped.remove(place);
            assert!(!judge(&dropped, Options::default()).is_clean(), "dropped {place}");
        }
        let mut astray = good.0.clone();
        astray[place].body = body(&good.0[place].push, "shop", "d9", &good.0[place].inbox);
        assert!(!judge(&astray, Options::default()).is_clean(), "astray {place}");
    }
    for pair in places.windows(2) {
        if good.0[pair[0]].kind == good.0[pair[1]].kind {
            let mut swapped = good.0.clone();
            let (a, b) = (good.0[pair[0]].position(), good.0[pair[1]].position());
            swapped[pair[0]] = swapped[pair[0]].clone().at(b);
            swapped[pair[1]] = swapped[pair[1]].clone().at(a);
            assert!(!judge(&swapped, Options::default()).is_clean(), "swapped {pair:?}");
        }
    }
}

#[test]
fn a_history_is_read_line_by_line_from_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, events: &[Event], tail: &str| {
        let lines: String =
            events.iter().map(|it| serde_json::to_string(it).unwrap() + "\n").collect();
        let path = folder.path().join(name);
        std::fs::write(&path, lines + tail).unwrap();
        path
    };
    let good = good().0;
    let (handed, rest): (Vec<Event>, Vec<Event>) =
        good.iter().cloned().partition(|it| it.kind == Kind::RecvApp);
    // The last line is what a killed process leaves.
    let files = [write("device", &handed, "{\"t\":9,\"ki"), write("caller", &rest, "\n")];
    let read = files.iter().map(|it| read(it).unwrap()).collect();
    assert_eq!(merge(read), good);
    let torn = write("torn", &[], "{\"t\":9,\"ki\n{}\n");
    assert!(super::read(&torn).is_err());
    assert_eq!(good[1].position(), Position::START);
}
