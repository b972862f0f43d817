//! Devices by the ten thousand in one process: one thread, one epoll, and some hundred bytes each. They
//! log in at a steady rate, send heartbeats, join a group, take pushes and acknowledge them, ask a
//! business, and come back when they lose their link, as a device must; and they tell once a second what
//! they saw. Whoever wants more of them, or from more addresses, starts more processes.

mod device;
mod link;
mod member;
mod passes;
pub(crate) mod plan;
mod quic;
mod tally;
mod websocket;

pub(crate) use tally::Told;

use anyhow::Context;
use device::Phase;
use hawser_loadtest::stamp;
use member::Member;
use mio::{Events, Poll};
use passes::Passes;
use plan::{Behaviour, Plan, Spread};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tally::Tally;

const EVENTS_AT_ONCE: usize = 4_096;
const TICK: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 256 * 1024;
/// From the dial to LOGIN_OK.
const LOGIN_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are late by more are left out, and counted.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// Looks for a device that is online, for one request.
const DRAWS_MAX: usize = 16;

/// What a crowd process is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Crowd {
    /// Control's public API.
    #[arg(long)]
    pub(crate) control: String,
    #[arg(long)]
    pub(crate) app: String,
    #[arg(long)]
    pub(crate) business: String,
    /// Devices are named by this and their number.
    #[arg(long, default_value = "c")]
    pub(crate) name: String,
    /// Number of the first.
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u32,
    #[arg(long)]
    pub(crate) count: u32,
    /// Access nodes over TCP, in turn; none: those that control names.
    #[arg(long, value_delimiter = ',')]
    pub(crate) nodes: Vec<SocketAddr>,
    /// All of them dial the first of these, and the others only when they come back from there.
    #[arg(long)]
    pub(crate) one_node: bool,
    /// Dial from this address, and from those above it: one for 8,000 devices.
    #[arg(long)]
    pub(crate) source: Option<IpAddr>,
    /// Over TLS 1.3, trusting this certificate; access points are then those for TLS.
    #[arg(long)]
    pub(crate) trust: Option<PathBuf>,
    #[arg(long, default_value_t = 500)]
    pub(crate) logins_per_second: u32,
    /// No new device begins while so many that have begun are not online.
    #[arg(long, default_value_t = u32::MAX)]
    pub(crate) under_way_max: u32,
    #[arg(long, default_value_t = 25_000)]
    pub(crate) heartbeat_ms: u64,
    /// What came due is done at this interval and in one go, requests too; default: each at its time.
    #[arg(long)]
    pub(crate) tick_ms: Option<u64>,
    /// Join this group.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Only every so many-th does.
    #[arg(long, default_value_t = 1)]
    pub(crate) group_every: u32,
    /// Requests to the business, over all devices.
    #[arg(long, default_value_t = 0)]
    pub(crate) requests_per_second: u32,
    /// Only while this file is there, which is looked for once a second.
    #[arg(long)]
    pub(crate) ask_while: Option<PathBuf>,
    /// Come back when the link is lost, within the window that was told.
    #[arg(long)]
    pub(crate) come_back: bool,
    /// Keep nothing to come back with: whoever lost its link asks control again. Saves the memory of a pass.
    #[arg(long)]
    pub(crate) forget: bool,
    /// Leave this long after each login, and come again.
    #[arg(long)]
    pub(crate) stay_ms: Option<u64>,
    /// Read nothing after the login: a device that is slower than everybody.
    #[arg(long)]
    pub(crate) deaf: bool,
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What a crowd of `run` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Planned {
    /// As JSON.
    plan: String,
}

impl Planned {
    pub(crate) fn read(&self) -> anyhow::Result<Plan> {
        serde_json::from_str(&self.plan).context("a plan that cannot be read")
    }
}

/// Runs until it is killed.
pub(crate) fn run(plan: impl Into<Plan>) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    Loop::new(plan.into())?.run()
}

