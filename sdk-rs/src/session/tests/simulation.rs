//! A small cluster as a model, with a device that is sent away at any time: what is handed to the app
//! is compared with what was pushed. No link is faster than another by rule; all delays are random.

use super::*;
use hawser_proto::code::ErrorCode;
use hawser_proto::limits::GO_AWAY_DEADLINE;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const TERM: u64 = 9;

/// What a link is to the node behind it.
#[derive(Debug, Default)]
struct Line {
    /// The device has not dropped it, and it was not cut.
    is_open: bool,
    /// The node has not closed it.
    is_served: bool,
    epoch: u64,
    /// Stored pushes up to here were written on it, and up to there acknowledged.
    written: u64,
    acked: u64,
    is_member: bool,
    /// Requests that are not answered, and whether nothing else is done here any more.
    owed: u64,
    is_left: bool,
    /// Nothing overtakes on a link: when the last frame arrives, each way.
    last: [u64; 2],
}

#[derive(Debug)]
enum Happening {
    Due,
    Dialled(usize, bool),
    ToNode(usize, Bytes),
    ToDevice(usize, Option<NodeFrame>),
    Evict(usize),
    Closing(usize),
    Answer(usize, u64),
    ToMembers(usize, String),
    Handled(u64),
    Kept,
    Traffic,
}

struct World {
    rig: Rig,
    began: Instant,
    random: Backoff,
    clock: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    lines: Vec<Line>,
    in_use: Option<usize>,
    beside: Option<usize>,
    dialling: Option<usize>,
    is_faulty: bool,
    /// Nodes answer what they owe before they close what a device has left.
    is_patient: bool,
    quiet_from: u64,

    epoch: u64,
    owner: Option<usize>,
    tail: u64,
    acked: u64,

    volatile: u64,
    pushed_to_group: u64,
    asked: u64,
    quick: Vec<u64>,
    moves: u64,
    go_aways: u64,
    logins: u64,
    handed: Vec<u64>,
    heard: BTreeMap<String, u32>,
    answers: BTreeMap<u64, bool>,
    told: Vec<String>,
}

impl World {
    fn new(seed: u64, is_faulty: bool) -> Self {
        let rig = Rig::new(None);
        Self {
            began: rig.now,
            rig,
            random: Backoff::new(settings(), seed),
            clock: 0,
            order: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            lines: Vec::new(),
            in_use: None,
            beside: None,
            dialling: None,
            is_faulty,
            is_patient: seed.is_multiple_of(2),
            quiet_from: 60_000,
            epoch: 0,
            owner: None,
            tail: 0,
            acked: 0,
            volatile: 0,
            pushed_to_group: 0,
            asked: 0,
            quick: Vec::new(),
            moves: 0,
            go_aways: 0,
            logins: 0,
            handed: Vec::new(),
            heard: BTreeMap::new(),
            answers: BTreeMap::new(),
            told: Vec::new(),
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.random.fraction() * end as f64) as u64
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn at(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((at, self.order)));
        self.happenings.insert(self.order, happening);
    }

    fn soon(&mut self, within: u64, happening: Happening) {
        let at = self.clock + 1 + self.below(within);
        self.at(at, happening);
    }

    fn on_line(&mut self, line: usize, way: usize, happening: Happening) {
        let at = (self.clock + 1 + self.below(80)).max(self.lines[line].last[way]);
        self.lines[line].last[way] = at;
        self.at(at, happening);
    }

    fn write(&mut self, line: usize, frame: NodeFrame) {
        if self.lines[line].is_served {
            self.on_line(line, 1, Happening::ToDevice(line, Some(frame)));
        }
    }

    fn close_line(&mut self, line: usize, code: CloseCode) {
        self.write(line, NodeFrame::close(code, "", 0));
        self.node_done(line);
        self.on_line(line, 1, Happening::ToDevice(line, None));
    }

    /// The device has logged in elsewhere.
    fn evict(&mut self, line: usize) {
        let it = &mut self.lines[line];
        if self.is_patient && it.owed > 0 {
            (it.is_left, it.is_member) = (true, false);
        } else {
            self.close_line(line, CloseCode::Superseded);
        }
    }

    fn node_done(&mut self, line: usize) {
        self.lines[line].is_served = false;
        if self.owner == Some(line) {
            self.owner = None;
        }
    }

