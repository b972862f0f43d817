//! What a crowd's devices say and hear.

use super::Crowd;
use super::device::{Device, Phase};
use super::link::{self, Link, Taken};
use super::passes::Pass;
use super::tally::Tally;
use bytes::{Bytes, BytesMut};
use hawser_loadtest::stamp::{self, Stamp};
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params::{Ack, Close, Cursor, InboxPosition, Join, Login, Ping, Request};
use mio::{Registry, Token};
use rustls::ClientConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

/// All devices of the process.
pub(super) struct Member {
    pub(super) wanted: Crowd,
    pub(super) devices: Vec<Device>,
    /// In the group.
    pub(super) members: u64,
    pub(super) online: u32,
    registry: Registry,
    tls: Option<Arc<ClientConfig>>,
    beat: Bytes,
}

/// Devices that dial from one address. An address has some 28,000 ports; the kernel hands out every other
/// one at first, and searches all of those again for each dial once they are taken.
const DEVICES_OF_SOURCE: u32 = 8_000;

/// The address that this device dials from, where those from `first` on are the crowd's.
fn source_of(first: IpAddr, number: u32) -> IpAddr {
    let step = number / DEVICES_OF_SOURCE;
    match first {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().saturating_add(step)).into(),
        IpAddr::V6(first) => {
            Ipv6Addr::from_bits(first.to_bits().saturating_add(u128::from(step))).into()
        }
    }
}

impl Member {
    pub(super) fn new(wanted: Crowd, registry: Registry) -> anyhow::Result<Self> {
        let tls = wanted.trust.as_deref().map(link::tls).transpose()?;
        let devices = (0..wanted.count).map(|_| Device::new()).collect();
        let beat = DeviceFrame::Ping(Ping { nonce: 1 }).encode();
        Ok(Self { wanted, devices, members: 0, online: 0, registry, tls, beat })
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{}", self.wanted.name, self.wanted.first + number)
    }

    pub(super) fn give_pass(&mut self, number: u32, pass: Pass) {
        let device = &mut self.devices[number as usize];
        if device.window_ms == 0 {
            device.window_ms = pass.window_ms;
        }
        device.has_ticket = false;
        device.pass = Some(Box::new(pass));
        device.enter(Phase::Waiting);
    }

    /// Begins to dial the next of its access points.
    pub(super) fn dial(&mut self, number: u32, tally: &mut Tally) {
        let device = &mut self.devices[number as usize];
        if device.phase != Phase::Waiting {
            return;
        }
        let Some(pass) = &mut device.pass else { return };
        let to = pass.points[pass.next_point % pass.points.len()];
        pass.next_point += 1;
        tally.dials += 1;
        device.enter(Phase::Dialing);
        let token = Token(number as usize);
        let source = self.wanted.source.map(|first| source_of(first, number));
        match Link::dial(to, source, self.tls.as_ref(), &self.registry, token) {
            Ok(link) => device.link = Some(Box::new(link)),
            Err(_) => self.lose(number, tally),
        }
    }

    /// Its link has ended, or is to.
    pub(super) fn lose(&mut self, number: u32, tally: &mut Tally) {
        let device = &mut self.devices[number as usize];
        device.link = None;
        match device.phase {
            Phase::Online => {
                tally.lost += 1;
                self.online -= 1;
                device.lost = Some(Instant::now());
                if self.wanted.group.is_some() && number.is_multiple_of(self.wanted.group_every) {
                    self.members = self.members.saturating_sub(1);
                }
            }
            Phase::Dialing | Phase::LoggingIn => {
                *tally.refused.entry(0).or_default() += u64::from(device.retry_after_ms == 0);
            }
            _ => return,
        }
        device.enter(Phase::Lost);
    }

    /// Says goodbye and leaves.
    pub(super) fn leave(&mut self, number: u32, tally: &mut Tally) {
        if self.devices[number as usize].phase == Phase::Online {
            let bye = DeviceFrame::Bye(Close::default()).encode();
            self.say(number, &bye, tally);
            self.lose(number, tally);
        }
    }

    pub(super) fn ping(&mut self, number: u32, tally: &mut Tally) {
        let beat = self.beat.clone();
        self.say(number, &beat, tally);
    }

