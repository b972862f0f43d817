//! What a link could not take at once: a queue bounded in bytes, empty and unallocated for nearly
//! every connection. No lock and no socket here; the slot's lock guards it, the link empties it.

use bytes::{Buf, Bytes};
use hawser_proto::limits::OUTBOX_BYTES_MAX;
use std::collections::VecDeque;
use std::io::IoSlice;

/// Bytes that may wait in front of a stored push. A quarter of the outbox: what is stored can wait in
/// the store, what is volatile cannot.
const STORED_BYTES_MAX: usize = OUTBOX_BYTES_MAX / 4;
/// Frames gathered into one vectored write.
const GATHER_MAX: usize = 32;

/// What a waiting frame is, which decides what a full outbox does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// A volatile push: may be dropped.
    Droppable,
    /// A volatile push to a live group, which has this number in its lane: may be dropped, and counts
    /// as missed then.
    Group(u32),
    /// A push that can be had again. It is only queued where there is room, and then it stays: whoever
    /// sends it goes on from there.
    Stored,
    /// An answer or a word of the session itself: never dropped for another.
    Always,
}

impl Keep {
    fn is_droppable(self) -> bool {
        matches!(self, Self::Droppable | Self::Group(_))
    }
}

/// What gave way to a newer push.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) pushes: usize,
    /// The groups of those that came from one, one each.
    pub(crate) groups: Vec<u32>,
}

/// What happens to volatile pushes a device is too slow for; the business chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum SlowPolicy {
    /// The new one is dropped.
    #[default]
    DropNewest,
    /// The oldest waiting ones are dropped.
    DropOldest,
    /// The device is disconnected.
    Disconnect,
}

