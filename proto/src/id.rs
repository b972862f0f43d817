//! Names and identities. Every id of hawser has its type here and nowhere else.
//!
//! A constructor checks the form once; whoever holds an id never checks it again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest app, business or node name, in bytes.
pub const NAME_BYTES_MAX: usize = 32;
/// Longest device or group id, in bytes.
pub const OPAQUE_BYTES_MAX: usize = 128;

/// Why a text is not an id. It says what was wrong with the form, never the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("an id must not be empty")]
    Empty,
    /// Over the limit of its kind.
    #[error("an id of this kind is at most {max} bytes")]
    TooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// App, business and node names are `[a-z0-9-]`.
    #[error("a name holds only a-z, 0-9 and -")]
    BadCharacter,
    /// Device and group ids hold no control characters.
    #[error("an id holds no control characters")]
    Control,
}

fn check_name(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(IdError::TooLong { max: NAME_BYTES_MAX });
    }
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.bytes().all(fine) { Ok(()) } else { Err(IdError::BadCharacter) }
}

fn check_opaque(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > OPAQUE_BYTES_MAX {
        return Err(IdError::TooLong { max: OPAQUE_BYTES_MAX });
    }
    if text.chars().any(char::is_control) { Err(IdError::Control) } else { Ok(()) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the form.
            pub fn new(text: &str) -> Result<Self, IdError> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks the form of a text that need not become an id of its own: on the path of a push.
            pub fn check(text: &str) -> Result<(), IdError> {
                $check(text)
            }

            /// The text as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id! {
    /// A client application and the tenant boundary: `[a-z0-9-]{1,32}`.
    AppId, check_name
}
text_id! {
    /// One stream of work inside an app: `[a-z0-9-]{1,32}`, unique within the app.
    BusinessId, check_name
}
text_id! {
    /// One access node, by its configured name: `[a-z0-9-]{1,32}`.
    NodeId, check_name
}
text_id! {
    /// One installation of an app: opaque, 1 to 128 bytes of UTF-8 without control characters.
    DeviceId, check_opaque
}
text_id! {
    /// A group: opaque as a device id, unique within its app.
    GroupId, check_opaque
}

/// The number that stands for a business on the wire: unique within its app, never 0, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BusinessNo(pub u32);

/// Random per process start of an access node, so that slots of an earlier life are never mistaken.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// A slot on one access node, in one of its lives: what a connection id is within one boot.
///
/// The generation grows when the slot is taken and when it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRef {
    /// Index into the node's slot array.
    pub slot: u32,
    /// Odd while the slot is taken.
    pub generation: u32,
}

/// One connection on one access node. Two connections never share a `ConnId`, even in the same slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The node that accepted it.
    pub node: NodeId,
    /// That node's process start.
    pub boot: BootId,
    /// Where it lives there.
    pub at: SlotRef,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}.{}", self.node, self.boot, self.at.slot, self.at.generation)
    }
}

/// Session epoch of one device: grows with each successful login, over all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in an inbox or in a group's history. Compared by term, then by number.
///
/// Numbers start at 1 in each term; the term grows whenever the store may have lost something, so that
/// a position is never given out twice. The default lies before everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// Which life of the store, in milliseconds since 1970 or above.
    pub term: u64,
    /// Number within the term.
    pub seq: u64,
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { term: 0, seq: 0 };

    /// This one.
    pub fn new(term: u64, seq: u64) -> Self {
        Self { term, seq }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_compared_by_term_first() {
        assert!(Position::new(2, 1) > Position::new(1, 900));
        assert!(Position::new(2, 1) < Position::new(2, 2));
        assert!(Position::START < Position::new(0, 1));
    }

    #[test]
    fn names_have_one_form() {
        for good in ["a", "demo", "a-1", &"x".repeat(32)] {
            assert!(AppId::new(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", IdError::Empty),
            ("A", IdError::BadCharacter),
            ("a:b", IdError::BadCharacter),
            ("é", IdError::BadCharacter),
            (&"x".repeat(33), IdError::TooLong { max: 32 }),
        ] {
            assert_eq!(BusinessId::new(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn opaque_ids_are_any_text_without_control_characters() {
        assert!(DeviceId::new("Ünïcode:with spaces/and|marks").is_ok());
        assert_eq!(DeviceId::new("a\nb"), Err(IdError::Control));
        assert_eq!(GroupId::new(&"g".repeat(129)), Err(IdError::TooLong { max: 128 }));
    }
}