    /// Asks the business, unless an answer is still awaited.
    pub(super) fn request(&mut self, number: u32, tally: &mut Tally) {
        let name = self.name(number);
        let device = &mut self.devices[number as usize];
        if device.phase != Phase::Online {
            return;
        }
        device.request = device.request.wrapping_add(1).max(1);
        let request = Request {
            request_id: u64::from(device.request),
            business: device.business,
            method: "echo".to_owned(),
            deadline_ms: 10_000,
            ..Request::default()
        };
        tally.requests += 1;
        let frame = DeviceFrame::Request(request, stamp::body(&name, 64)).encode();
        self.say(number, &frame, tally);
    }

    fn say(&mut self, number: u32, bytes: &[u8], tally: &mut Tally) {
        let device = &mut self.devices[number as usize];
        let written = device.link.as_mut().map(|link| link.write(bytes));
        if matches!(written, Some(Err(_))) {
            self.lose(number, tally);
        }
    }

    /// The poll has word of a link.
    pub(super) fn on_event(&mut self, number: u32, scratch: &mut [u8], tally: &mut Tally) {
        let device = &mut self.devices[number as usize];
        let Some(link) = &mut device.link else { return };
        if device.phase == Phase::Dialing {
            match link.is_through() {
                Ok(true) => self.log_in(number, tally),
                Ok(false) => return,
                Err(_) => return self.lose(number, tally),
            }
        }
        if self.is_deaf(number) {
            return;
        }
        let device = &mut self.devices[number as usize];
        if device.link.as_mut().is_some_and(|link| link.flush().is_err()) {
            return self.lose(number, tally);
        }
        loop {
            let Some(link) = &mut self.devices[number as usize].link else { return };
            match link.read(scratch) {
                Taken::Bytes(0) => {}
                Taken::Bytes(read) => {
                    self.hear(number, &scratch[..read], tally);
                    if self.is_deaf(number) {
                        return;
                    }
                }
                Taken::Nothing => return,
                Taken::End => return self.lose(number, tally),
            }
        }
    }

    /// It takes nothing more, once it is in.
    fn is_deaf(&self, number: u32) -> bool {
        self.wanted.deaf && self.devices[number as usize].phase == Phase::Online
    }

