//! The session as tables: every event in every state, every close code, and the stories between.

mod history;
mod moving;
mod simulation;

use super::*;
use crate::advice::Protocol;
use crate::backoff::Settings;
use crate::incoming::LeftReason;
use crate::link::Heard;
use crate::session::calls::Ask;
use bytes::{Bytes, BytesMut};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::{self, FrameError, RawFrame};
use hawser_proto::limits::FRAME_BYTES_MAX;
use std::collections::HashMap;
use std::fmt::Write as _;

const SECOND: Duration = Duration::from_secs(1);

/// A session with a clock that only the test moves.
struct Rig {
    session: Session,
    now: Instant,
}

fn settings() -> Settings {
    Settings { base: SECOND, max: 60 * SECOND, factor: 2.0, jitter: 0.0, window: 10 * SECOND }
}

fn advice(now: Instant, points: &[&str]) -> Advice {
    Advice {
        token: Token {
            text: "token-1".into(),
            refresh_at: Some(now + 1800 * SECOND),
            expires_at: Some(now + 3600 * SECOND),
        },
        points: points.iter().map(|it| it.parse().unwrap()).collect(),
        backoff: settings(),
        start_after: Duration::ZERO,
        stale_at: None,
    }
}

fn raw(frame: &NodeFrame) -> RawFrame {
    let mut bytes = BytesMut::from(&frame.encode()[..]);
    codec::decode(&mut bytes, FRAME_BYTES_MAX).unwrap().unwrap()
}

fn login_ok() -> params::LoginOk {
    params::LoginOk {
        connection: "n/1/1.1".into(),
        epoch: 7,
        businesses: vec![
            params::BusinessNumber { name: "chat".into(), number: 5, status: 0 },
            params::BusinessNumber { name: "gone".into(), number: 0, status: 10 },
        ],
        heartbeat_ms: 25_000,
        idle_timeout_ms: 35_000,
        server_time_ms: 1_000_000,
        frame_bytes_max: 65_536,
        groups_max: 100,
        requests_in_flight_max: 64,
        token_refresh_at_ms: 1_000_000 + 1_800_000,
        token_expires_at_ms: 1_000_000 + 3_600_000,
        abilities: DEVICE_ABILITIES,
        ..params::LoginOk::default()
    }
}

impl Rig {
    fn new(pinned: Option<&[&str]>) -> Self {
        let now = Instant::now();
        let setup = Setup {
            app: "demo".into(),
            device: "d".into(),
            businesses: vec!["chat".into(), "gone".into()],
            client: params::Client::default(),
            protocols: Vec::new(),
            backoff: settings(),
            pinned: pinned.map(|points| advice(now, points)),
        };
        let installation = Installation { instance: [1; 16], attempt: 0, device_key: None };
        let session = Session::new(Arc::new(setup), installation, Inboxes::default(), 42);
        Self { session, now }
    }

    /// Online at the first of the points, through control.
    fn online(points: &[&str]) -> Self {
        let mut rig = Self::new(None);
        rig.feed(Event::Start);
        rig.feed(Event::Advised(Ok(advice(rig.now, points))));
        rig.log_in();
        rig
    }

    fn log_in(&mut self) {
        self.feed(Event::Dialled(Ok(())));
        let seen = self.hear(&NodeFrame::LoginOk(login_ok()));
        assert!(seen.contains("tell online"), "{seen}");
    }

    fn feed(&mut self, event: Event) -> String {
        let mut out = Vec::new();
        self.session.handle(event, self.now, &mut out);
        let printed: Vec<String> = out.iter().map(print).collect();
        printed.join(", ")
    }

    fn hear(&mut self, frame: &NodeFrame) -> String {
        self.feed(Event::Frame(raw(frame)))
    }

    fn close(&mut self, code: CloseCode, retry_after: Duration) -> String {
        self.hear(&NodeFrame::close(code, "", retry_after.as_millis() as u32))
    }

    /// Moves the clock to where the session wants to be woken.
    fn due(&mut self) -> String {
        self.now = self.session.wake_at().expect("something is planned").max(self.now);
        self.feed(Event::Due)
    }

    fn waits(&self) -> Duration {
        match self.session.state {
            State::Waiting { until } => until - self.now,
            ref other => panic!("not waiting: {other:?}"),
        }
    }

    fn ask(&mut self, business: &str, deadline: Duration) -> (u64, String) {
        let id = self.session.next_id();
        let ask = Ask {
            business: business.into(),
            method: "echo".into(),
            metadata: HashMap::new(),
            traceparent: String::new(),
            body: Bytes::from_static(b"hi"),
            deadline: self.now + deadline,
        };
        (id, self.feed(Event::Request(id, ask)))
    }

