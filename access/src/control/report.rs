//! What the node says of itself every few seconds, and what it is told in return: a drain, where devices
//! that have to leave can go, and over how long they should spread their return.

use super::{call, timed};
use crate::drain::{Order, Progress};
use crate::node::Node;
use hawser_proto::limits::ALTERNATIVES_MAX;
use hawser_proto::params;
use hawser_proto::rpc::control::{AccessPoint, NodeReport, ReportResponse};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, warn};

const REPORT_INTERVAL: Duration = Duration::from_secs(3);
/// While a drain is under way somebody may be watching it.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);
/// How soon a report is tried again, or readiness looked at again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The first refusal is reported at once, and the next ones not before this has passed.
const REFUSALS_INTERVAL: Duration = Duration::from_millis(250);

/// What control last said about the others. Control may be away: it is advice, and grows old in silence.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Advice {
    /// Over how long devices of this node should spread their return; 0: control has not said.
    pub(crate) reconnect_window_ms: u32,
    /// Where devices that have to leave can go: never here.
    pub(crate) alternatives: Vec<params::AccessPoint>,
}

impl Advice {
    fn of(answer: &ReportResponse, here: &[AccessPoint]) -> Self {
        let is_here = |point: &AccessPoint| {
            let same = |own: &AccessPoint| {
                (&own.protocol, &own.host, own.port) == (&point.protocol, &point.host, point.port)
            };
            here.iter().any(same)
        };
        let others = answer.alternatives.iter().filter(|point| !is_here(point));
        let named = |point: &AccessPoint| params::AccessPoint {
            protocol: point.protocol.clone(),
            host: point.host.clone(),
            port: point.port,
            server_name: point.server_name.clone(),
        };
        Self {
            reconnect_window_ms: answer.reconnect_window_ms,
            alternatives: others.take(ALTERNATIVES_MAX).map(named).collect(),
        }
    }
}

/// Reports load and addresses until the node stops.
pub(crate) async fn report(node: Arc<Node>, access_points: Vec<AccessPoint>) {
    let stop = node.links.stop_signal();
    let mut refusals_told = 0;
    loop {
        let refusals = node.admission.refusals();
        let (is_draining, progress) = (node.is_draining(), node.drain.progress());
        let Progress { order, sessions, told } = progress;
        let report = NodeReport {
            node: node.config.node.as_str().to_owned(),
            boot: node.table.boot.0,
            cluster: node.config.cluster.clone(),
            region: node.config.region.clone(),
            carrier: node.config.carrier.clone(),
            access_points: access_points.clone(),
            connections: node.metrics.connections.get().max(0) as u64,
            connections_max: node.config.connections_max.into(),
            draining: is_draining,
            accepts_per_second_max: node.config.accepts_per_second,
            drain_sessions: sessions,
            drain_told: told,
            drain_order: order,
            refused: refusals - refusals_told,
        };
        // A node without a router or a catalogue can take no login, and is not to be handed out.
        let pause = if node.is_ready() || is_draining {
            match call(node.control.0.clone().report(timed(report))).await {
                Ok(answer) => {
                    refusals_told = refusals;
                    node.admission.refusals_told(refusals);
                    heed(&node, &access_points, &answer);
                    match answer.next_report_ms {
                        0 => REPORT_INTERVAL,
                        ms => Duration::from_millis(ms.into()).min(REPORT_INTERVAL),
                    }
                }
                Err(status) => {
                    debug!(code = ?status.code(), reason = status.message(), "report was not taken");
                    REPORT_INTERVAL / 3
                }
            }
        } else {
            RETRY_INTERVAL
        };
        let pause = if node.is_draining() { pause.min(DRAIN_INTERVAL) } else { pause };
        let news = async {
            node.news.notified().await;
            if node.is_draining() == is_draining && node.drain.progress().order == order {
                tokio::time::sleep(REFUSALS_INTERVAL).await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = news => {}
            () = stop.cancelled() => return,
        }
    }
}

fn heed(node: &Node, here: &[AccessPoint], answer: &ReportResponse) {
    // A release before this one does not say.
    if answer.now_ms != 0 {
        node.table.heard_time(answer.now_ms);
    }
    let advice = Advice::of(answer, here);
    if **node.advice.load() != advice {
        node.advice.store(Arc::new(advice));
    }
    // An order without a number could not be told from the next one.
    let order = answer.drain.as_ref().filter(|drain| drain.id != 0).map(|drain| Order {
        id: drain.id,
        per_second: match drain.sessions_per_second {
            0 => node.config.drain_per_second,
            set => set,
        },
        deadline: node.config.go_away_deadline,
        end_by: None,
    });
    if node.drain.follow(order) {
        if let Some(Order { id, per_second, .. }) = order {
            warn!(order = id, per_second, "control has ordered this node to drain");
        } else {
            warn!("the drain is over: this node accepts again");
        }
        node.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(protocol: &str, host: &str, port: u32) -> AccessPoint {
        AccessPoint { protocol: protocol.into(), host: host.into(), port, ..Default::default() }
    }

    #[test]
    fn nobody_is_sent_back_here_and_the_list_is_bounded() {
        let here = [point("tcp", "a1", 7100), point("tls", "a1", 7101)];
        let mut alternatives = vec![point("tcp", "a1", 7100), point("tcp", "a2", 7100)];
        alternatives.extend((0..20).map(|port| point("tls", "a1", 7101 + port)));
        let answer =
            ReportResponse { alternatives, reconnect_window_ms: 7_000, ..Default::default() };
        let advice = Advice::of(&answer, &here);
        assert_eq!(advice.reconnect_window_ms, 7_000);
        assert_eq!(advice.alternatives.len(), ALTERNATIVES_MAX);
        assert_eq!(advice.alternatives[0].host, "a2");
        let ports: Vec<u32> = advice.alternatives[1..].iter().map(|it| it.port).collect();
        assert_eq!(ports, (7_102..7_111).collect::<Vec<_>>(), "another port is another node's");
    }
}
