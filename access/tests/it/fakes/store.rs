//! The store behind the fake router: inboxes and histories, fenced by session, failing when told to.

use hawser_proto::codec::{self, Flags};
use hawser_proto::compressed::{compress, plain_frame};
use hawser_proto::frame::NodeFrame;
use hawser_proto::id::Position;
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::answer::Status;
use std::collections::{BTreeMap, HashMap};

/// One inbox, or one history.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub entries: BTreeMap<Position, wire::Entry>,
    pub tail: Position,
    pub floor: Position,
}

impl Stored {
    /// Adds an entry whose frame is made from its place.
    pub fn append(&mut self, make: impl FnOnce(&wire::Place) -> bytes::Bytes) -> wire::Place {
        let prev = self.tail;
        self.tail = Position::new(prev.term.max(5), prev.seq + 1);
        let place = wire::Place {
            term: self.tail.term,
            seq: self.tail.seq,
            prev_term: prev.term,
            prev_seq: prev.seq,
        };
        let entry = wire::Entry { place: Some(place), frame: make(&place), ..Default::default() };
        self.entries.insert(self.tail, entry);
        place
    }

    /// Everything up to here is gone.
    pub fn trim(&mut self, upto: Position) {
        self.entries.retain(|&at, _| at > upto);
        self.floor = self.floor.max(upto);
    }

    fn answer(&self, after: Position, entries_max: u32, bytes_max: u32) -> wire::Answer {
        let mut answer = wire::Answer {
            status: Status::Ok.into(),
            tail_term: self.tail.term,
            tail_seq: self.tail.seq,
            floor_term: self.floor.term,
            floor_seq: self.floor.seq,
            ..Default::default()
        };
        let mut bytes = 0;
        for (_, entry) in self.entries.iter().filter(|(at, _)| **at > after) {
            bytes += entry.frame.len();
            let is_full = answer.entries.len() >= entries_max as usize;
            if is_full || (bytes > bytes_max as usize && !answer.entries.is_empty()) {
                break;
            }
            answer.entries.push(entry.clone());
        }
        answer
    }
}

/// What the store does with calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answering {
    #[default]
    Truly,
    Never,
    With(Status),
}

#[derive(Default)]
pub struct Store {
    /// By app, device, business.
    pub inboxes: HashMap<(String, String, u32), Stored>,
    /// By app, group.
    pub histories: HashMap<(String, String), Stored>,
    /// The session that owns a device: slot, generation, epoch.
    pub owners: HashMap<(String, String), (u32, u32, u64)>,
    /// The claim that holds of each device, and its epoch.
    claims: HashMap<(String, String), (Claim, u64)>,
    epochs: u64,
    /// By how much announcements raise epochs: their sessions were taken for over.
    pub raises: u64,
    pub answering: Answering,
    /// What sweeps say of every session, whatever is there.
    pub swept: Option<wire::InboxTail>,
    /// Everything that was asked.
    pub asked: Vec<wire::ask::What>,
    /// Calls kept back while [`Answering::Never`].
    pub held: Vec<wire::Ask>,
}

/// What tells one claim from another: boot, slot, generation, instance, attempt.
type Claim = (u64, u32, u32, Vec<u8>, u64);

impl Store {
    /// The epoch of a claim; of one that is made once more the same.
    pub fn claim(&mut self, boot: u64, bind: &wire::Bind) -> u64 {
        let claim = (boot, bind.slot, bind.generation, bind.instance.to_vec(), bind.attempt);
        let name = (bind.app.clone(), bind.device.clone());
        if let Some((known, epoch)) = self.claims.get(&name)
            && *known == claim
        {
            return *epoch;
        }
        self.epochs += 1;
        let epoch = 1_000 + self.epochs;
        self.claims.insert(name, (claim, epoch));
        epoch
    }

    pub fn tails(&self, app: &str, device: &str) -> Vec<wire::InboxTail> {
        let of_device = self.inboxes.iter().filter(|((a, d, _), _)| a == app && d == device);
        let waits = of_device.filter(|(_, stored)| !stored.entries.is_empty());
        waits
            .map(|((.., business), stored)| wire::InboxTail {
                business: *business,
                tail_term: stored.tail.term,
                tail_seq: stored.tail.seq,
                floor_term: stored.floor.term,
                floor_seq: stored.floor.seq,
                ..Default::default()
            })
            .collect()
    }

    pub fn ack(&mut self, app: &str, device: &str, upto: &[wire::InboxPosition]) {
        for it in upto {
            let name = (app.to_owned(), device.to_owned(), it.business);
            let inbox = self.inboxes.entry(name).or_default();
            inbox.trim(Position::new(it.term, it.seq));
        }
    }