    fn join_within(&mut self, group: &str, patience: Duration) -> u64 {
        let id = self.session.next_id();
        self.feed(Event::Join(id, "chat".into(), group.into(), self.now + patience));
        id
    }

    fn join(&mut self, group: &str) -> (u64, String) {
        let id = self.session.next_id();
        (id, self.feed(Event::Join(id, "chat".into(), group.into(), self.now + 10 * SECOND)))
    }
}

fn print(action: &Action) -> String {
    let outcome = |error: Option<String>| match error {
        Some(error) => error,
        None => "ok".to_owned(),
    };
    match action {
        Action::Ask => "ask".into(),
        Action::Dial(point, installation) => format!("dial {point} #{}", installation.attempt),
        Action::DialBeside(point, installation) => {
            format!("dial beside {point} #{}", installation.attempt)
        }
        Action::HangUp => "hang up".into(),
        Action::HangUpBeside => "hang up beside".into(),
        Action::Swap => "swap".into(),
        Action::Send(frame) => format!("send {}", print_frame(frame)),
        Action::SendBeside(frame) => format!("beside: send {}", print_frame(frame)),
        Action::Limit(_) => "limit".into(),
        Action::Tell(Seen::Connecting) => "tell connecting".into(),
        Action::Tell(Seen::Online { .. }) => "tell online".into(),
        Action::Tell(Seen::Offline { retry, .. }) => format!("tell offline {}", retry.name()),
        Action::Tell(Seen::Closed { reason, .. }) => format!("tell closed {reason}"),
        Action::Tell(Seen::Idle) => unreachable!("never told"),
        Action::Answer(id, answer) => {
            let error = answer.as_ref().err().map(ToString::to_string);
            format!("answer {id} {}", outcome(error))
        }
        Action::Grouped(id, answer) => {
            let error = answer.as_ref().err().map(ToString::to_string);
            format!("grouped {id} {}", outcome(error))
        }
        Action::Push(business, push) => {
            format!("push {business} {:?}", push.group.as_deref().unwrap_or("device"))
        }
        Action::Left(business, left) => format!("left {business} {} {:?}", left.group, left.reason),
        Action::Reset(business, reset) => format!("reset {business} {}", reset.group),
        Action::Shelve(business, number, _) => format!("shelve {business} {number}"),
        Action::Keep(cursors, _) => format!("keep {cursors:?}"),
    }
}

fn print_frame(frame: &Bytes) -> String {
    let raw = codec::decode_message(frame.clone(), FRAME_BYTES_MAX).unwrap();
    match DeviceFrame::parse(raw).unwrap() {
        DeviceFrame::Login(login) if login.resume_ticket.is_empty() => {
            format!("LOGIN {}", login.token)
        }
        DeviceFrame::Login(login) => {
            assert_eq!(login.token, "token-1", "beside it, for nodes without tickets");
            format!("LOGIN by {}", String::from_utf8_lossy(&login.resume_ticket))
        }
        DeviceFrame::Ping(_) => "PING".into(),
        DeviceFrame::Refresh(_) => "REFRESH".into(),
        DeviceFrame::Bye(_) => "BYE".into(),
        DeviceFrame::Request(request, _) => format!("REQUEST {}", request.request_id),
        DeviceFrame::Join(join) => format!("JOIN {}", join.group),
        DeviceFrame::Leave(leave) => format!("LEAVE {}", leave.group),
        DeviceFrame::Ack(_) => "ACK".into(),
        DeviceFrame::Resync(_) => "RESYNC".into(),
        DeviceFrame::Recover(recover) => format!("RECOVER {}", recover.group),
        DeviceFrame::Ignored(_) => unreachable!("never sent"),
    }
}

/// The state, and how far a move is.
fn stage(session: &Session) -> &'static str {
    match (&session.going, &session.old) {
        (Some(going), _) => going.name(),
        (None, Some(_)) => "moved",
        (None, None) => name(&session.state),
    }
}

fn name(state: &State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Asking { .. } => "asking",
        State::Dialling { .. } => "dialling",
        State::LoggingIn { .. } => "logging in",
        State::Online(_) => "online",
        State::Waiting { .. } => "waiting",
        State::Leaving { .. } => "leaving",
        State::Closed => "closed",
    }
}

