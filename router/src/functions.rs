//! What a router does. Those of one tier may do different things, so that a storm of logins on one leaves the
//! pushes of another alone; all of them know all routes and groups.

use crate::refusal::Refusal;
use hawser_proto::code::ErrorCode;
use std::fmt;

/// A set of functions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Functions(u32);

/// Each, its name in configurations, and what is missed when it is off.
const NAMED: [(Functions, &str, &str); 3] = [
    (Functions::LOGINS, "logins", "logins and presence"),
    (Functions::PUSH, "push", "pushes and groups"),
    (Functions::INBOX, "inbox", "inboxes"),
];

impl Functions {
    /// Logins of devices, and who is online.
    pub const LOGINS: Self = Self(1);
    /// Pushes, and calls about groups.
    pub const PUSH: Self = Self(2);
    /// What access nodes and backends ask of inboxes and histories, connection events, the ends of sessions
    /// whose nodes died.
    pub const INBOX: Self = Self(4);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// Those with these names. An error holds the name that there is not.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        names.into_iter().try_fold(Self(0), |all, name| {
            let found = NAMED.iter().find(|(_, known, _)| *known == name);
            found.map(|(one, ..)| Self(all.0 | one.0)).ok_or(name)
        })
    }

    /// Whether all of these are among them.
    pub fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// As `hawser.node.v1` and `hawser.control.v1` have them.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether it does anything at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Refuses what this router does not do.
    pub(crate) fn must_do(self, wanted: Self) -> Result<(), Refusal> {
        if self.contains(wanted) {
            return Ok(());
        }
        let what = NAMED.iter().find(|(one, ..)| *one == wanted).map_or("this", |(.., what)| what);
        let detail = format!("this router does not serve {what}; another one of its tier does");
        Err(Refusal::new(ErrorCode::NotServedHere, detail))
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMED.iter().filter(|(one, ..)| self.contains(*one)).map(|(_, name, _)| name);
        f.debug_set().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_named_and_what_is_off_is_refused() {
        let some = Functions::named(["inbox", "push"]).unwrap();
        assert_eq!((some.bits(), format!("{some:?}").as_str()), (6, r#"{"push", "inbox"}"#));
        assert!(some.must_do(Functions::PUSH).is_ok());
        let refused = some.must_do(Functions::LOGINS).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotServedHere);
        assert!(refused.detail.contains("logins and presence"));
        assert_eq!(Functions::named(["push", "tea"]), Err("tea"));
        assert!(Functions::named([]).unwrap().is_empty());
        assert_eq!(Functions::named(["logins", "push", "inbox"]), Ok(Functions::ALL));
    }
}
