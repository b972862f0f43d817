//! What a business sends to this device, and where it waits until the app takes it.
//!
//! A listener that does not keep up loses the oldest pushes, never the newest, and is told how many:
//! [`Push::missed`]. Neither the connection nor another listener waits for it.

use bytes::Bytes;
use futures_util::Stream;
use hawser_proto::code::ErrorCode;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Items one listener holds. Full: the oldest push goes, and is counted.
const HELD_MAX: usize = 256;
/// Body bytes one listener holds, one larger push when there is nothing else.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// A push to this device, or to a group that it is in. Volatile: it comes at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// The id that the business or the router gave it; at most 128 bytes.
    pub id: Bytes,
    /// The group it was sent to; `None`: this device alone.
    pub group: Option<String>,
    /// Bytes of the business.
    pub body: Bytes,
    /// Small facts beside the body.
    pub metadata: HashMap<String, String>,
    /// W3C trace context; may be empty.
    pub traceparent: String,
    /// Pushes that this listener lost just before this one, because it was slow.
    pub missed: u64,
}

/// Word that this device is out of a group without having asked, and that the client will not join
/// it again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// The group.
    pub group: String,
    /// Why.
    pub reason: LeftReason,
}

/// Why a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftReason {
    /// The business took the device out; it may join again.
    Removed,
    /// The business kicked the device; a join on this connection is refused.
    Kicked,
    /// The group is no more.
    Deleted,
    /// The join after a reconnect was refused for good, with this error if it is a known one.
    Refused(Option<ErrorCode>),
}

/// One thing a business handle can hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A push.
    Push(Push),
    /// A membership ended.
    Left(Left),
}

#[derive(Debug, Default)]
struct Held {
    items: VecDeque<Incoming>,
    bytes: usize,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
}

/// The waiting room of one listener.
#[derive(Debug)]
pub(crate) struct Ring {
    held: Mutex<Held>,
    with_left: bool,
}

impl Ring {
    pub(crate) fn new(with_left: bool) -> Self {
        Self { held: Mutex::default(), with_left }
    }

    /// Puts an item in, dropping the oldest pushes when it is full. Never waits.
    pub(crate) fn put(&self, item: Incoming) {
        let waker = {
            let mut held = self.held.lock();
            if held.ended || (!self.with_left && matches!(item, Incoming::Left(_))) {
                return;
            }
            let bytes = weight(&item);
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

    /// Nothing more will come; what is held can still be taken.
    pub(crate) fn end(&self) {
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
        let mut held = self.held.lock();
        match held.items.pop_front() {
            Some(mut item) => {
                held.bytes -= weight(&item);
                if held.items.is_empty() {
                    held.items = VecDeque::new(); // an idle listener holds no memory
                }
                if let Incoming::Push(push) = &mut item {
                    push.missed = std::mem::take(&mut held.missed);
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

impl Held {
    /// Drops the oldest push; the oldest word of a lost membership only when nothing else is left.
    fn drop_oldest(&mut self) {
        let is_push = |item: &Incoming| matches!(item, Incoming::Push(_));
        let oldest = self.items.iter().position(is_push).unwrap_or(0);
        if let Some(item) = self.items.remove(oldest) {
            self.bytes -= weight(&item);
            self.missed += u64::from(is_push(&item));
        }
    }
}

fn weight(item: &Incoming) -> usize {
    match item {
        Incoming::Push(push) => push.body.len(),
        Incoming::Left(left) => left.group.len(),
    }
}

/// Pushes and ended memberships of one business, as a [`Stream`]. Made by
/// [`crate::Business::listen`]; dropping it unsubscribes.
#[derive(Debug)]
pub struct Listener(pub(crate) Arc<Ring>);

impl Listener {
    /// The next item; `None`: the client has closed. Cancel-safe.
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
#[derive(Debug)]
pub struct Pushes(pub(crate) Arc<Ring>);

impl Pushes {
    /// The next push; `None`: the client has closed. Cancel-safe.
    pub async fn next_push(&mut self) -> Option<Push> {
        std::future::poll_fn(|cx| self.poll_push(cx)).await
    }

    fn poll_push(&self, cx: &mut Context<'_>) -> Poll<Option<Push>> {
        loop {
            match self.0.poll_take(cx) {
                Poll::Ready(Some(Incoming::Push(push))) => return Poll::Ready(Some(push)),
                Poll::Ready(Some(Incoming::Left(_))) => {}
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

    fn push(number: usize, bytes: usize) -> Incoming {
        let id = Bytes::from(number.to_string());
        Incoming::Push(Push { id, body: vec![0; bytes].into(), ..Push::default() })
    }

    #[tokio::test]
    async fn a_slow_listener_loses_the_oldest_and_is_told() {
        let mut pushes = Pushes(Arc::new(Ring::new(false)));
        for number in 0..HELD_MAX + 3 {
            pushes.0.put(push(number, 1));
        }
        let first = pushes.next_push().await.unwrap();
        assert_eq!((first.id.as_ref(), first.missed), (b"3".as_ref(), 3));
        assert_eq!(pushes.next_push().await.unwrap().missed, 0);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_and_one_large_push_still_fits() {
        let mut pushes = Pushes(Arc::new(Ring::new(false)));
        pushes.0.put(push(0, 10));
        pushes.0.put(push(1, HELD_BYTES_MAX + 1));
        let only = pushes.next_push().await.unwrap();
        assert_eq!((only.id.as_ref(), only.missed), (b"1".as_ref(), 1));
    }

    #[tokio::test]
    async fn word_of_a_lost_membership_outlives_pushes() {
        let mut listener = Listener(Arc::new(Ring::new(true)));
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
        let ring = Arc::new(Ring::new(false));
        let mut pushes = Pushes(ring.clone());
        let (taken, ()) = tokio::join!(pushes.next_push(), async { ring.end() });
        assert_eq!(taken, None);
    }
}
