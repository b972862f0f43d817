//! Which access point is dialled next: a round over what control gave, the last good one first after
//! a plain loss, what a node named as better before the rest, and the one that sent us away last.

use crate::advice::{AccessPoint, Protocol};
use hawser_proto::limits::ALTERNATIVES_MAX;
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// A point that said "elsewhere" is dialled last for at least this long.
const AVOID_FOR: Duration = Duration::from_mins(1);

/// Points named by nodes that are kept beside control's; beyond it only the newest are.
const NAMED_MAX: usize = 3 * ALTERNATIVES_MAX;

/// The access points of one answer, and the round under way.
#[derive(Debug, Default)]
pub(crate) struct Route {
    points: Vec<AccessPoint>,
    /// So many of the points are control's; the others were named by nodes.
    given: usize,
    round: VecDeque<usize>,
    /// What this round has dialled. Nodes that name each other do not make it longer.
    tried: BTreeSet<usize>,
    avoid: Option<(AccessPoint, Instant)>,
}

impl Route {
    /// New points; begins a round in their order.
    pub(crate) fn set(&mut self, points: Vec<AccessPoint>, now: Instant) {
        self.given = points.len();
        self.points = points;
        self.restart(None, now);
    }

    /// A node named these as better: next in this round, but for those that it has tried. Those that
    /// speak like the link it said so on come first, since that works here.
    pub(crate) fn prefer(&mut self, named: &[AccessPoint], like: Protocol, now: Instant) {
        let named = named.get(..ALTERNATIVES_MAX).unwrap_or(named);
        if self.points.len() + named.len() > self.given + NAMED_MAX {
            let given = self.given;
            self.points.truncate(given);
            self.round.retain(|index| *index < given);
            self.tried.retain(|index| *index < given);
        }
        let mut first: Vec<usize> = Vec::new();
        for point in named {
            let known = self.points.iter().position(|it| it.is_at(point));
            let index = known.unwrap_or_else(|| {
                self.points.push(point.clone());
                self.points.len() - 1
            });
            let is_bad = self.tried.contains(&index) || self.is_avoided(&self.points[index], now);
            if !is_bad && !first.contains(&index) {
                first.push(index);
            }
        }
        first.sort_by_key(|&index| self.points[index].protocol != like);
        let rest = std::mem::take(&mut self.round).into_iter();
        let rest: Vec<usize> = rest.filter(|index| !first.contains(index)).collect();
        self.round.extend(first.into_iter().chain(rest));
    }

    /// Begins a round, with `first` in front if it is still one of the points.
    pub(crate) fn restart(&mut self, first: Option<&AccessPoint>, now: Instant) {
        self.avoid.take_if(|(_, until)| *until <= now);
        self.tried.clear();
        let rank = |point: &AccessPoint| match &self.avoid {
            Some((bad, _)) if bad == point => 3,
            Some((bad, _)) if bad.shares_node(point) => 2,
            _ if first == Some(point) => 0,
            _ => 1,
        };
        let mut round: Vec<usize> = (0..self.points.len()).collect();
        round.sort_by_key(|&index| rank(&self.points[index]));
        self.round = round.into();
    }

    /// This point sent us away: it, and points of its node, come last from now on.
    pub(crate) fn avoid(&mut self, point: AccessPoint, told: Duration, now: Instant) {
        self.avoid = Some((point, now + told.clamp(AVOID_FOR, Duration::from_hours(1))));
        let left: Vec<usize> = self.round.drain(..).collect();
        let (last, first): (Vec<usize>, Vec<usize>) =
            left.into_iter().partition(|&index| self.is_avoided(&self.points[index], now));
        self.round.extend(first.into_iter().chain(last));
    }

    /// The next point of the round; `None`: the round is over.
    pub(crate) fn take(&mut self) -> Option<AccessPoint> {
        let index = self.round.pop_front()?;
        self.tried.insert(index);
        self.points.get(index).cloned()
    }

    /// The next one that is not known to lead to the node behind `here`.
    pub(crate) fn take_other(&mut self, here: &AccessPoint) -> Option<AccessPoint> {
        std::iter::from_fn(|| self.take()).find(|it| !it.is_at(here) && !it.shares_node(here))
    }

