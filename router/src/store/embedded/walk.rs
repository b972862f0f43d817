//! A slow walk over all shelves that lets go of what is over its time: entries of devices that never come,
//! inboxes and routes. Push ids are let go of when tables are merged, see [`super::disk`].

use super::disk::{Disk, Source, Space};
use super::form::{self, Part, Prefix};
use super::overlay::Overlay;
use super::shelf::OnShelf;
use crate::inbox::rules;
use crate::store::StoreError;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Records looked at in one step, and shelves tidied: some milliseconds at most.
const LOOKS: usize = 256;
const TIDIED_MAX: usize = 8;
/// Between steps while calls come, and while none do.
const PAUSE_BUSY: Duration = Duration::from_millis(100);
const PAUSE_IDLE: Duration = Duration::from_millis(10);

pub(super) struct Walk {
    /// Behind this.
    from: Vec<u8>,
    stepped: Instant,
    rested: Option<Instant>,
    /// Between two walks.
    rest: Duration,
}

impl Walk {
    pub(super) fn new(rest: Duration) -> Self {
        let now = Instant::now();
        Self { from: Vec::new(), stepped: now, rested: Some(now), rest }
    }

    /// When a step is due if nobody calls.
    pub(super) fn due(&self) -> Instant {
        match self.rested {
            Some(since) => since + self.rest,
            None => self.stepped + PAUSE_IDLE,
        }
    }

    pub(super) fn is_due(&self, is_idle: bool) -> bool {
        let now = Instant::now();
        now >= self.due() && (is_idle || now >= self.stepped + PAUSE_BUSY)
    }

    /// Not now.
    pub(super) fn put_off(&mut self) {
        self.stepped = Instant::now();
    }

    /// Looks at the next records and tidies the shelves where something is over.
    pub(super) fn step(
        &mut self,
        disk: &Disk,
        overlay: &mut Overlay<'_>,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.stepped = Instant::now();
        self.rested = None;
        let from = Bound::Excluded(std::mem::take(&mut self.from));
        let found = disk.scan(Space::Shelves, from, &[], LOOKS)?;
        let mut tidied: Vec<Prefix> = Vec::new();
        for (key, value) in &found {
            self.from = key.to_vec();
            let Some(prefix) = Prefix::of(key) else { continue };
            if tidied.last() == Some(&prefix) || !is_due(key, value, &prefix, now_ms) {
                continue;
            }
            rules::tidy(&mut OnShelf::at(&mut *overlay, prefix.clone()), now_ms)?;
            overlay.keep();
            tidied.push(prefix);
            if tidied.len() == TIDIED_MAX {
                return Ok(());
            }
        }
        if found.len() < LOOKS {
            self.from.clear();
            self.rested = Some(self.stepped);
        }
        Ok(())
    }
}

/// What cannot be read is left alone: a call that needs it will say so.
fn is_due(key: &[u8], value: &[u8], prefix: &Prefix, now_ms: u64) -> bool {
    match form::part_of(key, prefix) {
        Part::Route => {
            form::read_route(value).is_ok_and(|route| !rules::is_route_kept(&route, now_ms))
        }
        Part::Meta => {
            let Some(business) = form::business_of(key) else { return false };
            form::read_meta(value).is_ok_and(|meta| rules::is_due(&meta, business, now_ms))
        }
        Part::Other => false,
    }
}
