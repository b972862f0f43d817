//! One connection as its slot holds it: link, outbox, who it is, and its deadlines. Everything here is
//! done under the slot's lock; who may enter, and why, is the table's to say.

use crate::downlink::Downlink;
use crate::frame_out::{Form, FrameOut};
use crate::link::{Dialled, Link, Readiness};
use crate::metrics::Metrics;
use crate::outbox::{Keep, Outbox, SlowPolicy};
use bytes::Bytes;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{NodeFrame, ability};
use hawser_proto::id::{AppId, BusinessId, BusinessNo, DeviceId, Epoch};
use hawser_proto::limits::{CLOCK_LEEWAY, FRAME_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The kernel (or the transport) took all of it.
    Taken,
    /// It waits in the bounded outbox.
    Queued,
    /// Dropped: the device is slower than its senders.
    Overflow,
    /// The connection is closing.
    Gone,
}

/// Why a connection should end, seen by someone other than its own task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The login was not done in time.
    LoginDeadline,
    /// Nothing was heard for the idle time-out.
    Idle,
    /// The link took no byte for the write time-out, or its business disconnects slow devices.
    Slow,
    /// The token's time is over.
    TokenExpired,
    /// The node wants to go: tell the device, or finish what is in flight.
    Drain,
    /// The device was told to go, and its time is over: finish what is in flight.
    LeaveBy,
    /// The router, an operator or a shutdown wants it to end.
    Ordered(CloseCode, String),
}

/// Whom a drain has told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Someone who was told before, or ends for another reason, or is in the middle of a login.
    Nobody,
    /// A link that has not logged in.
    Stranger,
    /// A session.
    Session,
}

/// What the last answer means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing.
    Stays,
    /// The node goes: it is closed then.
    Drains,
    /// The device's session is elsewhere by now, and answers alone are written here: it is closed then.
    Moved,
}

/// Who a session is, once the login is under way.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) app: AppId,
    pub(crate) device: DeviceId,
    /// 0 while the router has not answered.
    pub(crate) epoch: Epoch,
    /// The one it began with, however often it was raised since.
    pub(crate) first_epoch: Epoch,
    /// A kick that overtook the router's answer to our own bind: boxed, for there is nearly never one.
    pub(crate) kicked_epoch: Option<Box<(Epoch, CloseCode)>>,
    pub(crate) instance: [u8; 16],
    pub(crate) attempt: u64,
    pub(crate) rights: Arc<Rights>,
    pub(crate) client: Arc<ClientFacts>,
    pub(crate) login_at_ms: u64,
    pub(crate) token_issued_at_ms: u64,
    pub(crate) token_expires_at_ms: u64,
    /// What businesses wrote into the session.
    pub(crate) attributes: Option<Box<Attributes>>,
}

impl Identity {
    /// Whether the session serves this business.
    pub(crate) fn serves(&self, business: BusinessNo) -> bool {
        self.rights.businesses.binary_search(&business).is_ok()
    }

    /// What a business wrote into the session.
    pub(crate) fn attributes_of(&self, business: BusinessNo) -> HashMap<String, String> {
        let all = self.attributes.as_ref();
        all.and_then(|all| all.by_business.get(&business)).cloned().unwrap_or_default()
    }
}

/// Which businesses a session may have to do with; equal ones are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rights {
    /// Those it serves, sorted.
    pub(crate) businesses: Box<[BusinessNo]>,
    /// Those its token allows; none: all of the app.
    pub(crate) token_businesses: Box<[BusinessId]>,
}

/// Attributes that each business keeps in a session, boxed so that the many sessions without pay a word.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) by_business: HashMap<BusinessNo, HashMap<String, String>>,
}

/// What a device said of itself; equal ones are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClientFacts {
    pub(crate) sdk: String,
    pub(crate) platform: String,
    pub(crate) app_version: String,
}