fn in_state(wanted: &str) -> Rig {
    const POINTS: &[&str] = &["tcp://h:1", "tcp://h:2"];
    let mut rig = Rig::new(None);
    let steps: &[&str] = match wanted {
        "idle" => &[],
        "asking" => &["start"],
        "dialling" => &["start", "advised"],
        "logging in" => &["start", "advised", "dialled"],
        "online" => &["start", "advised", "dialled", "login ok"],
        "waiting" => &["start", "advised", "dialled", "login ok", "ended"],
        "leaving" => &["start", "advised", "dialled", "login ok", "stop"],
        "closed" => &["stop"],
        "moving: dialling" => &["start", "advised", "dialled", "login ok", "go away"],
        "moving: settling" => {
            &["start", "advised", "dialled", "login ok", "request", "go away", "dialled"]
        }
        "moving: logging in" => &["start", "advised", "dialled", "login ok", "go away", "dialled"],
        "moving: asking" => &["start", "advised", "dialled", "login ok", "go away", "not reached"],
        "moving: waiting" => {
            &["start", "advised", "dialled", "login ok", "go away", "not reached", "refused later"]
        }
        "moving: given up" => {
            &["start", "advised", "dialled", "login ok", "go away", "not reached", "refused never"]
        }
        "moved" => {
            &["start", "advised", "dialled", "login ok", "go away", "dialled", "beside login ok"]
        }
        other => panic!("{other}"),
    };
    for step in steps {
        rig.feed(event(step, rig.now, POINTS));
    }
    assert_eq!(stage(&rig.session), wanted);
    rig
}

fn event(name: &str, now: Instant, points: &[&str]) -> Event {
    let refusal = |retry| Refusal {
        reason: Reason::Refused { status: 0, code: None, message: String::new() },
        retry,
        retry_after: Duration::ZERO,
    };
    let close = |code| raw(&NodeFrame::close(code, "", 0));
    let ask = Ask {
        business: "chat".into(),
        method: String::new(),
        metadata: HashMap::new(),
        traceparent: String::new(),
        body: Bytes::new(),
        deadline: now + SECOND,
    };
    match name {
        "start" => Event::Start,
        "stop" => Event::Stop,
        "advised" => Event::Advised(Ok(advice(now, points))),
        "refused later" => Event::Advised(Err(refusal(Retry::Later))),
        "refused never" => Event::Advised(Err(refusal(Retry::Never))),
        "dialled" => Event::Dialled(Ok(())),
        "not reached" => Event::Dialled(Err("why".into())),
        "login ok" => Event::Frame(raw(&NodeFrame::LoginOk(login_ok()))),
        "pong" => Event::Frame(raw(&NodeFrame::Pong(params::Ping::default()))),
        "close now" => Event::Frame(close(CloseCode::IdleTimeout)),
        "close later" => Event::Frame(close(CloseCode::Overloaded)),
        "close elsewhere" => Event::Frame(close(CloseCode::Draining)),
        "close new token" => Event::Frame(close(CloseCode::TokenRevoked)),
        "close never" => Event::Frame(close(CloseCode::Superseded)),
        "device frame" => Event::Frame(RawFrame {
            kind: 0x01,
            flags: codec::Flags::NONE,
            params: Bytes::new(),
            body: Bytes::new(),
        }),
        "broken" => Event::Broken(FrameError::Magic),
        "ended" => Event::Ended(None),
        "ended 4408" => Event::Ended(Some(4408)),
        "due too early" => Event::Due,
        "request" => Event::Request(1_000, ask),
        "join" => Event::Join(1_001, "chat".into(), "g".into(), now + SECOND),
        "leave" => Event::Leave(1_002, "g".into(), now + SECOND),
        "go away" => Event::Frame(raw(&NodeFrame::GoAway(params::GoAway {
            deadline_ms: 30_000,
            ..params::GoAway::default()
        }))),
        "beside login ok" => {
            Event::Beside(Heard::Frame(raw(&NodeFrame::LoginOk(params::LoginOk {
                epoch: 8,
                ..login_ok()
            }))))
        }
        "beside close elsewhere" => Event::Beside(Heard::Frame(close(CloseCode::NodeFull))),
        "beside close new token" => Event::Beside(Heard::Frame(close(CloseCode::TokenInvalid))),
        "beside close never" => Event::Beside(Heard::Frame(close(CloseCode::Superseded))),
        "beside broken" => Event::Beside(Heard::Broken(FrameError::Magic)),
        "beside ended" => Event::Beside(Heard::Ended(None)),
        "handled" => Event::Handled("chat".into(), 1),
        "kept" => Event::Kept(true),
        other => panic!("{other}"),
    }
}

const STATES: [&str; 15] = [
    "idle",
    "asking",
    "dialling",
    "logging in",
    "online",
    "waiting",
    "leaving",
    "closed",
    "moving: dialling",
    "moving: settling",
    "moving: logging in",
    "moving: asking",
    "moving: waiting",
    "moving: given up",
    "moved",
];
const EVENTS: [&str; 31] = [
    "start",
    "stop",
    "advised",
    "refused later",
    "refused never",
    "dialled",
    "not reached",
    "login ok",
    "pong",
    "close now",
    "close later",
    "close elsewhere",
    "close new token",
    "close never",
    "device frame",
    "broken",
    "ended",
    "ended 4408",
    "due too early",
    "request",
    "join",
    "leave",
    "handled",
    "kept",
    "go away",
    "beside login ok",
    "beside close elsewhere",
    "beside close new token",
    "beside close never",
    "beside broken",
    "beside ended",
];