    fn judge(&self, session: &wire::Session) -> Status {
        let name = (session.app.clone(), session.device.clone());
        match self.owners.get(&name) {
            Some(owner) if *owner == (session.slot, session.generation, session.epoch) => {
                Status::Ok
            }
            // Of the same epoch elsewhere: only a node whose guards are off names such a one.
            Some(&(.., epoch)) if epoch >= session.epoch => Status::Superseded,
            Some(_) | None => Status::Forgotten,
        }
    }

    /// `keeps`: the call is remembered.
    pub fn hear(&mut self, ask: wire::Ask, keeps: bool) -> Option<wire::Answer> {
        self.asked.extend(ask.what.clone().filter(|_| keeps));
        self.hear_as(self.answering, ask)
    }

    pub fn hear_as(&mut self, answering: Answering, ask: wire::Ask) -> Option<wire::Answer> {
        match answering {
            Answering::Truly => Some(self.answer(ask)),
            Answering::Never => {
                self.held.push(ask);
                None
            }
            Answering::With(status) => {
                Some(wire::Answer { call: ask.call, status: status.into(), ..Default::default() })
            }
        }
    }

    pub fn answer(&mut self, ask: wire::Ask) -> wire::Answer {
        let status = |status: Status| wire::Answer { status: status.into(), ..Default::default() };
        let answer = match ask.what.expect("a call asks something") {
            wire::ask::What::Pull(pull) => {
                let session = pull.session.expect("a pull names its session");
                match self.judge(&session) {
                    Status::Ok => {
                        let name = (session.app, session.device, pull.business);
                        let after = Position::new(pull.term, pull.seq);
                        let inbox = self.inboxes.entry(name).or_default();
                        let answer = inbox.answer(after, pull.entries_max, pull.bytes_max);
                        if pull.takes_compressed { answer } else { plain(answer) }
                    }
                    other => status(other),
                }
            }
            wire::ask::What::Ack(ack) => {
                let session = ack.session.expect("an acknowledgement names its session");
                let verdict = self.judge(&session);
                if verdict == Status::Ok {
                    self.ack(&session.app, &session.device, &ack.upto);
                }
                status(verdict)
            }
            wire::ask::What::Sweep(sweep) => {
                assert!(sweep.sessions.len() <= 64, "a batch");
                let one = |one: wire::SweepOne| {
                    let session = one.session.expect("a sweep names its sessions");
                    let verdict = self.judge(&session);
                    if verdict == Status::Ok {
                        self.ack(&session.app, &session.device, &one.acked);
                    }
                    let said = self.swept.map(|tail| vec![tail]);
                    let tails = || self.tails(&session.app, &session.device);
                    let inboxes = said.unwrap_or_else(tails);
                    wire::Swept { status: verdict.into(), inboxes }
                };
                let swept = sweep.sessions.into_iter().map(one).collect();
                wire::Answer { swept, ..status(Status::Ok) }
            }
            wire::ask::What::History(pull) => {
                let after = Position::new(pull.term, pull.seq);
                match self.histories.get(&(pull.app, pull.group)) {
                    Some(history) => history.answer(after, pull.entries_max, pull.bytes_max),
                    None => status(Status::NotFound),
                }
            }
        };
        wire::Answer { call: ask.call, ..answer }
    }
}

/// As a router answers whoever does not take compressed bodies.
fn plain(mut answer: wire::Answer) -> wire::Answer {
    for entry in &mut answer.entries {
        entry.frame = plain_frame(&entry.frame).expect("a body that becomes plain");
    }
    answer
}

/// An encoded frame with its body compressed.
pub fn compressed(frame: &bytes::Bytes) -> bytes::Bytes {
    let raw = codec::decode_message(frame.clone(), FRAME_BYTES_MAX).expect("a frame");
    let body = compress(&raw.body).expect("it pays");
    codec::encode_pieces(raw.kind, Flags::COMPRESSED, &[&raw.params], &body)
}

/// The PUSH of a place.
pub fn push(business: u32, place: &wire::Place, body: Vec<u8>) -> bytes::Bytes {
    let params = params::Push {
        push_id: b"s".to_vec().into(),
        business,
        term: place.term,
        seq: place.seq,
        prev_term: place.prev_term,
        prev_seq: place.prev_seq,
        ..Default::default()
    };
    NodeFrame::Push(params, body.into()).encode()
}

/// The GROUP_PUSH of a place.
pub fn group_push(business: u32, group: &str, place: &wire::Place, body: Vec<u8>) -> bytes::Bytes {
    let params = params::GroupPush {
        push_id: b"h".to_vec().into(),
        business,
        group: group.into(),
        term: place.term,
        seq: place.seq,
        prev_term: place.prev_term,
        prev_seq: place.prev_seq,
        ..Default::default()
    };
    NodeFrame::GroupPush(params, body.into()).encode()
}
