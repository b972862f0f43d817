//! Devices by the ten thousand in one process: one thread, one epoll, and some hundred bytes each. They
//! log in at a steady rate, send heartbeats, join a group, take pushes and acknowledge them, ask a
//! business, and come back when they lose their link, as a device must; and they tell once a second what
//! they saw. Whoever wants more of them, or from more addresses, starts more processes.

mod device;
mod link;
mod member;
mod passes;
mod tally;

pub(crate) use tally::Told;

use anyhow::Context;
use device::Phase;
use member::Member;
use mio::{Events, Poll};
use passes::Passes;
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
    /// Join this group.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Only every so many-th does.
    #[arg(long, default_value_t = 1)]
    pub(crate) group_every: u32,
    /// Requests to the business, over all devices.
    #[arg(long, default_value_t = 0)]
    pub(crate) requests_per_second: u32,
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

/// Runs until it is killed.
pub(crate) fn run(wanted: Crowd) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    Loop::new(wanted)?.run()
}

/// What happens to a device at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Dial,
    Leave,
}

struct Loop {
    poll: Poll,
    member: Member,
    tally: Tally,
    passes: Passes,
    due: BinaryHeap<Reverse<(Instant, u32, Due)>>,
    dice: SmallRng,
    started: Instant,
    /// Devices that have begun so far; and that would have, but for those that are under way.
    begun: u32,
    held_back: u32,
    asked: u64,
    beaten: u64,
}

impl Loop {
    fn new(wanted: Crowd) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let passes = Passes::start(&wanted)?;
        let dice = SmallRng::seed_from_u64(wanted.seed ^ u64::from(wanted.first));
        Ok(Self {
            poll,
            member: Member::new(wanted, registry)?,
            tally: Tally::default(),
            passes,
            due: BinaryHeap::new(),
            dice,
            started: Instant::now(),
            begun: 0,
            held_back: 0,
            asked: 0,
            beaten: 0,
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        let mut scratch = vec![0; READ_BYTES];
        let mut told = Instant::now();
        loop {
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(again) if again.kind() == std::io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                let number = event.token().0 as u32;
                self.member.on_event(number, &mut scratch, &mut self.tally);
                self.follow(number);
            }
            self.begin()?;
            self.take_passes();
            self.do_due();
            self.beat();
            self.ask();
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                self.tally.tell(&self.member)?;
            }
        }
    }

    /// What a device needs after whatever just happened to it.
    fn follow(&mut self, number: u32) {
        let wanted = &self.member.wanted;
        let device = &mut self.member.devices[number as usize];
        let now = Instant::now();
        if device.phase == Phase::Online && device.is_new {
            device.is_new = false;
            if let Some(stay) = wanted.stay_ms {
                let stay = Duration::from_millis(stay).mul_f64(0.5 + self.dice.random::<f64>());
                self.due.push(Reverse((now + stay, number, Due::Leave)));
            }
        }
        if device.phase != Phase::Lost {
            return;
        }
        if !wanted.come_back && wanted.stay_ms.is_none() {
            device.phase = Phase::Gone;
            return;
        }
        device.phase = Phase::Waiting;
        let delay = device.next_delay(&mut self.dice, wanted.stay_ms.is_some());
        self.due.push(Reverse((now + delay, number, Due::Dial)));
    }

    /// New devices begin at their rate.
    fn begin(&mut self) -> anyhow::Result<()> {
        let per_second = f64::from(self.member.wanted.logins_per_second);
        let by_now = (self.started.elapsed().as_secs_f64() * per_second) as u32 - self.held_back;
        let wanted = by_now.min(self.member.wanted.count);
        while self.begun < wanted {
            let under_way = self.begun.saturating_sub(self.member.online);
            if under_way >= self.member.wanted.under_way_max || !self.passes.ask(self.begun) {
                // The rate is kept from here on, and what was missed is not made up for in a burst.
                self.held_back += wanted - self.begun;
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
            let Some(Reverse((_, number, what))) = self.due.pop() else { return };
            match what {
                Due::Dial if self.member.devices[number as usize].needs_pass() => {
                    if !self.passes.ask(number) {
                        let later = now + Duration::from_millis(100);
                        self.due.push(Reverse((later, number, Due::Dial)));
                    }
                }
                Due::Dial => self.member.dial(number, &mut self.tally),
                Due::Leave => self.member.leave(number, &mut self.tally),
            }
            self.follow(number);
        }
    }

    /// A slice of all devices at each look, so that each comes once in its interval.
    fn beat(&mut self) {
        let count = u64::from(self.member.wanted.count);
        let interval = self.member.wanted.heartbeat_ms.max(1);
        let by_now = self.started.elapsed().as_millis() as u64 * count / interval;
        // After a pause of this process not more than one round.
        self.beaten = self.beaten.max(by_now.saturating_sub(count));
        while self.beaten < by_now {
            let number = (self.beaten % count.max(1)) as u32;
            self.beaten += 1;
            let device = &mut self.member.devices[number as usize];
            match device.phase {
                Phase::Online => self.member.ping(number, &mut self.tally),
                Phase::Dialing | Phase::LoggingIn if device.since.elapsed() > LOGIN_PATIENCE => {
                    self.tally.late += 1;
                    self.member.lose(number, &mut self.tally);
                }
                _ => {}
            }
            self.follow(number);
        }
    }

    fn ask(&mut self) {
        let per_second = f64::from(self.member.wanted.requests_per_second);
        let by_now = (self.started.elapsed().as_secs_f64() * per_second) as u64;
        self.asked = self.asked.max(by_now.saturating_sub(per_second as u64));
        while self.asked < by_now {
            self.asked += 1;
            let number = self.dice.random_range(0..self.member.wanted.count);
            self.member.request(number, &mut self.tally);
            self.follow(number);
        }
    }
}