    fn feed(&mut self, event: Event) {
        self.rig.now = self.began + Duration::from_millis(self.clock);
        let mut out = Vec::new();
        self.rig.session.handle(event, self.rig.now, &mut out);
        for action in out {
            self.perform(action);
        }
        if let Some(at) = self.rig.session.wake_at() {
            // Rounded up: what is due at a part of a millisecond is due at its end.
            let at = at.saturating_duration_since(self.began).as_millis() as u64 + 1;
            self.at(at.max(self.clock + 1), Happening::Due);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Ask => {
                let points =
                    ["tcp://h:0", "tcp://h:1", "tcp://h:2"].map(|it| it.replace(":0", ":9"));
                let points: Vec<&str> = points.iter().map(String::as_str).collect();
                let answer = advice(self.rig.now, &points);
                self.feed(Event::Advised(Ok(answer)));
            }
            Action::Dial(..) => self.dial(false),
            Action::DialBeside(..) => self.dial(true),
            Action::HangUp => {
                self.dialling = None;
                let line = self.in_use.take();
                self.hung_up(line);
            }
            Action::HangUpBeside => {
                self.dialling = None;
                let line = self.beside.take();
                self.hung_up(line);
            }
            Action::Swap => std::mem::swap(&mut self.in_use, &mut self.beside),
            Action::Send(frame) => self.send(self.in_use, frame),
            Action::SendBeside(frame) => self.send(self.beside, frame),
            Action::Tell(seen) => self.told.push(seen.to_string()),
            Action::Answer(id, answer) => {
                assert!(self.answers.insert(id, answer.is_ok()).is_none(), "answered twice");
            }
            Action::Limit(_) | Action::Grouped(..) => {}
            Action::Push(_, push) => {
                let id = String::from_utf8(push.id.to_vec()).unwrap();
                *self.heard.entry(id).or_default() += 1;
            }
            Action::Shelve(_, number, crate::Incoming::Push(push)) => {
                self.handed.push(push.position.unwrap().seq);
                self.soon(30, Happening::Handled(number));
            }
            Action::Left(..) | Action::Reset(..) | Action::Shelve(..) => {
                panic!("nothing of that was done")
            }
            Action::Keep(..) => self.soon(20, Happening::Kept),
        }
    }

    fn dial(&mut self, beside: bool) {
        self.lines.push(Line::default());
        let line = self.lines.len() - 1;
        self.dialling = Some(line);
        self.soon(100, Happening::Dialled(line, beside));
    }

    fn hung_up(&mut self, line: Option<usize>) {
        let Some(line) = line else { return };
        self.lines[line].is_open = false;
        // The node sees it in its turn, behind what was sent.
        self.on_line(line, 0, Happening::ToNode(line, Bytes::new()));
    }

    fn send(&mut self, line: Option<usize>, frame: Bytes) {
        let line = line.expect("a link to send on");
        self.on_line(line, 0, Happening::ToNode(line, frame));
    }

    fn write_stored(&mut self, line: usize) {
        while self.lines[line].written < self.tail.min(self.lines[line].acked + 64) {
            self.lines[line].written += 1;
            let seq = self.lines[line].written;
            let push = params::Push {
                business: 5,
                term: TERM,
                seq,
                prev_term: if seq == 1 { 0 } else { TERM },
                prev_seq: seq - 1,
                ..params::Push::default()
            };
            self.write(line, NodeFrame::Push(push, Bytes::new()));
        }
    }

    fn node_hears(&mut self, line: usize, frame: &Bytes) {
        if !self.lines[line].is_served {
            return;
        }
        if frame.is_empty() {
            return self.node_done(line);
        }
        let raw = codec::decode_message(frame.clone(), FRAME_BYTES_MAX).unwrap();
        match DeviceFrame::parse(raw).unwrap() {
            DeviceFrame::Login(login) => {
                if self.is_faulty && self.one_in(6) {
                    return self.close_line(line, CloseCode::NodeFull);
                }
                self.logins += 1;
                self.epoch += 1;
                if let Some(old) = self.owner.replace(line) {
                    self.soon(300, Happening::Evict(old));
                }
                let named = login.cursors.iter().find(|it| it.business == "chat");
                self.acked = self.acked.max(named.map_or(0, |it| it.seq));
                self.lines[line].epoch = self.epoch;
                self.lines[line].written = self.acked;
                self.lines[line].acked = self.acked;
                if self.is_faulty && self.one_in(8) {
                    return self.cut(line);
                }
                let inboxes = vec![params::Inbox {
                    business: 5,
                    tail_term: TERM,
                    tail_seq: self.tail,
                    ..params::Inbox::default()
                }];
                let ok = params::LoginOk { epoch: self.epoch, inboxes, ..login_ok() };
                self.write(line, NodeFrame::LoginOk(ok));
                self.write_stored(line);
            }
            DeviceFrame::Ack(ack) => {
                for it in ack.inboxes {
                    assert!(it.seq <= self.lines[line].written, "a lie");
                    if self.owner == Some(line) {
                        self.acked = self.acked.max(it.seq);
                        self.lines[line].acked = self.lines[line].acked.max(it.seq);
                        self.write_stored(line);
                    }
                }
            }
            DeviceFrame::Ping(ping) => self.write(line, NodeFrame::Pong(ping)),
            DeviceFrame::Bye(_) => self.close_line(line, CloseCode::Goodbye),
            DeviceFrame::Request(request, _) if self.lines[line].is_left => {
                let status = ErrorCode::Unavailable.number();
                let response = params::Response {
                    request_id: request.request_id,
                    status,
                    ..Default::default()
                };
                self.write(line, NodeFrame::Response(response, Bytes::new()));
            }
            DeviceFrame::Request(request, _) => {
                self.lines[line].owed += 1;
                let patience = if request.method == "slow" { 4_000 } else { 50 };
                self.soon(patience, Happening::Answer(line, request.request_id));
            }
            DeviceFrame::Join(join) => {
                self.lines[line].is_member = true;
                let joined = params::Joined {
                    request_id: join.request_id,
                    group: join.group,
                    business: 5,
                    ..params::Joined::default()
                };
                self.write(line, NodeFrame::Joined(joined));
            }
            other => panic!("not expected: {other:?}"),
        }
    }

