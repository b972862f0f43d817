//! Whether they were held: all of them, from the first login on, with most of the work done.

use super::Hold;
use super::load::{Counts, Presence};
use crate::crowd::Told;
use std::time::Duration;

/// Of what was to be done, so much must have been tried; and of what was tried, so much must have worked.
const TRIED: f64 = 0.9;
const WORKED: f64 = 0.99;

/// What was held, and what came of the work meanwhile.
pub(super) struct Held<'a> {
    pub(super) wanted: &'a Hold,
    /// For so long backends pushed.
    pub(super) at_work: Duration,
    /// What the devices saw at work; and from the first login on.
    pub(super) told: Told,
    pub(super) whole: Told,
    pub(super) counts: Counts,
    pub(super) presence: Presence,
}

impl Held<'_> {
    pub(super) fn say(&self) {
        let Self { wanted, told, whole, counts, presence, .. } = self;
        println!(
            "unicasts {} sent, {} written, {}; stored {} sent, {} stored, {} arrived; multicasts {} to {} \
             members, {} arrived, {}; requests {} asked, {} answered, {}, failed {:?}",
            counts.unicasts,
            counts.written,
            told.push_delay,
            counts.stores,
            counts.stored,
            told.stored,
            counts.multicasts,
            told.members,
            told.group_pushes,
            told.group_delay,
            told.requests,
            told.answers,
            told.request_delay,
            told.failures
        );
        println!(
            "{} online at the end of {}; from the first login on {} lost, {} wrong, {} repeated, {} holes, \
             {} pongs; closed {:?}; presence: {} of {} asked are online",
            told.online,
            wanted.devices,
            whole.lost,
            whole.wrong,
            whole.repeated,
            whole.holes,
            whole.pongs,
            whole.closed,
            presence.online,
            presence.asked
        );
    }

    /// Whatever was promised and not seen.
    pub(super) fn misses(&self) -> Vec<String> {
        let Self { wanted, told, whole, counts, presence, .. } = self;
        let mut misses = Vec::new();
        let mut at_least = |what: &str, seen: u64, of: u64, share: f64| {
            if (seen as f64) < of as f64 * share {
                misses.push(format!("{seen} {what} of {of} (at least {:.0} %)", share * 100.0));
            }
        };
        let due = |per_second: u32| (self.at_work.as_secs_f64() * f64::from(per_second)) as u64;
        at_least("online", told.online, wanted.devices as u64, 1.0);
        at_least("online by the routers' word", presence.online as u64, presence.asked as u64, 1.0);
        at_least("unicasts sent", counts.unicasts, due(wanted.unicasts), TRIED);
        at_least("unicasts written", counts.written, counts.unicasts, WORKED);
        at_least("stored pushes sent", counts.stores, due(wanted.stored), TRIED);
        at_least("stored pushes stored", counts.stored, counts.stores, WORKED);
        at_least("stored pushes arrived", told.stored, counts.stored, WORKED);
        at_least(
            "unicasts arrived",
            told.pushes.saturating_sub(told.stored),
            counts.written,
            WORKED,
        );
        at_least("multicasts sent", counts.multicasts, due(wanted.multicasts), TRIED);
        let members = wanted.devices.div_ceil(wanted.group_every.max(1)) as u64;
        at_least("multicasts arrived", told.group_pushes, counts.multicasts * members, WORKED);
        at_least("requests asked", told.requests, due(wanted.requests), TRIED);
        at_least("requests answered", told.answers, told.requests, WORKED);
        for (what, count) in [
            ("sessions lost", whole.lost),
            ("pushes for another", whole.wrong),
            ("pushes repeated", whole.repeated),
            ("holes", whole.holes),
        ] {
            if count > 0 {
                misses.push(format!("{count} {what} (0)"));
            }
        }
        misses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        hold: Hold,
    }

    const SECONDS: u64 = 100;

    /// Everything as it was meant, for 1,000 devices.
    fn check(change: impl FnOnce(&mut Held<'_>), misses: &[&str]) {
        let wanted = Arguments::parse_from(["hold", "--devices", "1000"]).hold;
        let (unicasts, stored) = (500 * SECONDS, 200 * SECONDS);
        let told = Told {
            online: 1_000,
            members: 10,
            pushes: unicasts + stored,
            stored,
            group_pushes: 10 * SECONDS,
            requests: 200 * SECONDS,
            answers: 200 * SECONDS,
            ..Told::default()
        };
        let mut held = Held {
            wanted: &wanted,
            at_work: Duration::from_secs(SECONDS),
            whole: told.clone(),
            told,
            counts: Counts {
                unicasts,
                written: unicasts,
                stores: stored,
                stored,
                multicasts: SECONDS,
            },
            presence: Presence { asked: 1_000, online: 1_000 },
        };
        change(&mut held);
        let seen = held.misses();
        assert_eq!(seen.len(), misses.len(), "{seen:?}");
        for (seen, wanted) in seen.iter().zip(misses) {
            assert!(seen.contains(wanted), "{seen} is not about {wanted}");
        }
    }

    #[test]
    fn everything_as_it_was_meant_is_held() {
        check(|_| {}, &[]);
    }

    #[test]
    fn a_session_lost_before_the_work_began_is_not_held() {
        check(|held| held.whole.lost = 1, &["sessions lost"]);
    }

    #[test]
    fn presence_of_some_is_not_that_of_all_who_were_asked() {
        check(|held| held.presence.online = 10, &["10 online by the routers' word of 1000"]);
    }

    #[test]
    fn work_that_came_to_nothing_is_not_held() {
        check(|held| held.counts.written = 0, &["unicasts written"]);
        check(|held| held.counts.stored /= 2, &["stored pushes stored"]);
        check(|held| held.told.group_pushes = 0, &["multicasts arrived"]);
        check(|held| held.told.answers = 0, &["requests answered"]);
        check(|held| held.told.pushes = held.told.stored, &["unicasts arrived"]);
    }

    #[test]
    fn work_that_was_never_tried_is_not_held() {
        check(
            |held| {
                (held.counts, held.told.requests) = (Counts::default(), 0);
            },
            &["unicasts sent", "stored pushes sent", "multicasts sent", "requests asked"],
        );
    }
}
