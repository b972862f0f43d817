//! Moves: when a node says GO_AWAY, and what two links may bring.

use super::*;
use hawser_proto::frame::ability;
use hawser_proto::limits::GO_AWAY_DEADLINE;

const A: &str = "tcp://h:1";
const B: &str = "tcp://h:2";

impl Rig {
    fn go_away(&mut self, deadline: Duration, alternatives: &[&str]) -> String {
        let deadline_ms = deadline.as_millis() as u32;
        let alternatives = named(alternatives);
        let reason = "an upgrade".into();
        self.hear(&NodeFrame::GoAway(params::GoAway { deadline_ms, reason, alternatives }))
    }

    fn beside(&mut self, frame: &NodeFrame) -> String {
        self.feed(Event::Beside(Heard::Frame(raw(frame))))
    }

    /// Dialled, logged in.
    fn arrive(&mut self) -> String {
        let seen = self.feed(Event::Dialled(Ok(())));
        assert!(seen.starts_with("beside: send LOGIN"), "{seen}");
        self.beside(&ok(8))
    }

    fn after(&mut self, duration: Duration) -> String {
        let until = self.now + duration;
        let mut seen = Vec::new();
        while let Some(at) = self.session.wake_at().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            seen.push(self.feed(Event::Due));
        }
        self.now = until;
        seen.retain(|it| !it.is_empty());
        seen.join(", ")
    }
}

fn ok(epoch: u64) -> NodeFrame {
    NodeFrame::LoginOk(params::LoginOk { epoch, ..login_ok() })
}

fn ok_with_ticket(ticket: &'static str) -> NodeFrame {
    NodeFrame::LoginOk(params::LoginOk { resume_ticket: ticket.into(), ..login_ok() })
}

fn named(texts: &[&str]) -> Vec<params::AccessPoint> {
    let point = |text: &&str| {
        let (protocol, place) = text.split_once("://").unwrap();
        let (host, port) = place.rsplit_once(':').unwrap();
        params::AccessPoint {
            protocol: protocol.into(),
            host: host.into(),
            port: port.parse().unwrap(),
            server_name: String::new(),
        }
    };
    texts.iter().map(point).collect()
}

fn close_frame(code: CloseCode, alternatives: &[&str]) -> NodeFrame {
    let alternatives = named(alternatives);
    let code = code.number().into();
    NodeFrame::Close(params::Close { code, alternatives, ..params::Close::default() })
}

fn response(request_id: u64) -> NodeFrame {
    NodeFrame::Response(params::Response { request_id, ..Default::default() }, Bytes::new())
}

fn volatile(id: &'static str) -> NodeFrame {
    NodeFrame::Push(
        params::Push { push_id: id.into(), business: 5, ..Default::default() },
        Bytes::new(),
    )
}

fn stored(seq: u64) -> NodeFrame {
    let prev_term = if seq == 1 { 0 } else { 9 };
    let push = params::Push { business: 5, term: 9, seq, prev_term, ..Default::default() };
    NodeFrame::Push(params::Push { prev_seq: seq - 1, ..push }, Bytes::new())
}

fn group_push(id: &'static str) -> NodeFrame {
    let push = params::GroupPush {
        push_id: id.into(),
        business: 5,
        group: "g".into(),
        ..Default::default()
    };
    NodeFrame::GroupPush(push, Bytes::new())
}

fn superseded() -> NodeFrame {
    close_frame(CloseCode::Superseded, &[])
}

#[test]
fn a_device_logs_in_there_and_then_leaves_here() {
    let mut rig = Rig::online(&[A, B]);
    assert_eq!(rig.go_away(30 * SECOND, &[]), "dial beside tcp://h:2 #2");
    assert_eq!(rig.hear(&volatile("1")), "push chat \"device\"", "the old link is in use");
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "beside: send LOGIN token-1");
    assert_eq!(rig.beside(&ok(8)), "swap, limit, tell online, beside: send BYE");
    assert_eq!(rig.beside(&volatile("2")), "push chat \"device\"", "it was written before BYE");
    assert_eq!(rig.beside(&close_frame(CloseCode::Goodbye, &[])), "hang up beside");
    let (id, seen) = rig.ask("chat", SECOND);
    assert_eq!(seen, format!("send REQUEST {id}"));
    assert_eq!(rig.hear(&response(id)), format!("answer {id} ok"));
}

