//! Where what a business sends waits until the app takes it.
//!
//! A listener that does not keep up loses the oldest volatile pushes, never the newest, and is told
//! how many: [`Push::missed`]. Neither the connection nor another listener waits for it. Stored pushes
//! wait on the business's [`Shelf`] instead, and are lost to nobody.

use crate::incoming::{Incoming, Push};
use crate::shelf::{ReaderId, Shelf};
use futures_util::Stream;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Items one listener holds. Full: the oldest push goes, and is counted.
const HELD_MAX: usize = 256;
/// Body bytes one listener holds, one larger push when there is nothing else.
const HELD_BYTES_MAX: usize = 1024 * 1024;

#[derive(Debug, Default)]
struct Held {
    items: VecDeque<Incoming>,
    bytes: usize,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
    /// The shelf's turn, when there is something here too.
    is_shelf_next: bool,
}

/// The waiting room of one listener.
#[derive(Debug)]
pub(crate) struct Ring {
    held: Mutex<Held>,
    shelf: Arc<Shelf>,
    reader: ReaderId,
    with_words: bool,
}

impl Ring {
    /// `with_words`: beside pushes also what is to be known about them and about memberships.
    pub(crate) fn new(shelf: Arc<Shelf>, with_words: bool) -> Self {
        let reader = shelf.enter();
        Self { held: Mutex::default(), shelf, reader, with_words }
    }