/// `tests/table.txt` is reviewed like code: a changed line is changed behaviour.
#[test]
fn every_event_in_every_state() {
    let mut table = String::new();
    for state in STATES {
        writeln!(table, "{state}").unwrap();
        for what in EVENTS {
            let mut rig = in_state(state);
            let seen = rig.feed(event(what, rig.now, &["tcp://h:3"]));
            let seen = if seen.is_empty() { "nothing" } else { &seen };
            let after = stage(&rig.session);
            let arrow = if after == state { String::new() } else { format!(" ⇒ {after}") };
            writeln!(table, "  {what}{arrow}: {seen}").unwrap();
        }
    }
    let kept = include_str!("tests/table.txt");
    assert!(table == kept, "tests/table.txt differs from what is done now:\n{table}");
}

#[test]
fn each_close_code_is_obeyed_online() {
    for &code in CloseCode::ALL {
        let mut rig = Rig::online(&["tcp://h:1", "tcp://h:2"]);
        let told = rig.close(code, 3 * SECOND);
        if code.retry() == Retry::Never {
            assert!(told.contains("tell closed"), "{code}: {told}");
            assert_eq!(rig.session.wake_at(), None, "{code}");
            continue;
        }
        assert!(told.contains(&format!("tell offline {}", code.retry().name())), "{code}: {told}");
        let waits = rig.waits();
        let next = rig.due();
        match code.retry() {
            Retry::Now => {
                assert!(next.contains("dial tcp://h:1 #2"), "{code}: {next}");
                assert!(waits <= 13 * SECOND);
            }
            Retry::Later => {
                assert!(waits >= 3 * SECOND, "{code}: told to wait");
                assert!(next.contains("dial tcp://h:1 #2"), "{code}: {next}");
            }
            Retry::Elsewhere => assert!(next.contains("dial tcp://h:2 #2"), "{code}: {next}"),
            Retry::NewToken => assert_eq!(next, "tell connecting, ask", "{code}"),
            Retry::Never => unreachable!("seen above"),
        }
    }
}

#[test]
fn each_close_code_is_obeyed_while_logging_in() {
    for &code in CloseCode::ALL {
        let mut rig = in_state("logging in");
        let told = rig.close(code, Duration::ZERO);
        let expected = match code.retry() {
            Retry::Now => "tell offline now",
            Retry::Later => "tell offline later",
            Retry::Elsewhere => "dial tcp://h:2 #2",
            Retry::NewToken => "tell offline new token",
            Retry::Never => "tell closed",
        };
        assert!(told.contains(expected), "{code}: {told}");
    }
}

#[test]
fn unknown_codes_follow_their_hundred() {
    for (number, expected) in [(4099, "now"), (4199, "later"), (4299, "elsewhere"), (1006, "now")] {
        let mut rig = Rig::online(&["tcp://h:1", "tcp://h:2"]);
        let told = rig.feed(Event::Ended(Some(number)));
        assert!(told.contains(&format!("tell offline {expected}")), "{number}: {told}");
    }
    let mut rig = Rig::online(&["tcp://h:1"]);
    assert!(rig.feed(Event::Ended(Some(4499))).contains("tell closed close code 4499"));
}

#[test]
fn access_points_are_tried_in_order_then_control_is_asked_again() {
    let mut rig = Rig::new(None);
    rig.feed(Event::Start);
    let points = ["quic://h:1", "tls://h:2", "wss://h:3"];
    let first = rig.feed(Event::Advised(Ok(advice(rig.now, &points))));
    assert_eq!(first, "dial quic://h:1 #1");
    let second = rig.feed(Event::Dialled(Err("refused".into())));
    assert_eq!(second, "hang up, dial tls://h:2 #2");
    assert_eq!(rig.due(), "hang up, dial wss://h:3 #3", "a dial has an end");
    let over = rig.feed(Event::Dialled(Err("refused".into())));
    assert_eq!(over, "hang up, tell offline later");
    assert_eq!(rig.due(), "tell connecting, ask");
    // Control is away, but the token is good: the points it gave are tried again.
    assert_eq!(rig.due(), "hang up, dial quic://h:1 #4", "an access call has an end");
}

#[test]
fn the_login_has_an_end() {
    let mut rig = in_state("logging in");
    assert_eq!(rig.due(), "hang up, tell offline now");
    assert_eq!(rig.due(), "tell connecting, dial tcp://h:2 #2", "the next one");
}

