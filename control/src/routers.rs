//! Routers as they report themselves, in memory as access nodes are. Pure: the time comes in as an argument.

use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;
use hawser_proto::rpc::control as wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// Routers known at once.
const ROUTERS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
const ADDRESS_BYTES_MAX: usize = 256;
/// Silent ones are shown to operators for this long.
const SHOWN: Duration = Duration::from_mins(10);

/// What a router can be there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Logins = 1,
    Push = 2,
    Inbox = 4,
}

impl Function {
    pub(crate) const ALL: [Self; 3] = [Self::Logins, Self::Push, Self::Inbox];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Logins => "logins",
            Self::Push => "push",
            Self::Inbox => "inbox",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }
}

/// One router's last report.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) name: String,
    pub(crate) boot: u64,
    functions: u32,
    pub(crate) push: String,
    pub(crate) routes: u64,
    pub(crate) nodes: u64,
    pub(crate) draining: bool,
    pub(crate) reported_at_ms: u64,
}

impl Router {
    fn from_report(report: wire::RouterReport, now_ms: u64) -> Result<Self, Refusal> {
        for (field, value, bytes_max) in
            [("router", &report.router, NAME_BYTES_MAX), ("push", &report.push, ADDRESS_BYTES_MAX)]
        {
            if value.len() > bytes_max || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Refusal::invalid(format!("{field} is not a short text")));
            }
        }
        if report.router.is_empty() {
            return Err(Refusal::invalid("router has no name"));
        }
        Ok(Self {
            name: report.router,
            boot: report.boot,
            functions: report.functions,
            push: report.push,
            routes: report.routes,
            nodes: report.nodes,
            draining: report.draining,
            reported_at_ms: now_ms,
        })
    }

    pub(crate) fn is_fresh(&self, now_ms: u64, freshness: Duration) -> bool {
        now_ms.saturating_sub(self.reported_at_ms) <= freshness.as_millis() as u64
    }

    /// Routers of before the functions report none, and do everything.
    pub(crate) fn serves(&self, function: Function) -> bool {
        self.functions == 0 || self.functions & function as u32 != 0
    }
}

/// All routers, by name.
#[derive(Debug, Default)]
pub(crate) struct Routers(BTreeMap<String, Router>);

impl Routers {
    /// Takes a report in place of the router's last one.
    pub(crate) fn report(
        &mut self,
        report: wire::RouterReport,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let router = Router::from_report(report, now_ms)?;
        if !self.0.contains_key(&router.name) && self.0.len() >= ROUTERS_MAX {
            return Err(Refusal::new(ErrorCode::Overloaded, "too many routers are known"));
        }
        self.0.insert(router.name.clone(), router);
        Ok(())
    }

    /// Forgets those that have been silent for long, and counts the fresh ones.
    pub(crate) fn sweep(&mut self, now_ms: u64, freshness: Duration) -> usize {
        self.0.retain(|_, router| router.is_fresh(now_ms, SHOWN.max(freshness)));
        self.0.values().filter(|router| router.is_fresh(now_ms, freshness)).count()
    }

    /// All that are known, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Router> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(router: &str, functions: u32) -> wire::RouterReport {
        let push = "http://r:9090".into();
        wire::RouterReport { router: router.into(), functions, push, ..Default::default() }
    }

    #[test]
    fn a_router_serves_what_it_reports_and_without_word_everything() {
        let mut routers = Routers::default();
        routers.report(report("all", 0), 0).unwrap();
        routers.report(report("push", 2), 0).unwrap();
        let serving = |function: Function| -> Vec<_> {
            let serving = routers.all().filter(|router| router.serves(function));
            serving.map(|router| router.name.clone()).collect()
        };
        assert_eq!(serving(Function::Push), ["all", "push"]);
        assert_eq!(serving(Function::Inbox), ["all"]);
        for function in Function::ALL {
            assert_eq!(Function::from_name(function.name()), Some(function));
        }
    }

    #[test]
    fn bad_reports_are_refused_and_silent_routers_forgotten() {
        let mut routers = Routers::default();
        for bad in [
            report("", 0),
            report("with space", 0),
            report(&"x".repeat(65), 0),
            wire::RouterReport { push: "x".repeat(257), ..report("r", 0) },
        ] {
            assert_eq!(routers.report(bad, 0).unwrap_err().code, ErrorCode::InvalidArgument);
        }
        let freshness = Duration::from_secs(10);
        routers.report(report("r", 0), 0).unwrap();
        assert_eq!((routers.sweep(10_000, freshness), routers.sweep(10_001, freshness)), (1, 0));
        assert_eq!(routers.all().count(), 1);
        routers.sweep(600_001, freshness);
        assert_eq!(routers.all().count(), 0);
        for n in 0..ROUTERS_MAX {
            routers.report(report(&format!("r{n}"), 0), 0).unwrap();
        }
        let refused = routers.report(report("more", 0), 0).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Overloaded);
        routers.report(report("r1", 0), 1).unwrap();
    }
}