    fn log_in(&mut self, number: u32, tally: &mut Tally) {
        let name = self.name(number);
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_be_bytes());
        let wanted = &self.wanted;
        let device = &mut self.devices[number as usize];
        let Some(pass) = &device.pass else { return };
        device.attempt += 1;
        // The time makes attempts of a later process of the same devices newer than those of this one.
        let attempt = stamp::now() / 1_000_000 * 1_000 + u64::from(device.attempt % 1_000);
        let mut login = Login {
            app: wanted.app.clone(),
            device: name,
            instance: Bytes::copy_from_slice(&instance),
            attempt,
            businesses: vec![wanted.business.clone()],
            abilities: ability::INBOX | ability::RESUME,
            ..Login::default()
        };
        if device.has_ticket {
            login.resume_ticket = Bytes::copy_from_slice(&pass.secret);
        } else {
            login.token = String::from_utf8_lossy(&pass.secret).into_owned();
        }
        if device.seq > 0 {
            let (term, seq) = (device.term, device.seq);
            login.cursors = vec![Cursor { business: wanted.business.clone(), term, seq }];
        }
        device.phase = Phase::LoggingIn;
        let frame = DeviceFrame::Login(login).encode();
        self.say(number, &frame, tally);
    }

    /// Whole frames are taken, the rest is kept.
    fn hear(&mut self, number: u32, bytes: &[u8], tally: &mut Tally) {
        let Some(link) = &mut self.devices[number as usize].link else { return };
        let mut buffer = BytesMut::from(link.partial.as_slice());
        buffer.extend_from_slice(bytes);
        link.partial = Vec::new();
        loop {
            let frame = codec::decode(&mut buffer, FRAME_BYTES_MAX);
            match frame.and_then(|raw| raw.map(NodeFrame::parse).transpose()) {
                Ok(Some(frame)) => {
                    self.on_frame(number, frame, tally);
                    if self.is_deaf(number) {
                        break;
                    }
                }
                Ok(None) => break,
                Err(_) => return self.lose(number, tally),
            }
        }
        if let Some(link) = &mut self.devices[number as usize].link
            && !buffer.is_empty()
        {
            link.partial = buffer.to_vec();
        }
    }

    fn on_frame(&mut self, number: u32, frame: NodeFrame, tally: &mut Tally) {
        match frame {
            NodeFrame::LoginOk(ok) => {
                let device = &mut self.devices[number as usize];
                tally.logins += 1;
                tally.by_ticket += u64::from(device.has_ticket);
                tally.login_delay.add(device.since.elapsed());
                if let Some(lost) = device.lost.take() {
                    tally.back.add(lost.elapsed());
                }
                device.business = ok.businesses.first().map_or(0, |it| it.number);
                if ok.reconnect_window_ms > 0 {
                    device.window_ms = ok.reconnect_window_ms;
                }
                let leaves_for_good = !self.wanted.come_back && self.wanted.stay_ms.is_none();
                if leaves_for_good || self.wanted.forget {
                    device.pass = None;
                } else if let Some(pass) = &mut device.pass
                    && !ok.resume_ticket.is_empty()
                {
                    pass.secret = ok.resume_ticket.as_ref().into();
                    device.has_ticket = true;
                }
                device.is_online_now();
                self.online += 1;
                if let Some(group) = &self.wanted.group
                    && number.is_multiple_of(self.wanted.group_every)
                {
                    let join = Join { request_id: 1, group: group.clone(), ..Join::default() };
                    let frame = DeviceFrame::Join(join).encode();
                    self.say(number, &frame, tally);
                }
            }
            NodeFrame::Close(close) => {
                let device = &mut self.devices[number as usize];
                let is_login = device.phase != Phase::Online;
                let counts = if is_login { &mut tally.refused } else { &mut tally.closed };
                *counts.entry(close.code).or_default() += 1;
                // A ticket that is not taken any more: control gives a token.
                if is_login && device.has_ticket {
                    device.pass = None;
                }
                device.retry_after_ms = close.retry_after_ms.max(u32::from(is_login));
                self.lose(number, tally);
            }
            NodeFrame::Push(push, body) => self.on_push(number, &push, &body, tally),
            NodeFrame::GroupPush(push, body) => {
                tally.group_pushes += 1;
                if let Some(stamp) = Stamp::read(&body) {
                    tally.group_delay.add(stamp.age);
                    tally.wrong += u64::from(!stamp.is_for(&push.group));
                }
            }
            NodeFrame::Response(response, body) => {
                if response.status == 0 {
                    tally.answers += 1;
                } else {
                    *tally.failures.entry(response.status).or_default() += 1;
                }
                if let Some(stamp) = Stamp::read(&body) {
                    tally.request_delay.add(stamp.age);
                }
            }
            NodeFrame::Joined(joined) if joined.status == 0 => self.members += 1,
            NodeFrame::Pong(_) => tally.pongs += 1,
            _ => {}
        }
    }

    fn on_push(
        &mut self,
        number: u32,
        push: &hawser_proto::params::Push,
        body: &[u8],
        tally: &mut Tally,
    ) {
        tally.pushes += 1;
        if let Some(stamp) = Stamp::read(body) {
            tally.push_delay.add(stamp.age);
            tally.wrong += u64::from(!stamp.is_for(&self.name(number)));
        }
        if push.seq == 0 {
            return;
        }
        tally.stored += 1;
        let device = &mut self.devices[number as usize];
        let (at, had) = ((push.term, push.seq), (device.term, device.seq));
        tally.stored_new += u64::from(at > had);
        tally.repeated += u64::from(at <= had && !push.redelivered);
        tally.holes += u64::from((push.prev_term, push.prev_seq) > had);
        (device.term, device.seq) = at.max(had);
        let upto = InboxPosition { business: push.business, term: push.term, seq: push.seq };
        let ack = DeviceFrame::Ack(Ack { inboxes: vec![upto] }).encode();
        self.say(number, &ack, tally);
    }
}