#[test]
fn delays_grow_until_a_session_holds() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    for failure in 0..8 {
        rig.feed(Event::Ended(None));
        let waits = rig.waits();
        if failure > 0 {
            // Below that it is a random part of the window, which is 10 s.
            let grown = (SECOND * 2u32.pow(failure - 1)).min(60 * SECOND);
            assert!(waits >= grown && waits <= grown.max(10 * SECOND), "{failure}: {waits:?}");
        }
        assert!(rig.due().contains("dial"));
        rig.log_in();
    }
    rig.now += HELD;
    rig.feed(Event::Ended(None));
    assert!(rig.waits() < 10 * SECOND, "within the window again");
}

#[test]
fn a_pinned_client_never_asks_and_ends_with_its_token() {
    let mut rig = Rig::new(Some(&["tcp://h:1"]));
    assert_eq!(rig.feed(Event::Start), "tell connecting, dial tcp://h:1 #1");
    rig.feed(Event::Dialled(Err("refused".into())));
    assert_eq!(rig.due(), "tell connecting, dial tcp://h:1 #2");
    rig.feed(Event::Dialled(Ok(())));
    let over = rig.close(CloseCode::TokenExpired, Duration::ZERO);
    assert!(over.ends_with("tell closed token_expired"), "{over}");
}

#[test]
fn only_wanted_protocols_are_dialled() {
    let mut rig = Rig::new(None);
    let setup = Setup { protocols: vec![Protocol::Tls], ..(*rig.session.setup).clone() };
    rig.session.setup = Arc::new(setup);
    rig.feed(Event::Start);
    let points = ["tcp://h:1", "tls://h:2"];
    assert_eq!(rig.feed(Event::Advised(Ok(advice(rig.now, &points)))), "dial tls://h:2 #1");
    let mut rig2 = Rig::new(None);
    rig2.session.setup = rig.session.setup.clone();
    rig2.feed(Event::Start);
    let none = rig2.feed(Event::Advised(Ok(advice(rig2.now, &["tcp://h:1"]))));
    assert_eq!(none, "tell offline later");
}

#[test]
fn a_storm_is_started_when_control_says() {
    let mut rig = Rig::new(None);
    rig.feed(Event::Start);
    let advice = Advice { start_after: 4 * SECOND, ..advice(rig.now, &["tcp://h:1"]) };
    assert_eq!(rig.feed(Event::Advised(Ok(advice))), "");
    assert_eq!(rig.waits(), 4 * SECOND);
    assert!(rig.due().contains("dial tcp://h:1 #1"));
}

#[test]
fn requests_wait_for_the_connection_and_are_written_once() {
    let mut rig = in_state("dialling");
    let (id, seen) = rig.ask("chat", 60 * SECOND);
    assert_eq!(seen, "");
    rig.feed(Event::Dialled(Ok(())));
    let online = rig.hear(&NodeFrame::LoginOk(login_ok()));
    assert!(online.ends_with(&format!("send REQUEST {id}")), "{online}");
    let lost = rig.feed(Event::Ended(None));
    assert!(lost.contains(&format!("answer {id} the connection was lost")), "{lost}");
    assert!(!rig.due().contains("REQUEST"));
    rig.feed(Event::Dialled(Ok(())));
    assert!(!rig.hear(&NodeFrame::LoginOk(login_ok())).contains("REQUEST"));
}

#[test]
fn requests_end_with_their_answer_their_deadline_or_at_once() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let (id, _) = rig.ask("chat", 5 * SECOND);
    let response = |request_id, status| {
        let response = params::Response { request_id, status, ..Default::default() };
        NodeFrame::Response(response, Bytes::from_static(b"yes"))
    };
    assert_eq!(rig.hear(&response(id, 0)), format!("answer {id} ok"));
    assert_eq!(rig.hear(&response(id, 0)), "", "an answer counts once");

    let (id, _) = rig.ask("chat", 5 * SECOND);
    assert_eq!(rig.hear(&response(id, 6)), format!("answer {id} refused: overloaded"));

    let (id, _) = rig.ask("chat", 5 * SECOND);
    assert_eq!(rig.due(), format!("answer {id} no answer in time"));
    assert_eq!(rig.hear(&response(id, 0)), "", "too late");

    let (id, seen) = rig.ask("gone", 5 * SECOND);
    assert_eq!(seen, format!("answer {id} refused: unknown_business"));
    let (id, seen) = rig.ask("other", 5 * SECOND);
    assert_eq!(seen, format!("answer {id} refused: unknown_business"));

    let id = rig.session.next_id();
    let ask = Ask {
        business: "chat".into(),
        method: String::new(),
        metadata: HashMap::new(),
        traceparent: String::new(),
        body: vec![0; 65_536].into(),
        deadline: rig.now + SECOND,
    };
    let seen = rig.feed(Event::Request(id, ask));
    assert_eq!(seen, format!("answer {id} the request is above the limit of 65536 bytes"));
}