/// What happens to a device at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Dial,
    /// Of the session of this login, by the last byte of its number: it says goodbye.
    Leave(u8),
    /// Its link ends without a word.
    Cut(u8),
    /// Into this of its groups, and out of it.
    Join(u8, u8),
    Part(u8, u8),
}

struct Loop {
    poll: Poll,
    member: Member,
    tally: Tally,
    passes: Passes,
    due: BinaryHeap<Reverse<(Instant, u32, Due)>>,
    dice: SmallRng,
    /// When second 0 of the plan is.
    began: Instant,
    /// Devices that have begun so far; and that would have, but for those that are under way.
    begun: u32,
    held_back: u32,
    /// Devices that will not come again.
    gone: u32,
    asked: u64,
    asks: bool,
    beaten: u64,
    /// Cuts of the plan that have been done.
    cuts_done: usize,
}

impl Loop {
    fn new(plan: Plan) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let passes = Passes::start(&plan)?;
        let dice = SmallRng::seed_from_u64(plan.seed ^ u64::from(plan.first));
        let (now, until) = (stamp::now(), |at: u64| Duration::from_nanos(at));
        let began = Instant::now() + until(plan.begins.saturating_sub(now));
        let began = began.checked_sub(until(now.saturating_sub(plan.begins))).unwrap_or(began);
        let asks = plan.ask_while.is_none();
        Ok(Self {
            poll,
            member: Member::new(plan, registry)?,
            tally: Tally::default(),
            passes,
            due: BinaryHeap::new(),
            dice,
            began,
            begun: 0,
            held_back: 0,
            gone: 0,
            asked: 0,
            asks,
            beaten: 0,
            cuts_done: 0,
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        let mut scratch = vec![0; READ_BYTES];
        let mut told = Instant::now();
        let tick = self.member.plan.tick_ms.map(Duration::from_millis);
        let mut next = Instant::now();
        loop {
            let wait = match tick {
                Some(_) => next.saturating_duration_since(Instant::now()),
                None => self.until_due(),
            };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(again) if again.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let turn = Instant::now();
            for event in &events {
                let number = event.token().0 as u32;
                let is_over = event.is_read_closed() || event.is_error();
                self.member.on_event(number, is_over, &mut scratch, &mut self.tally);
                self.follow(number);
            }
            if let Some(tick) = tick {
                if turn < next {
                    continue;
                }
                next = turn + tick;
            }
            self.begin()?;
            self.take_passes();
            self.do_due();
            self.beat();
            self.ask();
            self.cut();
            self.tally.add_turn(turn.elapsed());
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                self.tally.tell(&self.member)?;
                self.asks = self.member.plan.ask_while.as_ref().is_none_or(|it| it.exists());
            }
        }
    }

    /// Until something is due, a tick at most. The poll wakes up to a millisecond later.
    fn until_due(&self) -> Duration {
        let now = self.now();
        let request = if self.asks { self.member.plan.requests.at(self.asked) } else { None };
        let request = request.map(|at| Duration::from_secs_f64((at - now).clamp(0.0, 1.0)));
        let other =
            self.due.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        TICK.min(request.unwrap_or(TICK)).min(other.unwrap_or(TICK))
    }

    /// Seconds of the plan so far.
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// What a device needs after whatever just happened to it.
    fn follow(&mut self, number: u32) {
        let plan = &self.member.plan;
        let device = &mut self.member.devices[number as usize];
        let now = Instant::now();
        if device.phase == Phase::Online && device.is_new {
            device.is_new = false;
            let login = device.attempt as u8;
            let (time, what) = match (device.behaviour, plan.stay) {
                (Behaviour::Flapping, _) => (Some(plan.behaviours.flap), Due::Cut(login)),
                (_, stay) => (stay, Due::Leave(login)),
            };
            if let Some(time) = time {
                let at = now + time.draw(self.dice.random());
                self.due.push(Reverse((at, number, what)));
            }
            for (group, groups) in plan.groups.iter().enumerate() {
                if let (Some(stay), Some(_)) = (groups.stay, groups.of(number)) {
                    let at = now + stay.draw(self.dice.random());
                    self.due.push(Reverse((at, number, Due::Part(login, group as u8))));
                }
            }
        }
        if device.phase != Phase::Lost {
            return;
        }
        if !plan.come_back && device.behaviour != Behaviour::Flapping {
            device.phase = Phase::Gone;
            self.gone += 1;
            return;
        }
        device.phase = Phase::Waiting;
        let delay = device.next_delay(&mut self.dice);
        self.due.push(Reverse((now + delay, number, Due::Dial)));
    }