    /// Whether the next point of the round is one that did not send us away.
    pub(crate) fn has_better(&self, now: Instant) -> bool {
        let next = self.round.front().and_then(|&index| self.points.get(index));
        next.is_some_and(|point| !self.is_avoided(point, now))
    }

    /// Whether the round is over.
    pub(crate) fn is_over(&self) -> bool {
        self.round.is_empty()
    }

    fn is_avoided(&self, point: &AccessPoint, now: Instant) -> bool {
        let bad = |(bad, until): &(AccessPoint, Instant)| {
            *until > now && (bad == point || bad.shares_node(point))
        };
        self.avoid.as_ref().is_some_and(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(text: &str, node: &str) -> AccessPoint {
        AccessPoint { node: Some(node.into()), ..text.parse().unwrap() }
    }

    fn order(route: &mut Route) -> String {
        let ports: Vec<String> =
            std::iter::from_fn(|| route.take()).map(|it| it.port.to_string()).collect();
        ports.join(" ")
    }

    #[test]
    fn rounds_follow_control_but_for_the_good_and_the_bad() {
        let now = Instant::now();
        let points = vec![point("tcp://h:1", "a"), point("ws://h:2", "a"), point("tcp://h:3", "b")];
        let mut route = Route::default();
        route.set(points.clone(), now);
        assert_eq!(order(&mut route), "1 2 3");
        assert!(route.is_over());

        route.restart(Some(&points[2]), now);
        assert_eq!(order(&mut route), "3 1 2", "the good one first");

        route.restart(None, now);
        let bad = route.take().unwrap();
        route.avoid(bad.clone(), Duration::ZERO, now);
        assert!(route.has_better(now));
        assert_eq!(order(&mut route), "3 2", "the other node first");

        route.restart(Some(&bad), now);
        assert_eq!(order(&mut route), "3 2 1", "the bad one last, also when it was good once");

        route.restart(None, now + AVOID_FOR);
        assert_eq!(order(&mut route), "1 2 3", "forgiven");
    }

    #[test]
    fn named_points_come_next_and_once_in_a_round() {
        let now = Instant::now();
        let named = |texts: &[&str]| -> Vec<AccessPoint> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let mut route = Route::default();
        route.set(
            vec![point("tcp://h:1", "a"), point("tcp://h:2", "b"), point("tcp://h:3", "c")],
            now,
        );
        let here = route.take().unwrap();
        route.avoid(here.clone(), Duration::ZERO, now);
        route.prefer(
            &named(&["ws://n:9", "tcp://h:3", "tcp://h:1", "tcp://n:8"]),
            Protocol::Tcp,
            now,
        );
        assert_eq!(
            order(&mut route),
            "3 8 9 2",
            "known ones once, this protocol first, not the bad one"
        );
        route.prefer(&named(&["tcp://h:3", "ws://n:9"]), Protocol::Tcp, now);
        assert!(route.is_over(), "a round tries each once");

        route.restart(None, now);
        route.prefer(&named(&["tcp://n:8"]), Protocol::Tcp, now);
        let others: Vec<u16> =
            std::iter::from_fn(|| route.take_other(&here)).map(|it| it.port).collect();
        assert_eq!(others, [8, 2, 3, 9], "never where it is");

        for port in 1000..1100 {
            route.prefer(&named(&[&format!("tcp://n:{port}")]), Protocol::Tcp, now);
        }
        assert!(route.points.len() <= 3 + NAMED_MAX);
        let many: Vec<String> = (2000..2100).map(|port| format!("tcp://n:{port}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        route.prefer(&named(&many), Protocol::Tcp, now);
        assert!(route.points.len() <= 3 + NAMED_MAX);
        route.set(vec![point("tcp://h:1", "a")], now);
        assert_eq!(order(&mut route), "1", "control's newest answer stands alone");
    }

    #[test]
    fn a_single_point_has_nothing_better() {
        let now = Instant::now();
        let mut route = Route::default();
        route.set(vec![point("tcp://h:1", "a")], now);
        let only = route.take().unwrap();
        route.avoid(only, Duration::ZERO, now);
        assert!(!route.has_better(now));
        route.restart(None, now);
        assert!(!route.has_better(now) && !route.is_over());
    }
}
