//! What a crowd's devices say and hear.

use super::device::{Device, Phase};
use super::link::{Dialer, Taken};
use super::passes::Pass;
use super::plan::{Behaviour, Plan, Protocol};
use super::tally::Tally;
use bytes::Bytes;
use hawser_loadtest::stamp::{self, Stamp};
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::limits::FRAME_BYTES_MAX;
use hawser_proto::params::{Ack, Close, Cursor, InboxPosition, Join, Leave, Login, Ping, Request};
use mio::{Registry, Token};
use rustix::io::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// All devices of the process.
pub(super) struct Member {
    pub(super) plan: Plan,
    pub(super) devices: Vec<Device>,
    /// In a group, counted once for each.
    pub(super) members: u64,
    pub(super) online: u32,
    dialer: Dialer,
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
    pub(super) fn new(plan: Plan, registry: Registry) -> anyhow::Result<Self> {
        let dialer = Dialer::new(plan.protocol, plan.trust.as_deref(), plan.source, registry)?;
        let behaviour = |number: u32| {
            let hash = xxh3_64_with_seed(&(plan.first + number).to_be_bytes(), plan.seed);
            plan.behaviours.at(hash as f64 / u64::MAX as f64)
        };
        let devices = (0..plan.count).map(|number| Device::new(behaviour(number))).collect();
        let beat = DeviceFrame::Ping(Ping { nonce: 1 }).encode();
        Ok(Self { plan, devices, members: 0, online: 0, dialer, beat })
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{}", self.plan.name, self.plan.first + number)
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

    /// Begins to dial the next of its access points; this was due.
    pub(super) fn dial(&mut self, number: u32, due: Instant, tally: &mut Tally) {
        let device = &mut self.devices[number as usize];
        if device.phase != Phase::Waiting {
            return;
        }
        let Some(pass) = &mut device.pass else { return };
        let to = &pass.points[pass.next_point % pass.points.len()];
        let source = self.plan.source.map(|first| source_of(first, number));
        let dialed = self.dialer.dial(to, source, Token(number as usize));
        pass.next_point += 1;
        tally.dials += 1;
        device.enter(Phase::Dialing);
        device.since = due;
        match dialed {
            Ok(link) => device.link = Some(Box::new(link)),
            Err(error) => {
                match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => tally.no_port += 1,
                    Some(Errno::MFILE | Errno::NFILE) => tally.no_descriptor += 1,
                    _ => {}
                }
                self.lose(number, tally);
            }
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
                let joined = std::mem::take(&mut device.joined);
                self.members = self.members.saturating_sub(u64::from(joined.count_ones()));
            }
            Phase::Dialing | Phase::LoggingIn => {
                *tally.refused.entry(0).or_default() += u64::from(device.retry_after_ms == 0);
            }
            _ => return,
        }
        device.enter(Phase::Lost);
    }

    /// Whether the session of this login still lasts.
    pub(super) fn is_in(&self, number: u32, login: u8) -> bool {
        let device = &self.devices[number as usize];
        device.phase == Phase::Online && device.attempt as u8 == login
    }

    /// Says goodbye and leaves.
    pub(super) fn leave(&mut self, number: u32, tally: &mut Tally) {
        if self.devices[number as usize].phase == Phase::Online {
            let bye = DeviceFrame::Bye(Close::default()).encode();
            self.say(number, &bye, tally);
            self.devices[number as usize].at_will = true;
            self.cut(number, tally);
            // Nothing was lost: how long it takes to be back says nothing.
            self.devices[number as usize].lost = None;
            tally.left += 1;
        }
    }

    /// Its link ends because it is to.
    pub(super) fn cut(&mut self, number: u32, tally: &mut Tally) {
        let lost = tally.lost;
        if self.devices[number as usize].phase == Phase::Online {
            self.lose(number, tally);
        }
        tally.ended += tally.lost - lost;
    }

    /// Asks to be in this one of its groups.
    pub(super) fn join(&mut self, number: u32, group: u8, tally: &mut Tally) {
        let Some(name) = self.plan.groups[usize::from(group)].of(number) else { return };
        let join = Join { request_id: u64::from(group) + 1, group: name, ..Join::default() };
        let frame = DeviceFrame::Join(join).encode();
        self.say(number, &frame, tally);
    }

    /// Asks to be out of it.
    pub(super) fn part(&mut self, number: u32, group: u8, tally: &mut Tally) {
        let Some(name) = self.plan.groups[usize::from(group)].of(number) else { return };
        let leave = Leave { request_id: u64::from(group) + 1, group: name };
        let frame = DeviceFrame::Leave(leave).encode();
        self.say(number, &frame, tally);
    }

    fn is_member(&mut self, number: u32, request: u64, now: bool) {
        let device = &mut self.devices[number as usize];
        let Some(bit) = (1..=16).contains(&request).then(|| 1 << (request - 1)) else { return };
        let had = device.joined & bit != 0;
        match (had, now) {
            (false, true) => self.members += 1,
            (true, false) => self.members -= 1,
            _ => {}
        }
        device.joined = if now { device.joined | bit } else { device.joined & !bit };
    }

    pub(super) fn ping(&mut self, number: u32, tally: &mut Tally) {
        let beat = self.beat.clone();
        self.say(number, &beat, tally);
    }

    /// Asks the business what was due this long ago.
    pub(super) fn request(&mut self, number: u32, late: Duration, bytes: usize, tally: &mut Tally) {
        let name = self.name(number);
        let device = &mut self.devices[number as usize];
        device.request = device.request.wrapping_add(1).max(1);
        let request = Request {
            request_id: u64::from(device.request),
            business: device.business,
            method: self.plan.method.clone(),
            deadline_ms: self.plan.request_deadline_ms,
            ..Request::default()
        };
        tally.requests += 1;
        let due = stamp::now().saturating_sub(u64::try_from(late.as_nanos()).unwrap_or(0));
        let frame = DeviceFrame::Request(request, stamp::due(&name, bytes, due)).encode();
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
    /// `is_over`: the other side has ended it.
    pub(super) fn on_event(
        &mut self,
        number: u32,
        is_over: bool,
        scratch: &mut [u8],
        tally: &mut Tally,
    ) {
        let is_plain = self.plan.protocol == Protocol::Tcp;
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
                    // Less than there was room for: no more is there, and word comes when more is. An end that
                    // came with it had its word already.
                    if self.is_deaf(number) || (read < scratch.len() && is_plain && !is_over) {
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
        let device = &self.devices[number as usize];
        device.behaviour == Behaviour::Deaf && device.phase == Phase::Online
    }

    fn log_in(&mut self, number: u32, tally: &mut Tally) {
        let name = self.name(number);
        let mut instance = [0; 16];
        instance[..8].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_be_bytes());
        let plan = &self.plan;
        let device = &mut self.devices[number as usize];
        let Some(pass) = &device.pass else { return };
        device.attempt += 1;
        // The time makes attempts of a later process of the same devices newer than those of this one.
        let attempt = stamp::now() / 1_000_000 * 1_000 + u64::from(device.attempt % 1_000);
        let mut login = Login {
            app: plan.app.clone(),
            device: name,
            instance: Bytes::copy_from_slice(&instance),
            attempt,
            businesses: vec![plan.business.clone()],
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
            login.cursors = vec![Cursor { business: plan.business.clone(), term, seq }];
        }
        device.phase = Phase::LoggingIn;
        let frame = DeviceFrame::Login(login).encode();
        self.say(number, &frame, tally);
    }

    /// Whole frames are taken, the rest is kept.
    fn hear(&mut self, number: u32, bytes: &[u8], tally: &mut Tally) {
        let Some(link) = &mut self.devices[number as usize].link else { return };
        let Ok(mut buffer) = link.frames(bytes) else { return self.lose(number, tally) };
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
        if let Some(link) = &mut self.devices[number as usize].link {
            link.keep(&buffer);
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
                let comes_back = self.plan.come_back || device.behaviour == Behaviour::Flapping;
                if !comes_back || self.plan.forget {
                    device.pass = None;
                } else if let Some(pass) = &mut device.pass
                    && !ok.resume_ticket.is_empty()
                {
                    pass.secret = ok.resume_ticket.as_ref().into();
                    device.has_ticket = true;
                }
                device.is_online_now();
                self.online += 1;
                for group in 0..self.plan.groups.len() {
                    self.join(number, group as u8, tally);
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
            NodeFrame::Joined(joined) if joined.status == 0 => {
                self.is_member(number, joined.request_id, true);
            }
            NodeFrame::Joined(_) => tally.not_joined += 1,
            NodeFrame::Left(left) => self.is_member(number, left.request_id, false),
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
            let online = self.devices[number as usize].since.elapsed();
            if push.seq == 0 {
                tally.unicast_delay.add(stamp.age);
            } else if stamp.age <= online && !push.redelivered {
                tally.stored_delay.add(stamp.age);
            } else {
                tally.caught_up += 1;
            }
            let class = stamp::class(self.plan.first + number);
            let is_mine = stamp.is_for(&self.name(number)) || stamp.is_for(&class);
            tally.wrong += u64::from(!is_mine);
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