    fn cut(&mut self, line: usize) {
        self.node_done(line);
        self.on_line(line, 1, Happening::ToDevice(line, None));
    }

    fn device_hears(&mut self, line: usize, frame: Option<NodeFrame>) {
        if !self.lines[line].is_open {
            return;
        }
        let is_main = self.in_use == Some(line);
        match frame {
            Some(frame) if is_main => self.feed(Event::Frame(raw(&frame))),
            Some(frame) => self.feed(Event::Beside(Heard::Frame(raw(&frame)))),
            None if is_main => {
                self.in_use = None;
                self.feed(Event::Ended(None));
            }
            None => {
                self.beside = None;
                self.feed(Event::Beside(Heard::Ended(None)));
            }
        }
    }

    fn traffic(&mut self) {
        match self.below(6) {
            0 | 1 => {
                self.tail += 1;
                if let Some(owner) = self.owner {
                    self.write_stored(owner);
                }
            }
            2 => {
                self.volatile += 1;
                let push_id = format!("v{}", self.volatile).into();
                let push = params::Push { push_id, business: 5, ..params::Push::default() };
                if let Some(owner) = self.owner {
                    self.write(owner, NodeFrame::Push(push, Bytes::new()));
                }
            }
            3 => {
                self.pushed_to_group += 1;
                let id = format!("g{}", self.pushed_to_group);
                for line in 0..self.lines.len() {
                    self.soon(150, Happening::ToMembers(line, id.clone()));
                }
            }
            4 => {
                self.asked += 1;
                let id = self.rig.session.next_id();
                let is_slow = self.one_in(4);
                if !is_slow {
                    self.quick.push(id);
                }
                let ask = Ask {
                    business: "chat".into(),
                    method: if is_slow { "slow" } else { "quick" }.into(),
                    metadata: HashMap::new(),
                    traceparent: String::new(),
                    body: Bytes::new(),
                    deadline: self.rig.now + 8 * SECOND,
                };
                self.feed(Event::Request(id, ask));
            }
            _ => self.trouble(),
        }
        if self.clock < self.quiet_from {
            self.soon(60, Happening::Traffic);
        }
    }

    fn trouble(&mut self) {
        let Some(owner) = self.owner else { return };
        if self.is_faulty && self.one_in(20) {
            return self.cut(owner);
        }
        if self.one_in(12) {
            self.go_aways += 1;
            let deadline_ms = if self.is_faulty { self.below(8_000) as u32 } else { 30_000 };
            let alternatives = match self.below(3) {
                0 => Vec::new(),
                _ => vec![params::AccessPoint {
                    protocol: "tcp".into(),
                    host: "n".into(),
                    port: 1 + self.below(30) as u32,
                    server_name: String::new(),
                }],
            };
            let told = params::GoAway { deadline_ms, reason: String::new(), alternatives };
            self.write(owner, NodeFrame::GoAway(told));
            self.at(self.clock + u64::from(deadline_ms), Happening::Closing(owner));
        }
    }

