//! What a device is told when it has to go: why, where to, and when it may come back.

use crate::node::Node;
use hawser_proto::code::{CloseCode, Retry};
use hawser_proto::frame::{NodeFrame, cut};
use hawser_proto::params::{Close, GoAway};
use std::time::Duration;

/// The least over which those who were turned away spread their return.
const SPREAD_MS_MIN: u32 = 3_000;
/// Nobody is to come back sooner than this after a failure that was not his.
const RETRY_MS_MIN: u32 = 1_000;

/// GO_AWAY, with the time that is left and where to go.
pub(crate) fn go_away(node: &Node, deadline: Duration) -> NodeFrame {
    NodeFrame::GoAway(GoAway {
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
        reason: CloseCode::Draining.meaning().to_owned(),
        alternatives: node.advice.load().alternatives.clone(),
    })
}

/// CLOSE of a connection that was there.
pub(crate) fn close(node: &Node, code: CloseCode, reason: &str) -> NodeFrame {
    // A failure of a whole lane reaches thousands at once.
    let retry_after_ms = if code == CloseCode::Internal { spread_ms(node) } else { 0 };
    with_alternatives(node, code, reason, retry_after_ms)
}

/// CLOSE of a connection that is not taken in.
pub(crate) fn refusal(node: &Node, code: CloseCode, retry_after_ms: u32) -> NodeFrame {
    with_alternatives(node, code, code.meaning(), retry_after_ms)
}

/// A time to come back, so that those who were turned away together do not come back together: within the
/// window that control has worked out for the loss of this node.
pub(crate) fn spread_ms(node: &Node) -> u32 {
    let window_ms = node.advice.load().reconnect_window_ms.max(SPREAD_MS_MIN);
    rand::random_range(RETRY_MS_MIN..=window_ms)
}

fn with_alternatives(node: &Node, code: CloseCode, reason: &str, retry_after_ms: u32) -> NodeFrame {
    let alternatives = match code.retry() {
        Retry::Elsewhere => node.advice.load().alternatives.clone(),
        Retry::Now | Retry::Later | Retry::NewToken | Retry::Never => Vec::new(),
    };
    NodeFrame::Close(Close {
        code: code.number().into(),
        reason: cut(reason),
        retry_after_ms,
        alternatives,
    })
}
