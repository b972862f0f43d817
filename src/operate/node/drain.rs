//! Waiting for the end of a drain.

use crate::control_api::ControlApi;
use crate::failure::{Failure, Outcome};
use hawser_proto::limits::NODE_LEASE;
use serde_json::Value;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// As often as a node that drains reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Control may be away for a while, in a rolling upgrade too.
const CONTROL_AWAY_MAX: Duration = Duration::from_mins(1);

/// A node that is silent for longer, beside what makes it so in control's eyes, is dead to routers too: their lease.
const SILENCE_MAX: Duration = NODE_LEASE;

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

/// How a drain ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The node said that no connection is left.
    Empty,
    /// Another process has the node's name, so that the one that drained is not there any more.
    Replaced,
}

impl End {
    /// For whoever waited.
    pub(super) fn sentence(self, node: &str) -> String {
        match self {
            Self::Empty => format!("{node} is drained"),
            Self::Replaced => {
                format!("the process of {node} that drained has ended; another one has its name")
            }
        }
    }
}

/// An order, and the process that it was given to.
struct Order<'o> {
    id: &'o Value,
    boot: &'o Value,
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
    /// Control has not heard of the node, or not lately. It may have connections, and it may be gone.
    Unheard,
    Over(End),
    /// Somebody took the order back, or gave another one.
    Lost,
}

fn look(nodes: &[Value], node: &str, order: &Order<'_>) -> Look {
    // Control keeps nodes in memory: one that has just started knows none.
    let Some(node) = nodes.iter().find(|it| it["node"] == node) else { return Look::Unheard };
    if node["boot"] != *order.boot {
        return Look::Over(End::Replaced);
    }
    let drain = &node["drain"];
    if drain["order"] != *order.id {
        return Look::Lost;
    }
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let is_followed = drain["followed"] == true;
    // It takes nobody new: what is empty stays so, also when nothing more is heard.
    if is_followed && node["connections"] == 0 {
        return Look::Over(End::Empty);
    }
    if node["fresh"] != true {
        return Look::Unheard;
    }
    if !is_followed {
        return Look::Ordered;
    }
    Look::Under {
        connections: number(&node["connections"]),
        told: number(&drain["told"]),
        sessions: number(&drain["sessions"]),
    }
}

/// For how long the node alone has been silent.
#[derive(Default)]
struct Silence {
    since: Option<Instant>,
}

impl Silence {
    /// After a look. Where control hears of nobody, it is control that was away. True: the node is given up.
    fn goes_on(&mut self, look: &Look, nodes: &[Value], node: &str, now: Instant) -> bool {
        let hears_others = nodes.iter().any(|it| it["node"] != node && it["fresh"] == true);
        if *look != Look::Unheard || !hears_others {
            self.since = None;
            return false;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now)) > SILENCE_MAX
    }
}