/// One connection, in its slot.
///
/// What an idle one costs is counted in `idle`; whatever is rare stands behind a pointer.
pub(crate) struct Connection {
    pub(super) link: Link,
    pub(crate) form: Form,
    pub(crate) dialled: Dialled,
    pub(crate) remote: IpAddr,
    pub(super) outbox: Outbox,
    /// The connection's task, when it waits.
    pub(super) waker: Waker,
    /// Why it should end; boxed, for nobody is told so but once.
    pub(super) signal: Option<Box<Signal>>,
    /// The goodbye was written: nothing may follow it.
    pub(super) is_closing: bool,
    pub(crate) identity: Option<Box<Identity>>,
    /// Requests and refreshes handed over and not answered.
    pub(super) in_flight: u16,
    /// The frame limit that LOGIN_OK tells: it holds for the session's life.
    pub(crate) frame_bytes_max: u32,
    /// Abilities in force.
    pub(crate) abilities: u8,
    /// Stored pushes and what was missed; boxed, and there only when there is something to keep.
    pub(crate) downlink: Option<Box<Downlink>>,
    /// A REFRESH is not answered yet.
    pub(crate) is_refreshing: bool,
    /// Wheel time (ms) when something was last heard.
    pub(super) heard_ms: u64,
    /// Wheel time (ms) when the link last took a byte while some were waiting.
    pub(super) stalled_since_ms: u64,
    /// Before login: wheel time (ms) until which it must be done. After it: the idle time-out.
    pub(super) deadline_ms: u64,
    /// Wheel time (ms) of the next look at the deadlines: the one entry of this connection that counts.
    pub(super) scheduled_ms: u64,
    /// The node goes, and this session was told, or is about to be.
    pub(crate) is_told: bool,
    /// What becomes of it once nothing is in flight.
    pub(super) end: End,
    /// LOGIN_OK was written: pushes may follow. A device drops what comes before it.
    pub(crate) is_admitted: bool,
}

impl Connection {
    pub(crate) fn new(
        link: Link,
        form: Form,
        dialled: Dialled,
        remote: IpAddr,
        login_deadline_ms: u64,
    ) -> Self {
        Self {
            link,
            form,
            dialled,
            remote,
            outbox: Outbox::default(),
            waker: Waker::noop().clone(),
            signal: None,
            is_closing: false,
            identity: None,
            in_flight: 0,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            abilities: 0,
            downlink: None,
            is_refreshing: false,
            heard_ms: 0,
            stalled_since_ms: 0,
            deadline_ms: login_deadline_ms,
            scheduled_ms: login_deadline_ms,
            is_told: false,
            end: End::Stays,
            is_admitted: false,
        }
    }

    /// The reactor was told of something new about this connection's socket.
    pub(crate) fn hear(&mut self, news: Readiness) {
        let Link::Tcp(tcp) = &mut self.link else { return };
        tcp.hear(news);
        if news.is_readable || !self.outbox.is_empty() {
            self.waker.wake_by_ref();
        }
    }

    /// The task that is to be woken for this connection.
    pub(super) fn wakes(&mut self, cx: &Context<'_>) {
        if !self.waker.will_wake(cx.waker()) {
            self.waker.clone_from(cx.waker());
        }
    }

    /// Tells the connection's task that it should end. The first reason stays, but any other comes
    /// before a drain, which would tell the device to come back. False: it is ending already.
    pub(crate) fn order(&mut self, signal: Signal) -> bool {
        let is_free = match self.signal.as_deref() {
            None | Some(Signal::Drain) => true,
            Some(Signal::LeaveBy) => signal != Signal::Drain,
            Some(_) => false,
        };
        let is_taken = is_free && !self.is_closing;
        if is_taken {
            self.signal = Some(Box::new(signal));
            self.waker.wake_by_ref();
        }
        is_taken
    }

    /// Whether a look at `due_ms` is sooner than the one that is planned; then it is planned.
    pub(super) fn schedule(&mut self, due_ms: u64) -> bool {
        let is_sooner = due_ms < self.scheduled_ms;
        self.scheduled_ms = self.scheduled_ms.min(due_ms);
        is_sooner
    }

    /// A request was handed over, if there is room for one more.
    pub(crate) fn begin_request(&mut self) -> Result<(), ErrorCode> {
        if usize::from(self.in_flight) >= REQUESTS_IN_FLIGHT_MAX {
            return Err(ErrorCode::TooManyRequests);
        }
        self.in_flight += 1;
        Ok(())
    }

    /// A refresh was handed over: one at a time, and it counts as a request.
    pub(crate) fn begin_refresh(&mut self) -> Result<(), ErrorCode> {
        if self.is_refreshing {
            return Err(ErrorCode::TooManyRequests);
        }
        self.begin_request()?;
        self.is_refreshing = true;
        Ok(())
    }

