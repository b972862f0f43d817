//! A few threads that read, so that a slow disk holds up no task and no write.

use super::queue::Queue;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// A read that waits for its turn.
pub(super) type Read = Box<dyn FnOnce() + Send>;

const PATIENCE: Duration = Duration::from_mins(1);

/// Reads until the queue is closed and empty.
pub(super) fn run(queue: &Arc<Queue<Read>>) {
    while queue.wait(PATIENCE).is_some() {
        while let Some(read) = queue.pop() {
            // A read that panics is told of to its caller, whose answer is dropped; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(read));
        }
    }
}