/// Looks at the node until its drain is over. `order`: control's answer.
pub(super) async fn wait(
    control: &ControlApi,
    node: &str,
    order: &Value,
    patience: Duration,
) -> Outcome<End> {
    let order = Order { id: &order["order"], boot: &order["boot"] };
    if !order.boot.is_string() {
        let old =
            "it is ordered; but control is of an older release, and a drain cannot be waited for";
        return Err(Failure::not_done(old));
    }
    let deadline = Instant::now() + patience;
    let mut heard = Instant::now();
    let mut silence = Silence::default();
    let mut said = String::new();
    let mut last_word = "nothing".to_owned();
    loop {
        match control.list("/v1/nodes").await {
            Ok(nodes) => {
                heard = Instant::now();
                let look = look(&nodes, node, &order);
                if silence.goes_on(&look, &nodes, node, heard) {
                    return Err(Failure::not_done(format!(
                        "{node} has fallen silent while control hears other nodes: its process has ended, or is \
                         cut off, and did not say that it was empty (its last word: {last_word})"
                    )));
                }
                let line = match look {
                    Look::Over(end) => return Ok(end),
                    Look::Lost => {
                        let lost = format!("the order to drain {node} was taken back or replaced");
                        return Err(Failure::not_done(lost));
                    }
                    Look::Unheard => format!("{node}: not heard of (its last word: {last_word})"),
                    Look::Ordered => format!("{node}: ordered"),
                    Look::Under { connections, told, sessions } => {
                        last_word = format!("{told} of {sessions} told to go, {connections} left");
                        format!("{node}: {last_word}")
                    }
                };
                if line != said {
                    eprintln!("{line}");
                    said = line;
                }
            }
            Err(failure) if heard.elapsed() > CONTROL_AWAY_MAX => return Err(failure),
            Err(failure) => {
                silence = Silence::default();
                eprintln!("{failure}; looking again");
            }
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

    /// The node a1, draining by the order 5, with these fields changed.
    fn listed(changes: &Value) -> Vec<Value> {
        let mut node = json!({
            "node": "a1", "boot": "aa", "draining": true, "fresh": true, "connections": 7,
            "drain": {"order": 5, "followed": true, "told": 2, "sessions": 9}
        });
        for (name, value) in changes.as_object().expect("fields") {
            node[name] = value.clone();
        }
        vec![node]
    }

    #[test]
    fn a_look_tells_where_a_drain_is_and_never_takes_silence_for_its_end() {
        let (id, boot) = (json!(5), json!("aa"));
        let order = Order { id: &id, boot: &boot };
        let under = Look::Under { connections: 7, told: 2, sessions: 9 };
        let not_followed = json!({"order": 5, "followed": false});
        let another = json!({"order": 6, "followed": true});
        for (nodes, wanted) in [
            (listed(&json!({})), under),
            (listed(&json!({"drain": not_followed})), Look::Ordered),
            (listed(&json!({"drain": not_followed, "connections": 0})), Look::Ordered),
            (listed(&json!({"connections": 0})), Look::Over(End::Empty)),
            (listed(&json!({"connections": 0, "fresh": false})), Look::Over(End::Empty)),
            (listed(&json!({"fresh": false})), Look::Unheard),
            (listed(&json!({"drain": not_followed, "fresh": false})), Look::Unheard),
            (Vec::new(), Look::Unheard),
            (listed(&json!({"node": "a2", "connections": 0})), Look::Unheard),
            (listed(&json!({"drain": another})), Look::Lost),
            (listed(&json!({"drain": null})), Look::Lost),
            (listed(&json!({"drain": null, "draining": false})), Look::Lost),
            (listed(&json!({"boot": "bb", "drain": null})), Look::Over(End::Replaced)),
            (listed(&json!({"boot": "bb", "fresh": false})), Look::Over(End::Replaced)),
        ] {
            assert_eq!(look(&nodes, "a1", &order), wanted, "{nodes:?}");
        }
    }

    #[test]
    fn a_node_is_given_up_only_when_it_alone_is_silent_for_longer_than_a_lease() {
        let mut silence = Silence::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let other = listed(&json!({"node": "a2"}));
        assert!(!silence.goes_on(&Look::Unheard, &other, "a1", at(0)));
        assert!(!silence.goes_on(&Look::Unheard, &other, "a1", at(10)));
        assert!(silence.goes_on(&Look::Unheard, &other, "a1", at(11)));
        // Control that hears of nobody, or of this one alone, says nothing about it.
        for nodes in
            [Vec::new(), listed(&json!({"node": "a2", "fresh": false})), listed(&json!({}))]
        {
            assert!(!silence.goes_on(&Look::Unheard, &nodes, "a1", at(12)), "{nodes:?}");
            assert!(!silence.goes_on(&Look::Unheard, &other, "a1", at(13)), "it begins anew");
            assert!(!silence.goes_on(&Look::Unheard, &nodes, "a1", at(100)), "{nodes:?}");
        }
        assert!(!silence.goes_on(&Look::Unheard, &other, "a1", at(200)));
        assert!(!silence.goes_on(&Look::Ordered, &other, "a1", at(205)), "it is back");
        assert!(!silence.goes_on(&Look::Unheard, &other, "a1", at(211)));
    }
}