    /// New devices begin at their rate.
    fn begin(&mut self) -> anyhow::Result<()> {
        let by_now = self.member.plan.logins.due_by(self.now()) as u32;
        let wanted = by_now.saturating_sub(self.held_back).min(self.member.plan.count);
        while self.begun < wanted {
            let under_way = self.begun.saturating_sub(self.member.online + self.gone);
            if under_way >= self.member.plan.under_way_max || !self.passes.ask(self.begun) {
                // The rate is kept from here on, and what was missed is not made up for in a burst.
                self.held_back += wanted - self.begun;
                self.tally.held_back += u64::from(wanted - self.begun);
                break;
            }
            self.begun += 1;
        }
        self.passes.check()
    }

    fn take_passes(&mut self) {
        while let Some((number, pass)) = self.passes.take() {
            let wait = pass.start_after;
            self.member.give_pass(number, pass);
            let at = Instant::now() + wait;
            self.due.push(Reverse((at, number, Due::Dial)));
        }
    }

    fn do_due(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((at, number, what))) = self.due.pop() else { return };
            match what {
                Due::Dial if self.member.devices[number as usize].needs_pass() => {
                    if !self.passes.ask(number) {
                        let later = now + Duration::from_millis(100);
                        self.due.push(Reverse((later, number, Due::Dial)));
                    }
                }
                Due::Dial => {
                    self.tally.late_sends.add(at.elapsed());
                    self.member.dial(number, at, &mut self.tally);
                }
                Due::Leave(login) if self.member.is_in(number, login) => {
                    self.member.leave(number, &mut self.tally);
                }
                Due::Cut(login) if self.member.is_in(number, login) => {
                    self.member.cut(number, &mut self.tally);
                }
                Due::Join(login, group) if self.member.is_in(number, login) => {
                    self.member.join(number, group, &mut self.tally);
                    let stay = self.member.plan.groups[usize::from(group)].stay;
                    self.later(stay.unwrap_or_default(), number, Due::Part(login, group));
                }
                Due::Part(login, group) if self.member.is_in(number, login) => {
                    self.member.part(number, group, &mut self.tally);
                    let away = self.member.plan.groups[usize::from(group)].away;
                    self.later(away, number, Due::Join(login, group));
                }
                // That session is over.
                Due::Leave(_) | Due::Cut(_) | Due::Join(..) | Due::Part(..) => {}
            }
            self.follow(number);
        }
    }

    fn later(&mut self, time: Spread, number: u32, what: Due) {
        let at = Instant::now() + time.draw(self.dice.random());
        self.due.push(Reverse((at, number, what)));
    }

    /// A slice of all devices at each look, so that each comes once in its interval.
    fn beat(&mut self) {
        let count = u64::from(self.member.plan.count);
        let interval = self.member.plan.heartbeat_ms.max(1);
        let by_now = self.began.elapsed().as_millis() as u64 * count / interval;
        // After a pause of this process not more than one round.
        self.beaten = self.beaten.max(by_now.saturating_sub(count));
        while self.beaten < by_now {
            let number = (self.beaten % count.max(1)) as u32;
            self.beaten += 1;
            let device = &mut self.member.devices[number as usize];
            match device.phase {
                Phase::Online if device.behaviour != Behaviour::Silent => {
                    self.member.ping(number, &mut self.tally);
                }
                Phase::Dialing | Phase::LoggingIn if device.since.elapsed() > LOGIN_PATIENCE => {
                    self.tally.late += 1;
                    self.member.lose(number, &mut self.tally);
                }
                _ => {}
            }
            self.follow(number);
        }
    }

    /// Requests that are due, each of some device that is online.
    fn ask(&mut self) {
        let now = self.now();
        if !self.asks {
            self.asked = self.member.plan.requests.due_by(now) as u64;
            return;
        }
        let due = self.member.plan.requests.due_by(now - BEHIND_MAX.as_secs_f64()) as u64;
        if due > self.asked {
            // A pause of this process is no load on whoever is asked after it.
            self.tally.skipped += due - self.asked;
            self.asked = due;
        }
        while let Some(at) = self.member.plan.requests.at(self.asked)
            && at <= now
        {
            self.asked += 1;
            // Those that are meant to leave together are not late.
            let late = match self.member.plan.tick_ms {
                Some(_) => Duration::ZERO,
                None => Duration::from_secs_f64(now - at),
            };
            let Some(number) = self.someone() else {
                self.tally.unasked += 1;
                continue;
            };
            self.tally.late_sends.add(late);
            let bytes = self.member.plan.payloads.at(self.dice.random());
            self.member.request(number, late, bytes, &mut self.tally);
            self.follow(number);
        }
    }

    /// A device that can ask.
    fn someone(&mut self) -> Option<u32> {
        let tries = if self.member.online == 0 { 0 } else { DRAWS_MAX };
        (0..tries).find_map(|_| {
            let number = self.dice.random_range(0..self.member.plan.count);
            let device = &self.member.devices[number as usize];
            let can = device.phase == Phase::Online && device.behaviour != Behaviour::Silent;
            can.then_some(number)
        })
    }

    /// Cuts of links that are due.
    fn cut(&mut self) {
        let now = self.now();
        while let Some((at, share)) = self.member.plan.cuts.get(self.cuts_done).copied()
            && at <= now
        {
            self.cuts_done += 1;
            for number in 0..self.begun {
                if self.dice.random::<f64>() < share {
                    self.member.cut(number, &mut self.tally);
                    self.follow(number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        crowd: Crowd,
    }

    #[test]
    fn whoever_is_gone_for_good_makes_room_for_the_next() {
        // Nobody answers there, so that nothing happens but what is done here.
        let words = "crowd --control http://127.0.0.1:9 --app a --business b --count 10 --under-way-max 2 \
                     --logins-per-second 1000000";
        let crowd = Arguments::parse_from(words.split_whitespace()).crowd;
        let mut plan = Plan::from(crowd);
        plan.begins = stamp::now() - 1_000_000_000;
        let mut all = Loop::new(plan).unwrap();
        all.begin().unwrap();
        assert_eq!(all.begun, 2, "so many may be under way");
        for number in 0..2 {
            all.member.devices[number as usize].phase = Phase::Lost;
            all.follow(number);
        }
        // Those that were held back are not made up for: the rate goes on from here.
        all.held_back = 0;
        all.begin().unwrap();
        assert_eq!(all.begun, 4, "two are gone, and two are under way");
    }

    #[test]
    fn requests_that_are_not_to_be_sent_yet_wake_nobody() {
        let words = "crowd --control http://127.0.0.1:9 --app a --business b --count 0 \
                     --requests-per-second 100000 --ask-while /nowhere/it/is";
        let crowd = Arguments::parse_from(words.split_whitespace()).crowd;
        let mut plan = Plan::from(crowd);
        plan.begins = stamp::now() - 1_000_000_000;
        let mut all = Loop::new(plan).unwrap();
        all.ask();
        assert_eq!(all.until_due(), TICK, "nothing is due");
        all.asks = true;
        assert!(all.until_due() < TICK, "the next request is");
    }
}
