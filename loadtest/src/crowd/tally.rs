//! What a crowd tells of itself, once a second: a line of JSON.

use super::device::Phase;
use super::member::Member;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::stamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;

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
    }
}

/// What is being counted.
pub(super) type Tally = Told;

impl Told {
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