    /// Puts an item in, dropping the oldest pushes when it is full. Never waits.
    pub(crate) fn put(&self, item: Incoming) {
        let waker = {
            let mut held = self.held.lock();
            if held.ended || (!self.with_words && !matches!(item, Incoming::Push(_))) {
                return;
            }
            let bytes = item.weight();
            while !held.items.is_empty()
                && (held.items.len() >= HELD_MAX || held.bytes + bytes > HELD_BYTES_MAX)
            {
                held.drop_oldest();
            }
            held.bytes += bytes;
            held.items.push_back(item);
            held.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Something was put on the shelf.
    pub(crate) fn look(&self) {
        let waker = self.held.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What was handed out last is handled.
    fn settle(&self) {
        self.shelf.settle(self.reader);
    }

    /// Nothing more will come. What is held can still be taken; what is on the shelf waits there.
    pub(crate) fn end(&self) {
        self.shelf.end(self.reader);
        let waker = {
            let mut held = self.held.lock();
            held.ended = true;
            held.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.settle();
        let mut held = self.held.lock();
        // In turns, so that neither kind starves the other.
        if (held.is_shelf_next || held.items.is_empty())
            && !held.ended
            && let Some(item) = self.shelf.take(self.reader)
        {
            held.is_shelf_next = false;
            return Poll::Ready(Some(item));
        }
        held.is_shelf_next = true;
        match held.items.pop_front() {
            Some(mut item) => {
                held.bytes -= item.weight();
                if held.items.is_empty() {
                    held.items = VecDeque::new(); // an idle listener holds no memory
                }
                if let Incoming::Push(push) = &mut item {
                    push.missed += std::mem::take(&mut held.missed);
                }
                Poll::Ready(Some(item))
            }
            None if held.ended => Poll::Ready(None),
            None => {
                held.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shelf.leave(self.reader);
    }
}

impl Held {
    /// Drops the oldest push; the oldest word about groups only when nothing else is left.
    fn drop_oldest(&mut self) {
        let is_push = |item: &Incoming| matches!(item, Incoming::Push(_));
        let oldest = self.items.iter().position(is_push).unwrap_or(0);
        if let Some(item) = self.items.remove(oldest) {
            self.bytes -= item.weight();
            if let Incoming::Push(push) = item {
                self.missed += 1 + push.missed;
            }
        }
    }
}

/// Pushes of one business, and word of gaps and ended memberships, as a [`Stream`]. Made by
/// [`crate::Business::listen`]; dropping it unsubscribes. When a stored push counts as handled is
/// said at [`Pushes`]; word of an inbox counts likewise.
#[derive(Debug)]
pub struct Listener(pub(crate) Arc<Ring>);

impl Listener {
    /// The item taken last is handled, and need not wait for the next one to be asked for.
    pub fn ack(&mut self) {
        self.0.settle();
    }

    /// The next item; `None`: the client has closed. Cancel-safe. Asking says that the item before
    /// it is handled.
    pub async fn next_item(&mut self) -> Option<Incoming> {
        std::future::poll_fn(|cx| self.0.poll_take(cx)).await
    }
}

impl Stream for Listener {
    type Item = Incoming;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.0.poll_take(cx)
    }
}

/// Pushes of one business, as a [`Stream`]. Made by [`crate::Business::pushes`]; dropping it
/// unsubscribes.
///
/// A stored push counts as **handled when the next one is asked for** ([`Self::next_push`], or the
/// stream polled again), or at [`Self::ack`]. Then its cursor is kept, and only then is it
/// acknowledged. So a loop that awaits its handler acknowledges after the handler has returned, and
/// `pushes.for_each(handler)` of `futures` does too. A handler that panics, hangs, or leaves the loop
/// acknowledges nothing: when the listener is dropped before it asked again, the push waits for the
/// next listener, or for the next start of the app, and comes flagged [`Push::redelivered`].
/// Adapters that read ahead (`buffered`, `chunks`, `peekable`) give up this promise.
///
/// With several listeners of a business each gets every push, and it counts as handled once all that
/// are still there have handled it.
#[derive(Debug)]
pub struct Pushes(pub(crate) Arc<Ring>);

impl Pushes {
    /// The push taken last is handled, and need not wait for the next one to be asked for.
    pub fn ack(&mut self) {
        self.0.settle();
    }

    /// The next push; `None`: the client has closed. Cancel-safe. Asking says that the push before it
    /// is handled.
    pub async fn next_push(&mut self) -> Option<Push> {
        std::future::poll_fn(|cx| self.poll_push(cx)).await
    }

    fn poll_push(&self, cx: &mut Context<'_>) -> Poll<Option<Push>> {
        loop {
            match self.0.poll_take(cx) {
                Poll::Ready(Some(Incoming::Push(push))) => return Poll::Ready(Some(push)),
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Stream for Pushes {
    type Item = Push;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Push>> {
        self.poll_push(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incoming::{Left, LeftReason};
    use bytes::Bytes;

    fn ring(with_words: bool) -> Ring {
        Ring::new(Arc::default(), with_words)
    }

    fn push(number: usize, bytes: usize) -> Incoming {
        let id = Bytes::from(number.to_string());
        Incoming::Push(Push { id, body: vec![0; bytes].into(), ..Push::default() })
    }

    #[tokio::test]
    async fn a_slow_listener_loses_the_oldest_and_is_told() {
        let mut pushes = Pushes(Arc::new(ring(false)));
        for number in 0..HELD_MAX + 3 {
            pushes.0.put(push(number, 1));
        }
        let first = pushes.next_push().await.unwrap();
        assert_eq!((first.id.as_ref(), first.missed), (b"3".as_ref(), 3));
        assert_eq!(pushes.next_push().await.unwrap().missed, 0);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_and_one_large_push_still_fits() {
        let mut pushes = Pushes(Arc::new(ring(false)));
        pushes.0.put(push(0, 10));
        pushes.0.put(push(1, HELD_BYTES_MAX + 1));
        let only = pushes.next_push().await.unwrap();
        assert_eq!((only.id.as_ref(), only.missed), (b"1".as_ref(), 1));
    }

    #[tokio::test]
    async fn word_of_a_lost_membership_outlives_pushes() {
        let mut listener = Listener(Arc::new(ring(true)));
        let left = Left { group: "g".into(), reason: LeftReason::Kicked };
        listener.0.put(Incoming::Left(left.clone()));
        for number in 0..HELD_MAX * 2 {
            listener.0.put(push(number, 1));
        }
        assert_eq!(listener.next_item().await, Some(Incoming::Left(left)));
        listener.0.end();
        assert!(matches!(listener.next_item().await, Some(Incoming::Push(_))));
    }

    #[tokio::test]
    async fn the_end_wakes_a_waiting_listener() {
        let ring = Arc::new(ring(false));
        let mut pushes = Pushes(ring.clone());
        let (taken, ()) = tokio::join!(pushes.next_push(), async { ring.end() });
        assert_eq!(taken, None);
    }
}