/// The outbox had no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The queue. 16 bytes while empty.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<(Bytes, Keep)>,
    bytes: usize,
    /// The first frame has partly left and must leave whole.
    first_begun: bool,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Whether a push that can be had again may be queued now: one that is taken leaves soon, and leaves
    /// room for others. One larger frame is taken when nothing waits.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.is_empty() || self.bytes().saturating_add(bytes) < STORED_BYTES_MAX
    }

    /// Whether a volatile push of this size would be queued without dropping any.
    pub(crate) fn has_room_for_volatile(&self, bytes: usize) -> bool {
        self.is_empty() || self.bytes() + bytes <= OUTBOX_BYTES_MAX
    }

    /// Bytes waiting.
    fn bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Queues the rest of a frame of which the link took a part (or nothing) just now. Only for an
    /// empty outbox; it takes one frame of any size.
    pub(crate) fn begin(&mut self, rest: Bytes, keep: Keep, begun: bool) {
        debug_assert!(self.is_empty(), "a link is only written to directly while nothing waits");
        let bytes = rest.len();
        let frames = VecDeque::from([(rest, keep)]);
        self.waiting = Some(Box::new(Waiting { frames, bytes, first_begun: begun }));
    }

    /// Queues a frame behind others. `drop_oldest`: makes room by dropping older droppable ones.
    /// Returns what was dropped for it.
    pub(crate) fn push(
        &mut self,
        frame: Bytes,
        keep: Keep,
        drop_oldest: bool,
    ) -> Result<Evicted, Full> {
        let Some(waiting) = &mut self.waiting else {
            self.begin(frame, keep, false);
            return Ok(Evicted::default());
        };
        // A frame that fits only where nothing waits makes no room by dropping others.
        if frame.len() > OUTBOX_BYTES_MAX && keep.is_droppable() {
            return Err(Full);
        }
        let mut evicted = Evicted::default();
        if drop_oldest {
            while waiting.bytes + frame.len() > OUTBOX_BYTES_MAX {
                let skip = usize::from(waiting.first_begun);
                let oldest = waiting.frames.iter().skip(skip).position(|(_, k)| k.is_droppable());
                let Some(index) = oldest else { break };
                if let Some((gone, kept)) = waiting.frames.remove(skip + index) {
                    waiting.bytes -= gone.len();
                    evicted.pushes += 1;
                    if let Keep::Group(number) = kept {
                        evicted.groups.push(number);
                    }
                }
            }
        }
        // Words of the session itself may go over by half: they are few and small, and an answer that
        // is lost would leave the device waiting.
        let bound = match keep {
            Keep::Droppable | Keep::Group(_) | Keep::Stored => OUTBOX_BYTES_MAX,
            Keep::Always => OUTBOX_BYTES_MAX + OUTBOX_BYTES_MAX / 2,
        };
        if !waiting.frames.is_empty() && waiting.bytes + frame.len() > bound {
            return Err(Full);
        }
        waiting.bytes += frame.len();
        waiting.frames.push_back((frame, keep));
        Ok(evicted)
    }

    /// The next bytes to write, gathered. Empty when nothing waits.
    pub(crate) fn gather<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>) {
        slices.clear();
        if let Some(waiting) = &self.waiting {
            slices.extend(
                waiting.frames.iter().take(GATHER_MAX).map(|(frame, _)| IoSlice::new(frame)),
            );
        }
    }

    /// The link took this many bytes from the front.
    pub(crate) fn advance(&mut self, mut taken: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        waiting.bytes -= taken.min(waiting.bytes);
        while let Some((frame, _)) = waiting.frames.front_mut() {
            if taken < frame.len() {
                frame.advance(taken);
                waiting.first_begun |= taken > 0;
                return;
            }
            taken -= frame.len();
            waiting.frames.pop_front();
            waiting.first_begun = false;
        }
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(len: usize) -> Bytes {
        vec![0; len].into()
    }

    #[test]
    fn a_large_frame_is_taken_only_when_nothing_waits() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(frame(OUTBOX_BYTES_MAX * 3), Keep::Droppable, false).is_ok());
        assert_eq!(outbox.push(frame(1), Keep::Droppable, false), Err(Full));
        outbox.advance(OUTBOX_BYTES_MAX * 3);
        assert!(outbox.is_empty());
        assert!(outbox.push(frame(1), Keep::Droppable, false).is_ok());
    }

    #[test]
    fn the_oldest_give_way_but_never_a_begun_one_or_an_answer() {
        let mut outbox = Outbox::default();
        outbox.begin(frame(1000), Keep::Droppable, true);
        outbox.push(frame(1000), Keep::Always, false).unwrap();
        while outbox.push(frame(10_000), Keep::Droppable, false).is_ok() {}
        let evicted = outbox.push(frame(10_000), Keep::Droppable, true).unwrap();
        assert_eq!(evicted, Evicted { pushes: 1, groups: vec![] });
        let kept: Vec<_> = outbox.waiting.as_ref().unwrap().frames.iter().take(2).collect();
        assert_eq!((kept[0].0.len(), kept[1].1), (1000, Keep::Always));
    }

    #[test]
    fn what_is_stored_stays_and_members_learn_what_they_missed() {
        let mut outbox = Outbox::default();
        outbox.begin(frame(1000), Keep::Droppable, true);
        outbox.push(frame(40_000), Keep::Stored, false).unwrap();
        outbox.push(frame(1000), Keep::Group(7), false).unwrap();
        assert!(outbox.has_room(20_000) && !outbox.has_room(30_000));
        while outbox.push(frame(10_000), Keep::Droppable, false).is_ok() {}
        let evicted = outbox.push(frame(10_000), Keep::Droppable, true).unwrap();
        assert_eq!(evicted, Evicted { pushes: 2, groups: vec![7] });
        assert_eq!(outbox.waiting.as_ref().unwrap().frames[1].1, Keep::Stored);
    }

    #[test]
    fn a_frame_that_can_never_wait_drops_nobody() {
        let mut outbox = Outbox::default();
        outbox.begin(frame(1000), Keep::Droppable, false);
        outbox.push(frame(1000), Keep::Droppable, true).unwrap();
        assert_eq!(outbox.push(frame(OUTBOX_BYTES_MAX + 1), Keep::Droppable, true), Err(Full));
        assert_eq!(outbox.bytes(), 2000);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_whatever_the_link_takes(
            sizes in prop::collection::vec(1usize..300, 1..60),
            takes in prop::collection::vec(1usize..500, 1..200),
        ) {
            let mut outbox = Outbox::default();
            let mut want = Vec::new();
            for (n, &size) in sizes.iter().enumerate() {
                let bytes = vec![n as u8; size];
                want.extend_from_slice(&bytes);
                outbox.push(bytes.into(), Keep::Always, false).unwrap();
            }
            let mut seen = Vec::new();
            for take in takes.into_iter().cycle() {
                let mut slices = Vec::new();
                outbox.gather(&mut slices);
                let flat: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                if flat.is_empty() { break }
                let taken = take.min(flat.len());
                seen.extend_from_slice(&flat[..taken]);
                outbox.advance(taken);
                prop_assert_eq!(outbox.bytes(), want.len() - seen.len());
            }
            prop_assert_eq!(seen, want);
        }
    }
}
