//! Panics put in on purpose, by tests alone: what a bug somewhere in a part would do to it.

use std::fmt;
use std::sync::Arc;

/// A part of the node whose panic ends only itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// One connection's task.
    Connection,
    /// One request or refresh on its way.
    Request,
    /// A lane, with all its connections.
    Lane,
    /// What is heard of one socket.
    Reactor,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Lane => "lane",
            Self::Reactor => "reactor",
        }
    }
}

type Strikes = dyn Fn(Part, &str) -> bool + Send + Sync;

/// Says where to panic. The usual one is nowhere, and costs a look at an `Option`.
#[derive(Clone, Default)]
pub struct Curse(Option<Arc<Strikes>>);

impl Curse {
    /// Panics wherever `strikes` says so, given the part and what it is at: a method, a group, a slot.
    pub fn new(strikes: impl Fn(Part, &str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(strikes)))
    }

    /// A place where a part may be struck.
    pub(crate) fn at(&self, part: Part, what: &str) {
        if let Some(strikes) = &self.0 {
            assert!(!strikes(part, what), "cursed on purpose");
        }
    }

    /// The same where a part is at a slot.
    pub(crate) fn at_slot(&self, part: Part, slot: u32) {
        if self.0.is_some() {
            self.at(part, &slot.to_string());
        }
    }
}

impl fmt::Debug for Curse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Curse" } else { "no Curse" })
    }
}