    /// A request was answered. The last one of a draining connection lets it go.
    pub(crate) fn end_request(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.drain_if_quiet();
    }

    /// The node goes: its turn has come to be told.
    pub(crate) fn tell_to_go(&mut self) -> Told {
        // Perhaps it has moved by now, and has no identity any more.
        if self.is_told {
            return Told::Nobody;
        }
        if self.identity.is_none() {
            let is_told = self.signal.is_none() && self.order(Signal::Drain);
            return if is_told { Told::Stranger } else { Told::Nobody };
        }
        // One whose login is under way is told in the next round.
        if !self.is_admitted || !self.order(Signal::Drain) {
            return Told::Nobody;
        }
        self.is_told = true;
        Told::Session
    }

    /// The session closes once nothing is in flight.
    pub(crate) fn drain(&mut self) {
        self.is_told = true;
        self.end = End::Drains;
        self.drain_if_quiet();
    }

    /// The device has logged in elsewhere: no push, and no word about groups, leaves here any more. Its session
    /// closes once nothing is in flight.
    pub(crate) fn move_on(&mut self) {
        self.end = End::Moved;
        self.is_admitted = false;
        self.abilities = 0;
        self.drain_if_quiet();
    }

    /// Whether this frame of the session itself has still a place here.
    pub(super) fn takes(&self, frame: &NodeFrame) -> bool {
        let is_answer =
            matches!(frame, NodeFrame::Response(..) | NodeFrame::Refreshed(_) | NodeFrame::Pong(_));
        self.end != End::Moved || is_answer
    }

    pub(super) fn drain_if_quiet(&mut self) {
        if self.end != End::Stays && self.in_flight == 0 {
            self.order(Signal::Ordered(CloseCode::Draining, String::new()));
        }
    }

    pub(crate) fn has(&self, ability: u32) -> bool {
        u32::from(self.abilities) & ability != 0
    }

    pub(crate) fn downlink_mut(&mut self) -> &mut Downlink {
        self.downlink.get_or_insert_default()
    }

    /// Whether a push that can be had again may be written now.
    pub(crate) fn takes_stored(&self, bytes: usize) -> bool {
        self.is_admitted && !self.is_closing && self.outbox.has_room(bytes)
    }

    /// Writes a push of a live group, and before it how many were missed, if both fit.
    pub(super) fn write_group(
        &mut self,
        frame: &FrameOut,
        group: u32,
        slow: SlowPolicy,
        missed: impl Fn(u64) -> FrameOut,
        now_ms: u64,
        metrics: &Metrics,
    ) -> Written {
        let told = self.downlink.as_ref().and_then(|downlink| downlink.missed_of(group));
        if let Some(count) = told {
            let word = missed(count);
            let fits = self.outbox.has_room_for_volatile(word.len() + frame.len());
            if fits && frame.len() <= self.frame_bytes_max as usize {
                self.write(&word, Keep::Always, slow, now_ms, metrics);
                self.downlink_mut().told_missed(group);
                metrics.missed.inc_by(count);
            }
        }
        let written = self.write(frame, Keep::Group(group), slow, now_ms, metrics);
        if written == Written::Overflow && self.has(ability::HISTORY) {
            self.downlink_mut().miss(group);
        }
        written
    }

    /// Writes a push of a history group to a member that can ask for it again: it is queued where there
    /// is room, and never dropped for another.
    pub(super) fn write_history(
        &mut self,
        frame: &FrameOut,
        slow: SlowPolicy,
        now_ms: u64,
        metrics: &Metrics,
    ) -> Written {
        if !self.has(ability::HISTORY) {
            return self.write(frame, Keep::Droppable, slow, now_ms, metrics);
        }
        if self.is_closing || !self.is_admitted {
            return Written::Gone;
        }
        let is_too_large = frame.len() > self.frame_bytes_max as usize;
        if is_too_large || !self.outbox.has_room_for_volatile(frame.len()) {
            return Written::Overflow;
        }
        self.write(frame, Keep::Stored, SlowPolicy::DropNewest, now_ms, metrics)
    }