#[test]
fn the_nodes_own_alternatives_come_first() {
    let mut rig = Rig::online(&[A, B]);
    let seen = rig.go_away(30 * SECOND, &["ws://n:8", "tcp://h:1", "tcp://n:9"]);
    assert_eq!(seen, "dial beside tcp://n:9 #2", "the protocol that works here; never this node");
    let next = |rig: &mut Rig| rig.feed(Event::Dialled(Err("refused".into())));
    assert_eq!(next(&mut rig), "dial beside ws://n:8 #3");
    assert_eq!(next(&mut rig), "dial beside tcp://h:2 #4", "then control's");
    assert_eq!(next(&mut rig), "ask", "then control itself");
    let seen = rig.feed(Event::Advised(Ok(advice(rig.now, &[A, "tcp://h:3"]))));
    assert_eq!(seen, "dial beside tcp://h:3 #5");
    assert_eq!(rig.arrive(), "swap, limit, tell online, beside: send BYE");
}

#[test]
fn what_cannot_be_dialled_is_passed_over() {
    let mut rig = Rig::online(&[A, B]);
    let mut garbage = named(&["tcp://h:0", "smoke://h:1", "tcp://:1"]);
    garbage.extend(vec![params::AccessPoint::default(); 1000]);
    let told = params::GoAway { alternatives: garbage, ..Default::default() };
    assert_eq!(rig.hear(&NodeFrame::GoAway(told)), "dial beside tcp://h:2 #2");

    let mut rig = Rig::online(&[A]);
    let only = Setup { protocols: vec![Protocol::Tcp], ..(*rig.session.setup).clone() };
    rig.session.setup = Arc::new(only);
    assert_eq!(rig.go_away(SECOND, &["ws://n:1", "tcp://n:2"]), "dial beside tcp://n:2 #2");
}

#[test]
fn superseded_by_its_own_login_is_no_reason_to_stay_away() {
    // The node of the old link may be quicker than the answer to the login.
    let mut rig = in_state("moving: logging in");
    let seen = rig.hear(&superseded());
    assert_eq!(seen, "swap, hang up beside", "the app hears nothing");
    assert_eq!(rig.hear(&ok(8)), "limit, tell online");

    // Or slower.
    let mut rig = in_state("moved");
    assert_eq!(rig.beside(&superseded()), "hang up beside");
    assert_eq!(name(&rig.session.state), "online");

    // Or the answer never comes.
    let mut rig = in_state("moving: logging in");
    let seen = rig.feed(Event::Beside(Heard::Ended(None)));
    assert_eq!(seen, "hang up beside, ask", "where it was tried already, control may know better");
    assert_eq!(rig.hear(&superseded()), "hang up beside, hang up, tell offline now");

    // Nor is it known before the move was given up, or another one has begun.
    for is_told_again in [false, true] {
        let mut rig = in_state("moving: logging in");
        rig.feed(Event::Beside(Heard::Ended(None)));
        rig.feed(event("refused never", rig.now, &[]));
        assert_eq!(stage(&rig.session), "moving: given up");
        if is_told_again {
            rig.go_away(30 * SECOND, &["tcp://n:9"]);
            assert_eq!(stage(&rig.session), "moving: dialling");
        }
        assert_eq!(rig.hear(&superseded()), "hang up beside, hang up, tell offline now");
    }

    // Or the link of the new login, which took the place of the old one, ends as well.
    let mut rig = in_state("moving: logging in");
    rig.hear(&superseded());
    assert_eq!(rig.feed(Event::Ended(None)), "hang up, tell offline now");
}