#[test]
fn no_more_requests_are_in_flight_than_the_node_allows() {
    let mut rig = in_state("logging in");
    rig.hear(&NodeFrame::LoginOk(params::LoginOk { requests_in_flight_max: 2, ..login_ok() }));
    let ids: Vec<u64> = (0..3).map(|_| rig.ask("chat", 5 * SECOND).0).collect();
    let response = params::Response { request_id: ids[0], ..Default::default() };
    let seen = rig.hear(&NodeFrame::Response(response, Bytes::new()));
    assert_eq!(seen, format!("answer {} ok, send REQUEST {}", ids[0], ids[2]));
}

#[test]
fn silence_is_broken_by_a_ping_and_ended_without_a_pong() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let pong = NodeFrame::Pong(params::Ping::default());
    for _ in 0..3 {
        let before = rig.now;
        assert_eq!(rig.due(), "send PING");
        assert_eq!(rig.now - before, 25 * SECOND);
        assert_eq!(rig.hear(&pong), "");
    }
    assert_eq!(rig.due(), "send PING");
    let before = rig.now;
    let seen = rig.due();
    assert_eq!((rig.now - before, &*seen), (10 * SECOND, "hang up, tell offline now"));
}

#[test]
fn a_device_that_only_listens_still_pings() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let start = rig.now;
    let push = NodeFrame::Push(params::Push { business: 5, ..Default::default() }, Bytes::new());
    let mut pings = 0;
    while rig.now - start < 100 * SECOND {
        rig.now += SECOND;
        assert_eq!(rig.hear(&push), "push chat \"device\"");
        pings += usize::from(rig.feed(Event::Due) == "send PING");
    }
    assert_eq!(pings, 4);
}

#[test]
fn the_token_is_refreshed_in_band_and_used_at_the_next_login() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let start = rig.now;
    let pong = NodeFrame::Pong(params::Ping::default());
    loop {
        match rig.due().as_str() {
            "send PING" => rig.hear(&pong),
            "send REFRESH" => break,
            other => panic!("{other}"),
        };
    }
    let at = rig.now - start;
    assert!((1800 * SECOND..1980 * SECOND).contains(&at), "{at:?}");
    let refreshed = params::Refreshed {
        request_id: rig.session.last_id,
        token: "token-2".into(),
        token_refresh_at_ms: 1_000_000 + 5_400_000,
        token_expires_at_ms: 1_000_000 + 7_200_000,
        ..Default::default()
    };
    rig.session.ticket.given("of token-1".into(), rig.now);
    assert_eq!(rig.hear(&NodeFrame::Refreshed(refreshed)), "");
    rig.feed(Event::Ended(None));
    assert!(rig.due().contains("dial"), "the new token is good: control is not asked");
    // The ticket of the old token would have brought its end back.
    assert_eq!(rig.feed(Event::Dialled(Ok(()))), "send LOGIN token-2");
}

#[test]
fn a_refused_refresh_is_asked_again_and_a_revoked_one_is_not() {
    for (status, again) in [(8, true), (24, false)] {
        let mut rig = in_state("logging in");
        let soon = params::LoginOk { token_refresh_at_ms: 1_001_000, ..login_ok() };
        rig.hear(&NodeFrame::LoginOk(soon));
        let pong = NodeFrame::Pong(params::Ping::default());
        while rig.due() != "send REFRESH" {
            rig.hear(&pong);
            assert_eq!(name(&rig.session.state), "online");
        }
        let request_id = rig.session.last_id;
        let refreshed = params::Refreshed { request_id, status, ..Default::default() };
        rig.hear(&NodeFrame::Refreshed(refreshed));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(rig.due());
            rig.hear(&pong);
        }
        assert_eq!(seen.iter().any(|it| it == "send REFRESH"), again, "{status}: {seen:?}");
    }
}

fn joined(request_id: u64, status: u32) -> NodeFrame {
    NodeFrame::Joined(params::Joined {
        request_id,
        status,
        group: "g".into(),
        ..Default::default()
    })
}

fn left(reason: params::LeftReason) -> NodeFrame {
    let reason = reason.into();
    NodeFrame::Left(params::Left { group: "g".into(), reason, ..Default::default() })
}

/// Online, with "g" joined.
fn member() -> Rig {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let (id, seen) = rig.join("g");
    assert_eq!(seen, "send JOIN g");
    let seen = rig.hear(&joined(rig.session.last_id, 0));
    assert_eq!(seen, format!("grouped {id} ok"));
    rig
}

