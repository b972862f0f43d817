//! Waiting for the end of a drain.

use crate::control_api::ControlApi;
use crate::failure::{Failure, Outcome};
use serde_json::Value;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// As often as a node that drains reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Control may be away for a while, in a rolling upgrade too.
const CONTROL_AWAY_MAX: Duration = Duration::from_mins(1);

/// So many in a second: `500/s`, or `500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(u32);

impl Rate {
    pub(super) fn per_second(self) -> u32 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = text.strip_suffix("/s").unwrap_or(text).parse();
        count.ok().filter(|count| *count > 0).map(Self).ok_or("a rate is of the form 500/s")
    }
}

/// What is to be known of a drain when one looks at its node.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// The node has not heard of the order yet.
    Ordered,
    Under {
        connections: u64,
        told: u64,
        sessions: u64,
    },
    /// No connection is left, or its process is not there any more.
    Over,
    /// Somebody took the order back, or gave another one.
    Lost,
}

fn look(nodes: &[Value], node: &str, order: &Value, was_followed: bool) -> Look {
    let Some(node) = nodes.iter().find(|it| it["node"] == node) else { return Look::Over };
    if was_followed && node["fresh"] == false {
        return Look::Over;
    }
    let drain = &node["drain"];
    if drain["order"] != *order {
        // The next process of this name has no order, and neither has one whose order was taken back; only the
        // latter still drains, if only for a moment, or has the connections that it had.
        let is_next = was_followed && node["draining"] == false && drain.is_null();
        return if is_next { Look::Over } else { Look::Lost };
    }
    if drain["followed"] != true {
        return Look::Ordered;
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    match number(&node["connections"]) {
        0 => Look::Over,
        connections => Look::Under {
            connections,
            told: number(&drain["told"]),
            sessions: number(&drain["sessions"]),
        },
    }
}

/// Looks at the node until its drain is over.
pub(super) async fn wait(
    control: &ControlApi,
    node: &str,
    order: &Value,
    patience: Duration,
) -> Outcome {
    let deadline = Instant::now() + patience;
    let mut heard = Instant::now();
    let mut followed_boot: Option<Value> = None;
    let mut said = String::new();
    loop {
        match control.list("/v1/nodes").await {
            Ok(nodes) => {
                heard = Instant::now();
                let boot = nodes.iter().find(|it| it["node"] == node).map(|it| it["boot"].clone());
                if followed_boot.is_some() && boot != followed_boot {
                    // Another process has the name: the one that drained has ended.
                    return Ok(());
                }
                let line = match look(&nodes, node, order, followed_boot.is_some()) {
                    Look::Over => return Ok(()),
                    Look::Lost => {
                        let lost = format!("the order to drain {node} was taken back or replaced");
                        return Err(Failure::not_done(lost));
                    }
                    Look::Ordered => format!("{node}: ordered"),
                    Look::Under { connections, told, sessions } => {
                        followed_boot = boot;
                        format!("{node}: {told} of {sessions} told to go, {connections} left")
                    }
                };
                if line != said {
                    eprintln!("{line}");
                    said = line;
                }
            }
            Err(failure) if heard.elapsed() > CONTROL_AWAY_MAX => return Err(failure),
            Err(failure) => eprintln!("{failure}; looking again"),
        }
        if Instant::now() + LOOK_INTERVAL > deadline {
            let late = format!("{node} is not drained yet; it goes on ({said})");
            return Err(Failure::not_done(late));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rate_has_one_form() {
        assert_eq!("500/s".parse(), Ok(Rate(500)));
        assert_eq!("7".parse(), Ok(Rate(7)));
        for wrong in ["", "0", "0/s", "/s", "500/m", "-1/s", "5e2"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_look_tells_where_a_drain_is() {
        let drain = json!({"order": 5, "followed": true, "told": 2, "sessions": 9});
        let node = |changes: Value| {
            let mut node = json!({
                "node": "a1", "draining": true, "fresh": true, "connections": 7, "drain": drain
            });
            for (name, value) in changes.as_object().expect("fields") {
                node[name] = value.clone();
            }
            if node["drain"].is_null() {
                node.as_object_mut().expect("fields").remove("drain");
            }
            vec![node]
        };
        let order = json!(5);
        let under = Look::Under { connections: 7, told: 2, sessions: 9 };
        let ordered = json!({"drain": {"order": 5, "followed": false}});
        let another = json!({"drain": {"order": 6, "followed": true}});
        let taken_back = json!({"drain": null});
        let next = json!({"drain": null, "draining": false});
        for (nodes, followed, wanted) in [
            (node(json!({})), true, under),
            (node(ordered), false, Look::Ordered),
            (node(json!({"connections": 0})), true, Look::Over),
            (node(json!({"fresh": false})), true, Look::Over),
            (Vec::new(), true, Look::Over),
            (node(another), true, Look::Lost),
            (node(taken_back.clone()), true, Look::Lost),
            (node(taken_back), false, Look::Lost),
            (node(next), true, Look::Over),
        ] {
            assert_eq!(look(&nodes, "a1", &order, followed), wanted, "{nodes:?}");
        }
    }
}