#[test]
fn superseded_by_another_login_ends_the_client() {
    let mut rig = in_state("moving: dialling");
    assert!(rig.hear(&superseded()).ends_with("tell closed superseded"), "before its own login");
    let mut rig = in_state("moving: logging in");
    assert!(rig.beside(&superseded()).ends_with("tell closed superseded"), "after it");
    let mut rig = in_state("moving: logging in");
    let code = CloseCode::Superseded.number();
    let seen = rig.feed(Event::Beside(Heard::Ended(Some(code))));
    assert!(seen.ends_with("tell closed superseded"), "in the words of the transport");
    let mut rig = in_state("moved");
    assert!(rig.hear(&superseded()).ends_with("tell closed superseded"), "after the move");
    let mut rig = in_state("moving: logging in");
    rig.beside(&close_frame(CloseCode::NodeFull, &[]));
    assert!(rig.hear(&superseded()).ends_with("tell closed superseded"), "its login was refused");
}

#[test]
fn requests_in_flight_are_answered_before_the_login_and_new_ones_wait() {
    let mut rig = Rig::online(&[A, B]);
    let (first, _) = rig.ask("chat", 10 * SECOND);
    rig.go_away(30 * SECOND, &[]);
    let (second, seen) = rig.ask("chat", 10 * SECOND);
    assert_eq!(seen, format!("send REQUEST {second}"), "dialling may take its time");
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "");
    let (third, seen) = rig.ask("chat", 10 * SECOND);
    assert_eq!(seen, "");
    assert_eq!(rig.hear(&response(first)), format!("answer {first} ok"));
    let seen = rig.hear(&response(second));
    assert_eq!(seen, format!("answer {second} ok, beside: send LOGIN token-1"));
    let seen = rig.beside(&ok(8));
    let expected = format!("swap, limit, tell online, send REQUEST {third}, beside: send BYE");
    assert_eq!(seen, expected);
}