fn reconnect(rig: &mut Rig) -> String {
    rig.feed(Event::Ended(None));
    rig.due();
    rig.feed(Event::Dialled(Ok(())));
    rig.hear(&NodeFrame::LoginOk(login_ok()))
}

#[test]
fn a_group_is_joined_again_until_it_is_left() {
    let mut rig = member();
    for _ in 0..2 {
        assert!(reconnect(&mut rig).ends_with("send JOIN g"));
        assert_eq!(rig.hear(&joined(rig.session.last_id, 0)), "");
    }
    let id = rig.session.next_id();
    let deadline = rig.now + SECOND;
    assert_eq!(rig.feed(Event::Leave(id, "g".into(), deadline)), "send LEAVE g");
    let answer = params::Left { request_id: id, group: "g".into(), ..Default::default() };
    assert_eq!(rig.hear(&NodeFrame::Left(answer)), format!("grouped {id} ok"));
    assert!(!reconnect(&mut rig).contains("JOIN"));
}

#[test]
fn a_membership_that_the_business_ended_is_not_taken_up_again() {
    for (reason, expected) in [
        (params::LeftReason::Removed, LeftReason::Removed),
        (params::LeftReason::Kicked, LeftReason::Kicked),
        (params::LeftReason::GroupDeleted, LeftReason::Deleted),
    ] {
        let mut rig = member();
        assert_eq!(rig.hear(&left(reason)), format!("left chat g {expected:?}"));
        assert!(!reconnect(&mut rig).contains("JOIN"), "{reason:?}");
    }
}

#[test]
fn a_join_after_a_reconnect_survives_a_refusal_for_now_but_not_one_for_good() {
    let mut rig = member();
    reconnect(&mut rig);
    assert_eq!(rig.hear(&joined(rig.session.last_id, 6)), "");
    assert_eq!(rig.due(), "send JOIN g");
    let seen = rig.hear(&joined(rig.session.last_id, 11));
    assert_eq!(seen, "left chat g Refused(Some(GroupNotFound))");
    assert!(!reconnect(&mut rig).contains("JOIN"));
}

#[test]
fn a_join_that_nobody_waits_for_any_more_is_undone() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let id = rig.join_within("g", 5 * SECOND);
    let on_wire = rig.session.last_id;
    assert_eq!(rig.due(), format!("grouped {id} no answer in time"));
    assert_eq!(rig.hear(&joined(on_wire, 0)), "send LEAVE g");

    // Nor does one that is never answered leave the device in a group that nobody wants.
    let mut rig = Rig::online(&["tcp://h:1"]);
    let id = rig.join_within("g", 5 * SECOND);
    assert_eq!(rig.due(), format!("grouped {id} no answer in time"));
    assert_eq!(rig.due(), "send LEAVE g");
    assert_eq!(rig.due(), "", "and nobody waits for the answer to that");
}

#[test]
fn a_join_without_an_answer_is_written_again() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let began = rig.now;
    let id = rig.join_within("g", 60 * SECOND);
    let first = rig.session.last_id;
    // Whatever it crossed.
    assert_eq!(rig.hear(&left(params::LeftReason::Removed)), "");
    assert_eq!(rig.due(), "send JOIN g");
    assert_eq!(rig.now - began, 10 * SECOND);
    assert_eq!(rig.hear(&joined(first, 0)), "", "too late; the second one is answered, too");
    assert_eq!(rig.hear(&joined(rig.session.last_id, 0)), format!("grouped {id} ok"));

    // One that the app leaves while no JOIN is on the wire may be in all the same.
    let mut rig = Rig::online(&["tcp://h:1"]);
    for number in 10..26 {
        rig.join_within(&format!("g{number}"), 60 * SECOND);
    }
    rig.join_within("g0", 60 * SECOND);
    let seen = rig.due();
    assert!(seen.contains("JOIN g0") && !seen.contains("JOIN g25"), "{seen}");
    let (id, deadline) = (rig.session.next_id(), rig.now + 60 * SECOND);
    let seen = rig.feed(Event::Leave(id, "g25".into(), deadline));
    assert!(seen.ends_with("left before the join was done"), "{seen}");
    let seen = rig.hear(&joined(rig.session.last_id - 1, 0));
    assert!(seen.ends_with("ok, send LEAVE g25"), "{seen}");
}

