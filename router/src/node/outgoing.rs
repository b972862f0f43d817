//! The sending half of a node's stream: what waits in the bounded queue leaves in one message.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Items taken off the queue at once.
const TAKEN_MAX: usize = 256;

/// How waiting items become one message.
pub(crate) trait Gather: Send + Unpin + 'static {
    /// What waits.
    type Item: Send + Unpin + 'static;
    /// What leaves.
    type Message: Unpin;
    /// Takes at least one item off the front.
    fn gather(&mut self, waiting: &mut VecDeque<Self::Item>) -> Self::Message;
}

/// A stream of gathered messages. Ends when nobody can send to it any more.
pub(crate) struct Outgoing<G: Gather> {
    first: Option<G::Message>,
    queue: mpsc::Receiver<G::Item>,
    taken: Vec<G::Item>,
    waiting: VecDeque<G::Item>,
    gather: G,
}

impl<G: Gather> Outgoing<G> {
    pub(crate) fn new(
        first: Option<G::Message>,
        queue: mpsc::Receiver<G::Item>,
        gather: G,
    ) -> Self {
        Self { first, queue, taken: Vec::new(), waiting: VecDeque::new(), gather }
    }
}

impl<G: Gather> Stream for Outgoing<G> {
    type Item = Result<G::Message, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if this.waiting.is_empty() {
            let count = ready!(this.queue.poll_recv_many(cx, &mut this.taken, TAKEN_MAX));
            if count == 0 {
                return Poll::Ready(None);
            }
            this.waiting.extend(this.taken.drain(..));
        }
        Poll::Ready(Some(Ok(this.gather.gather(&mut this.waiting))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    struct ByTwo;
    impl Gather for ByTwo {
        type Item = u32;
        type Message = Vec<u32>;
        fn gather(&mut self, waiting: &mut VecDeque<u32>) -> Vec<u32> {
            let count = waiting.len().min(2);
            waiting.drain(..count).collect()
        }
    }

    #[tokio::test]
    async fn what_waits_leaves_together_and_in_order() {
        let (sender, queue) = mpsc::channel(8);
        (1..=3).for_each(|n| sender.try_send(n).unwrap());
        let mut outgoing = Outgoing::new(Some(vec![0]), queue, ByTwo);
        let mut messages = Vec::new();
        for _ in 0..3 {
            messages.push(outgoing.next().await.unwrap().unwrap());
        }
        assert_eq!(messages, [vec![0], vec![1, 2], vec![3]]);
        drop(sender);
        assert!(outgoing.next().await.is_none());
    }
}