#[test]
fn a_request_that_takes_long_is_answered_on_the_old_link() {
    let mut rig = Rig::online(&[A, B]);
    let (long, _) = rig.ask("chat", 20 * SECOND);
    rig.go_away(30 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    assert_eq!(rig.due(), "beside: send LOGIN token-1", "a second is all it gets");
    assert_eq!(rig.beside(&ok(8)), "swap, limit, tell online", "no BYE yet");
    assert_eq!(rig.hear(&response(long)), "", "an answer of the new link is no answer");
    let seen = rig.beside(&response(long));
    assert_eq!(seen, format!("answer {long} ok, beside: send BYE"));

    // Until the node closes, or for half a minute, whatever was said of the deadline.
    for ended in ["superseded", "never"] {
        let mut rig = Rig::online(&[A, B]);
        let (long, _) = rig.ask("chat", 60 * SECOND);
        rig.go_away(2 * SECOND, &[]);
        rig.feed(Event::Dialled(Ok(())));
        rig.due();
        rig.beside(&ok(8));
        let lost = format!("answer {long} the connection was lost before the answer");
        if ended == "superseded" {
            assert_eq!(rig.beside(&superseded()), format!("hang up beside, {lost}"));
        } else {
            let seen = rig.after(29 * SECOND);
            assert_eq!(seen, "beside: send PING, send PING", "both links are kept alive");
            rig.hear(&NodeFrame::Pong(params::Ping::default()));
            let seen = rig.after(4 * SECOND);
            assert_eq!(seen, format!("beside: send BYE, {lost}, hang up beside"));
        }
        assert_eq!(name(&rig.session.state), "online");
    }
}

#[test]
fn a_node_may_take_its_time_to_close_what_was_left() {
    let mut rig = Rig::online(&[A, B]);
    let (long, _) = rig.ask("chat", 20 * SECOND);
    rig.go_away(30 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    rig.due();
    rig.beside(&ok(8));
    assert_eq!(rig.after(SECOND), "", "nothing is amiss");
    let (quick, seen) = rig.ask("chat", SECOND);
    assert_eq!(seen, format!("send REQUEST {quick}"), "on the new link");
    assert_eq!(rig.hear(&response(quick)), format!("answer {quick} ok"));
    assert_eq!(rig.after(2 * SECOND), "");
    assert_eq!(rig.beside(&response(long)), format!("answer {long} ok, beside: send BYE"));
    assert_eq!(rig.beside(&superseded()), "hang up beside");
    assert_eq!(stage(&rig.session), "online");
}

#[test]
fn the_next_move_waits_a_while_for_answers_of_the_last_one() {
    let moved_with_a_request = || {
        let mut rig = Rig::online(&[A, B]);
        let (long, _) = rig.ask("chat", 20 * SECOND);
        rig.go_away(30 * SECOND, &[]);
        rig.feed(Event::Dialled(Ok(())));
        rig.due();
        rig.beside(&ok(8));
        assert_eq!(rig.go_away(15 * SECOND, &[A]), "");
        (rig, long)
    };
    let (mut rig, long) = moved_with_a_request();
    assert_eq!(rig.after(3 * SECOND), "");
    assert_eq!(rig.beside(&response(long)), format!("answer {long} ok, beside: send BYE"));
    let seen = rig.after(2 * SECOND);
    assert_eq!(seen, "hang up beside, dial beside tcp://h:1 #3");

    let (mut rig, long) = moved_with_a_request();
    let lost = format!("answer {long} the connection was lost before the answer");
    let seen = rig.after(5 * SECOND);
    assert_eq!(seen, format!("hang up beside, {lost}, dial beside tcp://h:1 #3"));
}

#[test]
fn requests_do_not_wait_for_a_login_that_is_never_answered() {
    let mut rig = in_state("moving: logging in");
    let (id, seen) = rig.ask("chat", 60 * SECOND);
    assert_eq!(seen, "");
    let before = rig.now;
    assert_eq!(rig.due(), format!("send REQUEST {id}"), "the old link is still good");
    assert_eq!(rig.now - before, 2 * SECOND);
}

#[test]
fn a_move_that_fails_is_tried_until_the_deadline() {
    let mut rig = Rig::online(&[A, B]);
    let began = rig.now;
    rig.go_away(30 * SECOND, &[]);
    let mut dials = 1;
    while stage(&rig.session) != "moving: given up" {
        let seen = match stage(&rig.session) {
            "moving: dialling" => rig.feed(Event::Dialled(Err("refused".into()))),
            "moving: asking" => rig.feed(event("refused later", rig.now, &[])),
            "moving: waiting" => rig.due(),
            other => panic!("{other}"),
        };
        dials += seen.matches("dial beside").count();
        assert!(!seen.contains("tell"), "the app is online: {seen}");
    }
    assert!((25 * SECOND..60 * SECOND).contains(&(rig.now - began)), "{:?}", rig.now - began);
    assert!((4..8).contains(&dials), "{dials} dials with growing delays");
    let (id, seen) = rig.ask("chat", SECOND);
    assert_eq!(seen, format!("send REQUEST {id}"), "the old link is used to its end");
    let seen = rig.hear(&close_frame(CloseCode::Draining, &["tcp://n:9"]));
    assert!(seen.ends_with("tell offline elsewhere"), "{seen}");
    assert!(rig.waits() < 10 * SECOND, "within the window");
    assert_eq!(
        rig.due(),
        "tell connecting, dial tcp://n:9 #".to_owned() + &(dials + 2).to_string()
    );
}

#[test]
fn a_refused_login_goes_on_with_the_next_point() {
    let mut rig = Rig::online(&[A, B, "tcp://h:3"]);
    rig.go_away(30 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    let seen = rig.beside(&close_frame(CloseCode::NodeFull, &["tcp://n:9", A]));
    assert_eq!(seen, "hang up beside, dial beside tcp://n:9 #3");
    rig.feed(Event::Dialled(Ok(())));
    let later = params::Close { code: 4100, retry_after_ms: 7_000, ..params::Close::default() };
    let seen = rig.beside(&NodeFrame::Close(later));
    assert_eq!(seen, "hang up beside, dial beside tcp://h:3 #4");
    rig.feed(Event::Dialled(Ok(())));
    assert_eq!(rig.feed(Event::Beside(Heard::Broken(FrameError::Magic))), "hang up beside, ask");
    assert_eq!(rig.feed(event("refused later", rig.now, &[])), "");
    let before = rig.now;
    assert!(rig.due().starts_with("dial beside"), "another round");
    assert!(rig.now - before >= 7 * SECOND, "and not before the time that was told");

    // Whatever is told, the move ends with its deadline, and the next GO_AWAY begins another one.
    let mut rig = Rig::online(&[A, B]);
    rig.go_away(10 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    let never = params::Close { code: 4100, retry_after_ms: u32::MAX, ..Default::default() };
    rig.beside(&NodeFrame::Close(never));
    rig.feed(event("refused later", rig.now, &[]));
    assert_eq!(rig.after(10 * SECOND), "");
    assert_eq!(stage(&rig.session), "moving: given up");
    assert_eq!(rig.go_away(10 * SECOND, &["tcp://n:9"]), "dial beside tcp://n:9 #3");
}

#[test]
fn the_old_link_may_end_at_any_time() {
    for (stage, seen) in [
        ("moving: dialling", "hang up beside, hang up, tell offline elsewhere"),
        ("moving: asking", "hang up beside, hang up, tell offline elsewhere"),
        ("moving: waiting", "hang up beside, hang up, tell offline elsewhere"),
        ("moving: given up", "hang up beside, hang up, tell offline elsewhere"),
        ("moving: logging in", "tell connecting, swap, hang up beside"),
    ] {
        let mut rig = in_state(stage);
        assert_eq!(rig.hear(&close_frame(CloseCode::Draining, &[])), seen, "{stage}");
    }
    let mut rig = in_state("moving: settling");
    let seen = rig.feed(Event::Ended(None));
    let lost = "answer 1000 the connection was lost before the answer";
    assert_eq!(seen, format!("tell connecting, swap, hang up beside, {lost}, send LOGIN token-1"));
    assert_eq!(rig.hear(&ok(8)), "limit, tell online");

    // What ends the session ends the move.
    for code in [CloseCode::Ejected, CloseCode::AppUnavailable] {
        let mut rig = in_state("moving: logging in");
        assert!(rig.close(code, Duration::ZERO).contains("tell closed"), "{code}");
    }
    let mut rig = in_state("moving: logging in");
    let seen = rig.close(CloseCode::TokenRevoked, Duration::ZERO);
    assert_eq!(seen, "hang up beside, hang up, tell offline new token");
}

#[test]
fn stopping_ends_both_links() {
    for stage in ["moving: dialling", "moving: logging in", "moving: waiting", "moved"] {
        let mut rig = in_state(stage);
        assert_eq!(rig.feed(Event::Stop), "hang up beside, send BYE", "{stage}");
        assert!(rig.due().ends_with("tell closed asked to close"));
    }
}

#[test]
fn two_in_a_row_and_one_every_second() {
    let mut rig = Rig::online(&[A, B, "tcp://h:3"]);
    let mut moves = 0;
    let began = rig.now;
    let pong = NodeFrame::Pong(params::Ping::default());
    while rig.now - began < 60 * SECOND {
        rig.go_away(30 * SECOND, &[]);
        let seen = rig.after(SECOND);
        rig.hear(&pong);
        if stage(&rig.session) == "moving: dialling" {
            assert!(rig.arrive().starts_with("swap, limit, tell online"), "{seen}");
            moves += 1;
        }
    }
    assert!((11..=13).contains(&moves), "{moves} moves in a minute: two in ten seconds");

    // The second one comes while the first is not over: it is the same move.
    let mut rig = in_state("moving: logging in");
    assert_eq!(rig.go_away(SECOND, &["tcp://n:9"]), "");
    assert_eq!(rig.beside(&ok(8)), "swap, limit, tell online, beside: send BYE");
    // And of the next node at once: the old link of the first move is given up.
    assert_eq!(rig.go_away(30 * SECOND, &[]), "hang up beside, dial beside tcp://h:1 #3");
}

#[test]
fn a_deadline_of_nothing_or_of_days_is_no_trouble() {
    for deadline_ms in [0, 1, u32::MAX] {
        let mut rig = Rig::online(&[A, B]);
        let told = params::GoAway { deadline_ms, ..Default::default() };
        assert_eq!(rig.hear(&NodeFrame::GoAway(told)), "dial beside tcp://h:2 #2");
        assert_eq!(rig.arrive(), "swap, limit, tell online, beside: send BYE");
        assert_eq!(rig.after(GO_AWAY_DEADLINE / 2), "hang up beside");
    }
}

#[test]
fn without_the_ability_nothing_is_done() {
    let mut rig = in_state("logging in");
    let abilities = ability::INBOX | ability::HISTORY;
    let old_node = params::LoginOk { abilities, resume_ticket: "odd".into(), ..login_ok() };
    rig.hear(&NodeFrame::LoginOk(old_node));
    assert_eq!(rig.go_away(30 * SECOND, &[B]), "");
    rig.feed(Event::Ended(None));
    rig.due();
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN token-1", "nor is a ticket kept");
}

#[test]
fn a_go_away_before_the_login_is_nothing() {
    let mut rig = in_state("logging in");
    assert_eq!(rig.go_away(30 * SECOND, &[B]), "");
    rig.hear(&ok(7));
    let mut rig2 = in_state("moving: logging in");
    let told = params::GoAway { deadline_ms: 1, ..Default::default() };
    assert_eq!(rig2.beside(&NodeFrame::GoAway(told)), "");
    assert_eq!(stage(&rig.session), "online");
}

// --- what two links bring ---

/// A member of "g" that is logged in on two links.
fn member_on_two_links() -> Rig {
    let mut rig = member();
    rig.hear(&group_push("1"));
    rig.go_away(30 * SECOND, &[B]);
    rig.hear(&group_push("2"));
    rig.feed(Event::Dialled(Ok(())));
    let seen = rig.beside(&ok(8));
    assert_eq!(seen, "swap, limit, tell online, send JOIN g", "no BYE before the group is joined");
    rig
}

#[test]
fn a_live_group_is_left_when_it_is_joined_and_hears_nothing_twice() {
    let mut rig = member_on_two_links();
    let heard = "push chat \"g\"";
    assert_eq!(rig.hear(&group_push("2")), "", "the other link brought it");
    assert_eq!(rig.beside(&group_push("3")), heard);
    assert_eq!(rig.hear(&group_push("3")), "");
    assert_eq!(rig.hear(&group_push("4")), heard);
    assert_eq!(rig.beside(&group_push("4")), "");
    assert_eq!(rig.beside(&group_push("5")), heard);
    assert_eq!(rig.beside(&group_push("5")), heard, "one link: two pushes");
    let seen = rig.hear(&joined(rig.session.last_id, 0));
    assert_eq!(seen, "beside: send BYE", "nobody waits for the join");
    assert_eq!(rig.beside(&close_frame(CloseCode::Goodbye, &[])), "hang up beside");
    assert_eq!(rig.hear(&group_push("5")), "", "late on the new link");
    rig.after(6 * SECOND);
    assert_eq!(rig.hear(&group_push("4")), heard, "and then an id may be used again");
}

#[test]
fn a_join_without_an_answer_does_not_hold_the_old_link() {
    let mut rig = member_on_two_links();
    assert_eq!(rig.after(2 * SECOND), "beside: send BYE");
}

#[test]
fn a_membership_that_ended_before_the_move_is_over() {
    let mut rig = member_on_two_links();
    let seen = rig.beside(&left(params::LeftReason::Kicked));
    assert_eq!(seen, "left chat g Kicked, send LEAVE g, beside: send BYE");
}

#[test]
fn what_has_a_position_comes_from_one_link() {
    let mut rig = Rig::online(&[A, B]);
    assert_eq!(rig.hear(&stored(1)), "shelve chat 1");
    rig.go_away(30 * SECOND, &[]);
    assert_eq!(rig.hear(&stored(2)), "shelve chat 2");
    rig.feed(Event::Dialled(Ok(())));
    assert_eq!(rig.hear(&stored(3)), "shelve chat 3", "up to LOGIN_OK the old one");
    rig.beside(&ok(8));
    assert_eq!(rig.beside(&stored(4)), "", "from then on the new one");
    for seq in 1..=3 {
        assert_eq!(rig.hear(&stored(seq)), "", "it begins where the LOGIN said");
    }
    assert_eq!(rig.hear(&stored(4)), "shelve chat 4");
    assert_eq!(rig.hear(&stored(5)), "shelve chat 5");
}

#[test]
fn acknowledgements_go_to_the_link_that_has_brought_it() {
    let mut rig = Rig::online(&[A, B]);
    rig.hear(&stored(1));
    rig.go_away(30 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    // Handled and kept while the login is under way: the old link has brought it.
    assert_eq!(rig.feed(Event::Handled("chat".into(), 1)), "");
    assert!(rig.due().starts_with("keep"));
    assert_eq!(rig.feed(Event::Kept(true)), "send ACK");
    rig.beside(&ok(8));
    // The new one has not, and is told nothing before it has.
    assert!(!rig.after(SECOND).contains("ACK"));
    rig.hear(&stored(1));
    assert!(rig.after(SECOND).contains("send ACK"));

    // Nor of what was handled after the move, and came before.
    let mut rig = Rig::online(&[A, B]);
    rig.hear(&stored(1));
    rig.go_away(30 * SECOND, &[]);
    rig.feed(Event::Dialled(Ok(())));
    rig.beside(&ok(8));
    rig.feed(Event::Handled("chat".into(), 1));
    assert!(rig.after(SECOND).contains("keep"));
    assert_eq!(rig.feed(Event::Kept(true)), "", "the new link would take it for a lie");
    rig.hear(&stored(1));
    assert!(rig.after(SECOND).contains("send ACK"));
}

// --- tickets ---

#[test]
fn a_ticket_stands_for_the_token_while_it_is_good() {
    let mut rig = in_state("logging in");
    rig.hear(&ok_with_ticket("ticket-1"));
    rig.feed(Event::Ended(None));
    rig.due();
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN by ticket-1");
    rig.hear(&ok_with_ticket("ticket-2"));
    rig.go_away(30 * SECOND, &[B]);
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "beside: send LOGIN by ticket-2");
    rig.beside(&ok(8));
    rig.feed(Event::Ended(None));
    rig.due();
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN token-1", "this node gave none");
}

#[test]
fn a_refused_ticket_is_followed_by_the_token_at_once_and_once() {
    for code in [CloseCode::TokenExpired, CloseCode::TokenInvalid, CloseCode::TokenRevoked] {
        let mut rig = in_state("logging in");
        rig.hear(&ok_with_ticket("ticket-1"));
        rig.feed(Event::Ended(None));
        rig.due();
        assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN by ticket-1");
        assert_eq!(rig.close(code, Duration::ZERO), "hang up, dial tcp://h:1 #3");
        assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN token-1");
        assert_eq!(rig.close(code, Duration::ZERO), "hang up, tell offline new token");
        assert!(rig.due().contains("ask"));

        // The same while moving.
        let mut rig = in_state("logging in");
        rig.hear(&ok_with_ticket("ticket-1"));
        rig.go_away(30 * SECOND, &[B]);
        assert_eq!(rig.feed(Event::Dialled(Ok(()))), "beside: send LOGIN by ticket-1");
        let refused = close_frame(code, &[]);
        assert_eq!(rig.beside(&refused), "hang up beside, dial beside tcp://h:2 #3");
        assert_eq!(rig.feed(Event::Dialled(Ok(()))), "beside: send LOGIN token-1");
        assert_eq!(rig.beside(&refused), "hang up beside, ask");
        rig.feed(Event::Advised(Ok(advice(rig.now, &[B]))));
        assert_eq!(rig.arrive(), "swap, limit, tell online, beside: send BYE");
    }
}

#[test]
fn a_ticket_ends_with_its_token() {
    // Revoked, or another token from control.
    let mut rig = in_state("logging in");
    rig.hear(&ok_with_ticket("ticket-1"));
    rig.close(CloseCode::TokenRevoked, Duration::ZERO);
    assert!(rig.due().contains("ask"));
    rig.feed(Event::Advised(Ok(advice(rig.now, &[A]))));
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN token-1");

    // Logged out: the next start of the client begins with the token.
    let mut rig = in_state("logging in");
    rig.hear(&ok_with_ticket("ticket-1"));
    rig.feed(Event::Stop);
    rig.due();
    assert!(rig.session.ticket.show(rig.now).is_empty());
}

// --- coming back ---

#[test]
fn nodes_that_name_each_other_are_no_busy_loop() {
    let mut rig = in_state("logging in");
    let mut dials = 0;
    while name(&rig.session.state) == "logging in" {
        let [one, other] = [&["tcp://n:8"][..], &["tcp://n:9"][..]];
        let seen =
            rig.hear(&close_frame(CloseCode::NodeFull, if dials % 2 == 0 { one } else { other }));
        dials += seen.matches("dial").count();
        rig.feed(Event::Dialled(Ok(())));
        assert!(dials < 10);
    }
    assert_eq!(dials, 3, "each once: h:2, n:8, n:9");
    assert!(rig.waits() >= SECOND, "then it waits as for later");
    assert!(rig.due().contains("ask"));
}

#[test]
fn the_window_of_the_login_counts() {
    for (told, longest) in [(0, 10), (2_000, 2), (40_000, 40)] {
        let mut slowest = Duration::ZERO;
        for seed in 0..200 {
            let mut rig = in_state("logging in");
            rig.session.backoff = Backoff::new(settings(), seed);
            let ok = params::LoginOk { reconnect_window_ms: told, ..login_ok() };
            rig.hear(&NodeFrame::LoginOk(ok));
            rig.feed(Event::Ended(None));
            slowest = slowest.max(rig.waits());
        }
        let longest = Duration::from_secs(longest);
        assert!(slowest <= longest && slowest > longest / 2, "{told}: {slowest:?}");
    }
}

#[test]
fn devices_of_a_node_that_dies_soon_after_they_came_are_spread() {
    for code in [None, Some(CloseCode::Draining), Some(CloseCode::Disconnected)] {
        let mut quarters = [0; 4];
        for seed in 0..400 {
            let mut rig = Rig::online(&[A, B]);
            rig.session.backoff = Backoff::new(settings(), seed);
            rig.feed(Event::Ended(None));
            rig.due();
            rig.log_in();
            rig.now += 10 * SECOND;
            match code {
                None => rig.feed(Event::Ended(None)),
                Some(code) => rig.close(code, Duration::ZERO),
            };
            let quarter = rig.waits().as_secs_f64() / 10.0 * 4.0;
            quarters[(quarter as usize).min(3)] += 1;
        }
        assert!(quarters.iter().all(|&n| n > 60), "{code:?}: {quarters:?}");
    }
}
