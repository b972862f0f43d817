//! What goes wrong, and when. A plan is made from the seed alone; what it does to the parts is theirs.

use crate::coverage::State;
use crate::net::{MS, Ns, SEC};
use crate::rng::Rng;

/// How big the world is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) devices: usize,
    pub(crate) nodes: usize,
    pub(crate) routers: usize,
}

/// Where a device's process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// A stored push has been taken and no handler has begun.
    Received,
    /// Its handler has begun.
    InHandler,
    /// Its handler has returned.
    Handled,
    /// The cursor is being written.
    Keeping,
    /// The cursor is on disk and nobody was told.
    Kept,
    /// The acknowledgement has left.
    Acked,
}

macro_rules! faults {
    ($($variant:ident = $name:literal,)+) => {
        /// The kinds, as rows of the coverage.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Kind { $($variant,)+ }
        impl Kind {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

faults! {
    CutNodeFirst = "link cut, node first",
    CutDeviceFirst = "link cut, device first",
    CutSilent = "link dead, nobody told",
    HalfOpenUp = "half open, up",
    HalfOpenDown = "half open, down",
    FramesLate = "frames late",
    OldLogin = "old login arrives late",
    SlowDevice = "slow device",
    SlowHandler = "slow handler",
    DeviceKill = "device killed",
    DeviceTrap = "device killed at a point",
    DeviceFrozen = "device frozen, started again",
    Reinstalled = "device installed anew",
    CursorFails = "cursor storage fails",
    ControlBreaks = "control stream breaks",
    DeliverBreaks = "deliver stream breaks",
    ControlLate = "control stream late",
    DeliverLate = "deliver stream late",
    WakesLost = "wake-ups lost",
    NodeKill = "node killed",
    RouterKill = "router killed",
    StoreBack = "store goes back",
    StoreRestart = "store restarts",
    StoreAway = "store unavailable",
    StoreSlow = "store slow",
    ClockJump = "clock jumps",
    Lies = "device lies",
    Purge = "inbox purged",
    Burst = "burst of pushes",
}

/// One of them, with its victim and its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: Ns,
    pub(crate) kind: Kind,
    pub(crate) device: usize,
    pub(crate) node: usize,
    pub(crate) router: usize,
    pub(crate) length: Ns,
    pub(crate) trap: Trap,
    /// It waits for its device to be in this state, but not for long.
    pub(crate) wanted: Option<State>,
    /// For whatever else has to be chosen.
    pub(crate) dice: u64,
}

/// The length of the troubled part of a run.
pub(crate) const TROUBLE: Ns = 40 * SEC;

pub(crate) fn shape(rng: &mut Rng) -> Shape {
    Shape {
        devices: rng.between(2, 5) as usize,
        nodes: rng.between(2, 4) as usize,
        routers: rng.between(1, 3) as usize,
    }
}

/// What goes wrong in this run, in order.
pub(crate) fn plan(rng: &mut Rng, shape: Shape) -> Vec<Fault> {
    let count = rng.between(4, 16);
    // A run in four is about a few kinds alone, so that they meet each other.
    let favourites: Vec<Kind> = if rng.percent(25) {
        (0..3).map(|_| *rng.pick(Kind::ALL)).collect()
    } else {
        Kind::ALL.to_vec()
    };
    let traps =
        [Trap::Received, Trap::InHandler, Trap::Handled, Trap::Keeping, Trap::Kept, Trap::Acked];
    // Liars are few, since what happens in their inboxes is not judged.
    let lies = rng.percent(10);
    // A store that goes back while clocks go back, too, may open a term below one that was lost.
    let returns = rng.percent(70);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| Fault {
            at: rng.between(SEC / 2, TROUBLE - SEC),
            kind: *rng.pick(&favourites),
            device: rng.below(shape.devices as u64) as usize,
            node: rng.below(shape.nodes as u64) as usize,
            router: rng.below(shape.routers as u64) as usize,
            length: rng.between(SEC / 10, 8 * SEC),
            trap: *rng.pick(&traps),
            wanted: rng.percent(35).then(|| *rng.pick(State::ALL)),
            dice: rng.next(),
        })
        .filter(|fault| lies || fault.kind != Kind::Lies)
        .filter(|fault| fault.kind != if returns { Kind::ClockJump } else { Kind::StoreBack })
        .collect();
    // Troubles love company: some come within a moment of the one before.
    for index in 1..faults.len() {
        if rng.percent(40) {
            let close = faults[index - 1].at + rng.below(SEC / 2);
            faults[index].at = close;
        }
    }
    // A full window takes a slow handler, many pushes, and something that goes wrong behind them.
    if rng.percent(20)
        && let Some(last) = faults.last().copied()
    {
        let at = rng.between(SEC, TROUBLE - 12 * SEC);
        for (kind, after) in [(Kind::SlowHandler, 0), (Kind::Burst, 10 * MS)] {
            let length = 8 * SEC;
            faults.push(Fault { at: at + after, kind, length, dice: 69, wanted: None, ..last });
        }
        let kind = *rng.pick(Kind::ALL);
        if lies || kind != Kind::Lies && kind != Kind::ClockJump && kind != Kind::StoreBack {
            let wanted = Some(State::WindowFull);
            faults.push(Fault { at: at + SEC, kind, dice: rng.next(), wanted, ..last });
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}
