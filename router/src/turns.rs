//! One at a time per device, in the order of asking: what the store is asked about one device, and what
//! is made of its answer, happens in the order in which this router heard of it. Nobody waits here for
//! another device, and whoever stops waiting leaves the queue.

use crate::key::Key;
use crate::store::KeyBytes;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::oneshot;

/// All turns. As many keys as there are calls in flight, which whoever takes turns has to bound.
#[derive(Default)]
pub(crate) struct Turns {
    waiting: Mutex<HashMap<KeyBytes, VecDeque<oneshot::Sender<Turn>>, RandomState>>,
}

/// A place in the queue of one key, taken at once and in order.
pub(crate) struct Place(Standing);

enum Standing {
    First(Turn),
    Waiting(oneshot::Receiver<Turn>),
}

/// It is this one's turn, until it is dropped.
pub(crate) struct Turn {
    held: Option<(Arc<Turns>, KeyBytes)>,
}

impl Turns {
    /// Queues up for a key.
    pub(crate) fn take(self: &Arc<Self>, key: &Key) -> Place {
        let mut waiting = self.waiting.lock();
        if let Some(queue) = waiting.get_mut(key.as_bytes()) {
            let (next, turn) = oneshot::channel();
            queue.push_back(next);
            return Place(Standing::Waiting(turn));
        }
        let key: KeyBytes = key.as_bytes().into();
        waiting.insert(key.clone(), VecDeque::new());
        Place(Standing::First(Turn { held: Some((self.clone(), key)) }))
    }

    fn next(&self, key: &[u8]) -> Option<oneshot::Sender<Turn>> {
        let mut waiting = self.waiting.lock();
        let next = waiting.get_mut(key)?.pop_front();
        if next.is_none() {
            waiting.remove(key);
        }
        next
    }
}

impl Place {
    /// Waits until all before it are done. Dropped: the place is given up.
    pub(crate) async fn turn(self) -> Turn {
        match self.0 {
            Standing::First(turn) => turn,
            // Whoever drops a turn hands it on first.
            Standing::Waiting(turn) => turn.await.unwrap_or(Turn { held: None }),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        while let Some((turns, key)) = self.held.take() {
            let Some(next) = turns.next(&key) else { return };
            if let Err(mut unwanted) = next.send(Turn { held: Some((turns, key)) }) {
                self.held = unwanted.held.take();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use hawser_proto::id::AppId;

    fn key(device: &str) -> Key {
        Key::device(&AppId::new("demo").unwrap(), device).unwrap()
    }

    #[tokio::test]
    async fn turns_come_in_order_and_devices_do_not_wait_for_each_other() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(&key("a")).turn().await;
        let mut second = Box::pin(turns.take(&key("a")).turn());
        let gone = turns.take(&key("a"));
        let mut third = Box::pin(turns.take(&key("a")).turn());
        let _other = turns.take(&key("b")).turn().now_or_never().expect("its own queue");
        assert!(second.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        let second = second.as_mut().now_or_never().expect("its turn");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        drop(third.as_mut().now_or_never().expect("who left is passed over"));
        assert_eq!(turns.waiting.lock().len(), 1, "only the other device");
    }

    #[tokio::test]
    async fn a_turn_that_was_handed_on_and_not_taken_goes_to_the_next() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(&key("a")).turn().await;
        let second = turns.take(&key("a"));
        let mut third = Box::pin(turns.take(&key("a")).turn());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "the second has it");
        drop(second);
        drop(third.as_mut().now_or_never().expect("its turn"));
        assert!(turns.waiting.lock().is_empty());
    }
}
