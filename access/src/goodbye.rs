//! What a device is told when it has to go: why, where to, and when it may come back.

use crate::node::Node;
use hawser_proto::code::{CloseCode, Retry};
use hawser_proto::frame::{NodeFrame, cut};
use hawser_proto::params::{AccessPoint, Close, GoAway};
use rand::{Rng, RngExt as _};
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
        alternatives: alternatives(node),
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

/// Where this one device may go. Control names a few nodes, best first, and the same ones to all who are told
/// until it is asked again: they must not all begin with the first.
fn alternatives(node: &Node) -> Vec<AccessPoint> {
    let mut points = node.advice.load().alternatives.clone();
    spread(&mut points, &mut rand::rng());
    points
}

/// Mixes the nodes, and leaves the order of the protocols, which is control's. A better one comes first twice as
/// often as the next: the last may be hot.
fn spread(points: &mut [AccessPoint], rng: &mut impl Rng) {
    for nth in 0..points.len() {
        for other in nth + 1..points.len() {
            if points[other].protocol != points[nth].protocol {
                continue;
            }
            // Each is passed over by the next with one chance in three.
            if !rng.random_ratio(1, 3) {
                break;
            }
            points.swap(nth, other);
        }
    }
}

fn with_alternatives(node: &Node, code: CloseCode, reason: &str, retry_after_ms: u32) -> NodeFrame {
    let alternatives = match code.retry() {
        Retry::Elsewhere => alternatives(node),
        Retry::Now | Retry::Later | Retry::NewToken | Retry::Never => Vec::new(),
    };
    NodeFrame::Close(Close {
        code: code.number().into(),
        reason: cut(reason),
        retry_after_ms,
        alternatives,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::HashMap;

    #[test]
    fn each_node_comes_first_for_its_share_and_the_protocols_keep_their_places() {
        let point = |(protocol, host): (&str, &str)| AccessPoint {
            protocol: protocol.into(),
            host: host.into(),
            ..Default::default()
        };
        let told =
            [("quic", "a"), ("quic", "b"), ("quic", "c"), ("tls", "a"), ("tls", "b"), ("ws", "a")];
        let told = told.map(point);
        let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
        let (mut first_quic, mut first_tls) = (HashMap::new(), HashMap::new());
        for _ in 0..9_000 {
            let mut points = told.clone();
            spread(&mut points, &mut rng);
            let protocols = points.each_ref().map(|point| &point.protocol[..]);
            assert_eq!(protocols, ["quic", "quic", "quic", "tls", "tls", "ws"]);
            assert!(told.iter().all(|point| points.contains(point)), "{points:?}");
            *first_quic.entry(points[0].host.clone()).or_insert(0) += 1;
            *first_tls.entry(points[3].host.clone()).or_insert(0) += 1;
        }
        // Shares of 9,000, with room for luck.
        for (first, host, share) in [
            (&first_quic, "a", 6_000),
            (&first_quic, "b", 2_000),
            (&first_quic, "c", 1_000),
            (&first_tls, "a", 6_000),
            (&first_tls, "b", 3_000),
        ] {
            assert!(i32::abs_diff(first[host], share) < 200, "{host}: {first:?}");
        }
    }
}