    pub(crate) fn write(
        &mut self,
        frame: &FrameOut,
        keep: Keep,
        slow: SlowPolicy,
        now_ms: u64,
        metrics: &Metrics,
    ) -> Written {
        let is_push = keep != Keep::Always;
        if self.is_closing || (is_push && !self.is_admitted) {
            return Written::Gone;
        }
        // The app's limit may have been raised since this session was told one.
        if is_push && frame.len() > self.frame_bytes_max as usize {
            return Written::Overflow;
        }
        let Some(frame) = frame.for_device(self.has(ability::ZSTD), metrics) else {
            return Written::Overflow;
        };
        let form = self.form;
        let kept = || frame.kept(form).clone();
        self.write_bytes(frame.bytes(form), kept, keep, slow, now_ms, metrics)
    }

    /// `kept`: the same bytes, to wait with.
    pub(super) fn write_bytes(
        &mut self,
        bytes: &Bytes,
        kept: impl FnOnce() -> Bytes,
        keep: Keep,
        slow: SlowPolicy,
        now_ms: u64,
        metrics: &Metrics,
    ) -> Written {
        if self.outbox.is_empty() {
            match self.link.try_write(&self.waker, bytes) {
                Ok(taken) if taken == bytes.len() && !self.link.is_holding() => {
                    return Written::Taken;
                }
                Ok(taken) if taken == bytes.len() => {}
                Ok(taken) => self.outbox.begin(kept().slice(taken..), keep, taken > 0),
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => {
                    self.outbox.begin(kept(), keep, false);
                }
                // The task finds out the same way, and ends.
                Err(_) => {
                    self.waker.wake_by_ref();
                    return Written::Gone;
                }
            }
            self.stalled_since_ms = now_ms;
            self.waker.wake_by_ref();
            return Written::Queued;
        }
        match self.outbox.push(kept(), keep, slow == SlowPolicy::DropOldest) {
            Ok(evicted) => {
                metrics.evicted(evicted.pushes);
                if self.has(ability::HISTORY) {
                    evicted.groups.into_iter().for_each(|group| self.downlink_mut().miss(group));
                }
                Written::Queued
            }
            Err(_) if keep == Keep::Always || slow == SlowPolicy::Disconnect => {
                self.order(Signal::Slow);
                Written::Overflow
            }
            Err(_) => Written::Overflow,
        }
    }

    /// When the next deadline is, or which one is over.
    pub(super) fn next_deadline(
        &self,
        now_ms: u64,
        wall_ms: u64,
        write_timeout_ms: u64,
    ) -> Result<u64, Signal> {
        // The drain gives those who have moved less time than any deadline of a session.
        if self.end == End::Moved {
            return Ok(u64::MAX);
        }
        let Some(identity) = self.identity.as_ref().filter(|identity| identity.epoch.0 != 0) else {
            let is_over = now_ms >= self.deadline_ms;
            return if is_over { Err(Signal::LoginDeadline) } else { Ok(self.deadline_ms) };
        };
        let idle_ms = self.heard_ms.saturating_add(self.deadline_ms);
        if now_ms >= idle_ms {
            return Err(Signal::Idle);
        }
        let leeway_ms = CLOCK_LEEWAY.as_millis() as u64;
        let token_ms =
            identity.token_expires_at_ms.saturating_add(leeway_ms).saturating_sub(wall_ms);
        if token_ms == 0 {
            return Err(Signal::TokenExpired);
        }
        let token_ms = now_ms.saturating_add(token_ms);
        if self.outbox.is_empty() && !self.link.is_holding() {
            return Ok(idle_ms.min(token_ms));
        }
        let stall_ms = self.stalled_since_ms.saturating_add(write_timeout_ms);
        if now_ms >= stall_ms { Err(Signal::Slow) } else { Ok(idle_ms.min(token_ms).min(stall_ms)) }
    }

    /// Empties the outbox as far as the link takes it. Pending while something is left.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, now_ms: u64) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() || self.link.is_holding() {
            std::task::ready!(self.link.poll_flush(cx))?;
            let mut pieces = Vec::new();
            self.outbox.gather(&mut pieces);
            if pieces.is_empty() {
                continue;
            }
            match self.link.try_write_gathered(cx.waker(), &pieces) {
                Ok(taken) => {
                    drop(pieces);
                    self.outbox.advance(taken);
                    self.stalled_since_ms = now_ms;
                }
                Err(again) if again.kind() == io::ErrorKind::WouldBlock => {}
                Err(failed) => return Poll::Ready(Err(failed)),
            }
        }
        Poll::Ready(Ok(()))
    }
}