#[test]
fn a_leave_without_an_answer_is_written_again_while_the_app_waits() {
    let mut rig = member();
    let id = rig.session.next_id();
    let deadline = rig.now + 15 * SECOND;
    assert_eq!(rig.feed(Event::Leave(id, "g".into(), deadline)), "send LEAVE g");
    let began = rig.now;
    assert_eq!(rig.due(), "send LEAVE g");
    assert_eq!(rig.now - began, 10 * SECOND);
    assert_eq!(rig.due(), format!("grouped {id} no answer in time"));
    assert_eq!(rig.due(), "");

    // Not behind a join that came after it.
    let mut rig = member();
    let id = rig.session.next_id();
    let deadline = rig.now + 15 * SECOND;
    rig.feed(Event::Leave(id, "g".into(), deadline));
    rig.now += SECOND;
    let joins = rig.join_within("g", 30 * SECOND);
    assert_eq!(rig.hear(&joined(rig.session.last_id, 0)), format!("grouped {joins} ok"));
    assert_eq!(rig.due(), "", "the first LEAVE is given up");
}

#[test]
fn joins_and_leaves_cross_a_lost_link() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let (join, _) = rig.join("g");
    let leave = rig.session.next_id();
    rig.feed(Event::Leave(leave, "other".into(), rig.now + SECOND));
    let seen = rig.feed(Event::Ended(None));
    assert!(seen.contains(&format!("grouped {leave} ok")), "the link was the membership: {seen}");
    rig.session.backoff = Backoff::new(Settings { window: SECOND, ..settings() }, 1);
    rig.now += SECOND;
    rig.session.state = State::Waiting { until: rig.now };
    rig.due();
    rig.feed(Event::Dialled(Ok(())));
    assert!(rig.hear(&NodeFrame::LoginOk(login_ok())).ends_with("send JOIN g"));
    assert_eq!(rig.hear(&joined(rig.session.last_id, 0)), format!("grouped {join} ok"));
}

#[test]
fn joins_leave_in_portions() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let mut written = 0;
    for number in 0..100 {
        written += rig.join(&format!("g{number}")).1.matches("send JOIN").count();
    }
    assert_eq!(written, 16);
    let (id, seen) = rig.join("one-too-many");
    assert_eq!(seen, format!("grouped {id} refused: too_many_groups"));
}

#[test]
fn stopping_says_goodbye_and_has_an_end() {
    let mut rig = Rig::online(&["tcp://h:1"]);
    let (id, _) = rig.ask("chat", 5 * SECOND);
    assert_eq!(rig.feed(Event::Stop), format!("send BYE, answer {id} the client is closed"));
    let mut silent = rig;
    assert_eq!(silent.due(), "hang up, tell closed asked to close");
    let mut rig = Rig::online(&["tcp://h:1"]);
    rig.feed(Event::Stop);
    let seen = rig.close(CloseCode::Goodbye, Duration::ZERO);
    assert_eq!(seen, "hang up, tell closed asked to close");
}

/// Frames of every kind with random parameters, in every state: no panic, and whatever is planned
/// next is planned.
#[test]
fn junk_from_the_node_never_panics() {
    let mut random = Backoff::new(settings(), 7);
    let mut byte = move || (random.fraction() * 256.0) as u8;
    for round in 0..20_000u32 {
        const STATES: [&str; 6] =
            ["logging in", "online", "leaving", "moving: settling", "moving: logging in", "moved"];
        let mut rig = in_state(STATES[round as usize % STATES.len()]);
        for _ in 0..4 {
            let kind = if byte() < 200 { 0x80 | byte() } else { byte() };
            let bytes = |byte: &mut dyn FnMut() -> u8| -> Bytes {
                let len = usize::from(byte() % 24);
                (0..len).map(|_| byte()).collect()
            };
            let frame = RawFrame {
                kind,
                flags: codec::Flags::NONE,
                params: bytes(&mut byte),
                body: bytes(&mut byte),
            };
            let is_main = byte() < 128;
            let beside = Event::Beside(Heard::Frame(frame.clone()));
            rig.feed(if is_main { Event::Frame(frame) } else { beside });
            if rig.session.wake_at().is_some() && byte() < 128 {
                rig.due();
            }
        }
    }
}

/// Answers whose numbers are at their ends: nothing overflows.
#[test]
fn extreme_answers_never_panic() {
    for number in [0, 1, u64::from(u32::MAX), u64::MAX] {
        let small = u32::try_from(number).unwrap_or(u32::MAX);
        let mut rig = in_state("logging in");
        rig.hear(&NodeFrame::LoginOk(params::LoginOk {
            heartbeat_ms: small,
            idle_timeout_ms: small,
            server_time_ms: number,
            frame_bytes_max: small,
            groups_max: small,
            requests_in_flight_max: small,
            token_refresh_at_ms: u64::MAX,
            token_expires_at_ms: number,
            ..login_ok()
        }));
        rig.ask("chat", SECOND);
        for _ in 0..5 {
            rig.due();
        }
        let mut rig = Rig::online(&["tcp://h:1"]);
        rig.hear(&NodeFrame::close(CloseCode::Overloaded, "", small));
        rig.due();
    }
}
