//! Which fault met a device in which state, counted over all runs.

use crate::fault::Kind;
use std::collections::BTreeMap;
use std::fmt;

macro_rules! states {
    ($($variant:ident = $name:literal,)+) => {
        /// What a device was about when something went wrong. The last that holds counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum State { $($variant,)+ }
        impl State {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

states! {
    Down = "down",
    Away = "away",
    LoggingIn = "login",
    Idle = "idle",
    Behind = "behind",
    Sent = "sent",
    Handling = "handling",
    Keeping = "keeping",
    WindowFull = "window",
}

/// Counts of pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage(BTreeMap<(Kind, State), u64>);

impl Coverage {
    pub(crate) fn hit(&mut self, kind: Kind, state: State) {
        *self.0.entry((kind, state)).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (pair, count) in &other.0 {
            *self.0.entry(*pair).or_default() += count;
        }
    }

    pub(crate) fn never(&self) -> Vec<(Kind, State)> {
        let all = Kind::ALL.iter().flat_map(|kind| State::ALL.iter().map(|state| (*kind, *state)));
        all.filter(|pair| !self.0.contains_key(pair)).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>30}", "")?;
        for state in State::ALL {
            write!(f, "{:>10}", state.name())?;
        }
        writeln!(f)?;
        for kind in Kind::ALL {
            write!(f, "{:>30}", kind.name())?;
            for state in State::ALL {
                let count = self.0.get(&(*kind, *state)).copied().unwrap_or_default();
                write!(f, "{count:>10}")?;
            }
            writeln!(f)?;
        }
        let never = self.never();
        let pairs = Kind::ALL.len() * State::ALL.len();
        writeln!(f, "{} of {pairs} pairs were met", pairs - never.len())?;
        for (kind, state) in never {
            writeln!(f, "never: {} while {}", kind.name(), state.name())?;
        }
        Ok(())
    }
}
