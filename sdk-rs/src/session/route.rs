//! Which access point is dialled next: a round over what control gave, the last good one first after
//! a plain loss, and the one that sent us away last.

use crate::advice::AccessPoint;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A point that said "elsewhere" is dialled last for at least this long.
const AVOID_FOR: Duration = Duration::from_mins(1);

/// The access points of one answer, and the round under way.
#[derive(Debug, Default)]
pub(crate) struct Route {
    points: Vec<AccessPoint>,
    round: VecDeque<usize>,
    avoid: Option<(AccessPoint, Instant)>,
}

impl Route {
    /// New points; begins a round in their order.
    pub(crate) fn set(&mut self, points: Vec<AccessPoint>, now: Instant) {
        self.points = points;
        self.restart(None, now);
    }

    /// Begins a round, with `first` in front if it is still one of the points.
    pub(crate) fn restart(&mut self, first: Option<&AccessPoint>, now: Instant) {
        self.avoid.take_if(|(_, until)| *until <= now);
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
        self.points.get(index).cloned()
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