    fn run(&mut self) {
        self.feed(Event::Start);
        self.rig.join_within("g", 3600 * SECOND);
        self.at(1, Happening::Traffic);
        let end = self.quiet_from + 300_000;
        while let Some(Reverse((at, number))) = self.queue.pop() {
            if at > end {
                break;
            }
            self.clock = at;
            let Some(happening) = self.happenings.remove(&number) else { continue };
            match happening {
                Happening::Due => {
                    let now = self.began + Duration::from_millis(at);
                    if self.rig.session.wake_at().is_some_and(|wake_at| wake_at <= now) {
                        self.feed(Event::Due);
                    }
                }
                Happening::Dialled(line, beside) if self.dialling == Some(line) => {
                    self.dialling = None;
                    if self.is_faulty && self.one_in(8) {
                        self.feed(Event::Dialled(Err("refused".into())));
                        continue;
                    }
                    self.lines[line].is_open = true;
                    self.lines[line].is_served = true;
                    let slot = if beside { &mut self.beside } else { &mut self.in_use };
                    assert!(slot.replace(line).is_none(), "a third link");
                    self.moves += u64::from(beside);
                    self.feed(Event::Dialled(Ok(())));
                }
                Happening::ToNode(line, frame) => self.node_hears(line, &frame),
                Happening::ToDevice(line, frame) => self.device_hears(line, frame),
                Happening::Evict(line) if self.lines[line].is_served => self.evict(line),
                Happening::Closing(line) if self.lines[line].is_served => {
                    self.close_line(line, CloseCode::Draining);
                }
                Happening::Answer(line, request_id) => {
                    let response = params::Response { request_id, ..Default::default() };
                    self.write(line, NodeFrame::Response(response, Bytes::new()));
                    self.lines[line].owed -= 1;
                    if self.lines[line].is_left && self.lines[line].is_served {
                        self.evict(line);
                    }
                }
                Happening::ToMembers(line, id) if self.lines[line].is_member => {
                    let push = params::GroupPush {
                        push_id: id.into(),
                        business: 5,
                        group: "g".into(),
                        ..params::GroupPush::default()
                    };
                    self.write(line, NodeFrame::GroupPush(push, Bytes::new()));
                }
                Happening::Handled(number) => self.feed(Event::Handled("chat".into(), number)),
                Happening::Kept => self.feed(Event::Kept(true)),
                Happening::Traffic => self.traffic(),
                // Of a link that is gone.
                Happening::Dialled(..)
                | Happening::Evict(_)
                | Happening::Closing(_)
                | Happening::ToMembers(..) => {}
            }
        }
    }

    fn judge(&self, seed: u64) {
        let all: Vec<u64> = (1..=self.tail).collect();
        assert_eq!(self.handed, all, "{seed}: stored pushes, each once and in order");
        assert_eq!(self.acked, self.tail, "{seed}: and acknowledged");
        for (id, times) in &self.heard {
            assert_eq!(*times, 1, "{seed}: {id} came {times} times");
        }
        assert_eq!(self.answers.len() as u64, self.asked, "{seed}: each request ends");
        let line = self.in_use.unwrap_or_else(|| panic!("{seed}: online again: {:?}", self.told));
        assert!(self.lines[line].is_member, "{seed}: and in the group");
        assert!(self.beside.is_none(), "{seed}: on one link");
        assert_eq!(self.lines[line].epoch, self.epoch, "{seed}: the newest login");
        if !self.is_faulty {
            let away = self.told.iter().filter(|it| !it.starts_with("online")).count();
            assert_eq!(away, 1, "{seed}: connecting once, and online ever since: {:?}", self.told);
            assert!(self.moves <= self.go_aways, "{seed}: a move for a GO_AWAY at most");
            assert_eq!(self.logins, self.moves + 1, "{seed}");
            // Only one that takes longer than the device waits before its login can lose its answer, and
            // only where the node does not wait.
            assert!(self.quick.iter().all(|id| self.answers[id]), "{seed}: {:?}", self.answers);
            let all_answered = self.answers.values().all(|is_ok| *is_ok);
            assert!(all_answered || !self.is_patient, "{seed}: {:?}", self.answers);
            let delivered = self.heard.keys().filter(|id| id.starts_with('v')).count() as u64;
            assert!(delivered + self.moves >= self.volatile, "{seed}: {delivered}");
        }
    }
}

#[test]
fn sent_away_at_any_time_the_app_hears_everything_once() {
    let (mut moves, mut pushes) = (0, 0);
    for seed in 0..50 {
        let mut world = World::new(seed, false);
        world.run();
        world.judge(seed);
        moves += world.moves;
        pushes += world.handed.len() + world.heard.len();
    }
    println!("{moves} moves, {pushes} pushes");
    assert!(moves > 200, "{moves}");
}

#[test]
fn sent_away_while_links_are_cut_and_nodes_refuse_nothing_stored_is_lost() {
    let (mut moves, mut away) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, true);
        world.run();
        world.judge(seed);
        moves += world.moves;
        away += world.told.iter().filter(|it| it.starts_with("offline")).count();
    }
    println!("{moves} moves, {away} times offline");
    assert!(moves > 200 && away > 200, "{moves} {away}");
    assert!(GO_AWAY_DEADLINE > 8 * SECOND, "shorter than usual, so that some miss it");
}
