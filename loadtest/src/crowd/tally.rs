//! What a crowd tells of itself, once a second: a line of JSON.

use super::device::Phase;
use super::member::Member;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::stamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

/// What was seen since the last word; and, by name, how the crowd stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Told {
    /// Monotonic nanoseconds.
    pub(crate) t: u64,
    pub(crate) online: u64,
    /// Dialling, logging in, or waiting for their turn.
    pub(crate) under_way: u64,
    /// They will not come back.
    pub(crate) gone: u64,
    pub(crate) members: u64,
    pub(crate) dials: u64,
    pub(crate) logins: u64,
    pub(crate) by_ticket: u64,
    /// Links that ended; and logins that were not answered in time.
    pub(crate) lost: u64,
    pub(crate) late: u64,
    /// Ended before LOGIN_OK: by a CLOSE, by number; 0: without a word.
    pub(crate) refused: BTreeMap<u32, u64>,
    /// Ended by a CLOSE after it.
    pub(crate) closed: BTreeMap<u32, u64>,
    pub(crate) pushes: u64,
    pub(crate) stored: u64,
    /// Of those, the ones above all that came before.
    pub(crate) stored_new: u64,
    pub(crate) group_pushes: u64,
    /// Stored pushes that came again, and those with a hole before them.
    pub(crate) repeated: u64,
    pub(crate) holes: u64,
    /// Pushes for someone else.
    pub(crate) wrong: u64,
    pub(crate) pongs: u64,
    /// Asked of the business, and answered with what was asked.
    pub(crate) requests: u64,
    pub(crate) answers: u64,
    pub(crate) failures: BTreeMap<u32, u64>,
    /// From leaving the backend.
    pub(crate) push_delay: Delays,
    pub(crate) group_delay: Delays,
    pub(crate) request_delay: Delays,
    /// From the dial to LOGIN_OK.
    pub(crate) login_delay: Delays,
    /// From the loss of a link to LOGIN_OK on the next.
    pub(crate) back: Delays,
    /// Of the lost links, those that were to end; and of these, those that ended with a goodbye.
    pub(crate) ended: u64,
    pub(crate) left: u64,
    pub(crate) not_joined: u64,
    /// Stored pushes that came after a time away.
    pub(crate) caught_up: u64,
    /// Of the pushes to this device alone: volatile, and stored while it was online.
    pub(crate) unicast_delay: Delays,
    pub(crate) stored_delay: Delays,
    /// How the crowd itself keeps up: how long after their time dials and requests left; those that did not
    /// leave at all because they were late, because nobody was online, or because too many logins were under
    /// way; dials for which there was no port or descriptor; and the turns of its loop.
    pub(crate) late_sends: Delays,
    pub(crate) skipped: u64,
    pub(crate) unasked: u64,
    pub(crate) held_back: u64,
    pub(crate) no_port: u64,
    pub(crate) no_descriptor: u64,
    pub(crate) busy_us: u64,
    pub(crate) turn_longest_us: u64,
}

impl Told {
    /// Adds what was seen; how it stands is the newest's.
    pub(crate) fn merge(&mut self, newer: &Self) {
        let Self { t, online, under_way, gone, members, .. } = newer;
        (self.t, self.online, self.under_way) = (*t, *online, *under_way);
        (self.gone, self.members) = (*gone, *members);
        self.add(newer);
    }

    /// Adds what another crowd saw, and how it stands.
    pub(crate) fn join(&mut self, other: &Self) {
        self.t = self.t.max(other.t);
        self.online += other.online;
        self.under_way += other.under_way;
        self.gone += other.gone;
        self.members += other.members;
        self.add(other);
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.dials, other.dials),
            (&mut self.logins, other.logins),
            (&mut self.by_ticket, other.by_ticket),
            (&mut self.lost, other.lost),
            (&mut self.late, other.late),
            (&mut self.pushes, other.pushes),
            (&mut self.stored, other.stored),
            (&mut self.stored_new, other.stored_new),
            (&mut self.group_pushes, other.group_pushes),
            (&mut self.repeated, other.repeated),
            (&mut self.holes, other.holes),
            (&mut self.wrong, other.wrong),
            (&mut self.pongs, other.pongs),
            (&mut self.requests, other.requests),
            (&mut self.answers, other.answers),
            (&mut self.ended, other.ended),
            (&mut self.left, other.left),
            (&mut self.not_joined, other.not_joined),
            (&mut self.caught_up, other.caught_up),
            (&mut self.skipped, other.skipped),
            (&mut self.unasked, other.unasked),
            (&mut self.held_back, other.held_back),
            (&mut self.no_port, other.no_port),
            (&mut self.no_descriptor, other.no_descriptor),
            (&mut self.busy_us, other.busy_us),
        ] {
            *mine += theirs;
        }
        for (mine, theirs) in [
            (&mut self.refused, &other.refused),
            (&mut self.closed, &other.closed),
            (&mut self.failures, &other.failures),
        ] {
            for (number, count) in theirs {
                *mine.entry(*number).or_default() += count;
            }
        }
        self.push_delay.merge(&other.push_delay);
        self.group_delay.merge(&other.group_delay);
        self.request_delay.merge(&other.request_delay);
        self.login_delay.merge(&other.login_delay);
        self.back.merge(&other.back);
        self.unicast_delay.merge(&other.unicast_delay);
        self.stored_delay.merge(&other.stored_delay);
        self.late_sends.merge(&other.late_sends);
        self.turn_longest_us = self.turn_longest_us.max(other.turn_longest_us);
    }
}

/// What is being counted.
pub(super) type Tally = Told;

impl Told {
    /// One turn of the loop, its wait left out.
    pub(super) fn add_turn(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.busy_us += micros;
        self.turn_longest_us = self.turn_longest_us.max(micros);
    }

    /// Says it, and begins anew.
    pub(super) fn tell(&mut self, member: &Member) -> anyhow::Result<()> {
        self.t = stamp::now();
        for device in &member.devices {
            match device.phase {
                Phase::Online => self.online += 1,
                Phase::Gone => self.gone += 1,
                Phase::New => {}
                Phase::Waiting | Phase::Dialing | Phase::LoggingIn | Phase::Lost => {
                    self.under_way += 1;
                }
            }
        }
        self.members = member.members;
        let mut line = serde_json::to_vec(&self)?;
        line.push(b'\n');
        std::io::stdout().lock().write_all(&line)?;
        *self = Self::default();
        Ok(())
    }
}
