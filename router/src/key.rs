//! Keys of what belongs to an app: (app, device) and (app, group) as one piece of bytes.
//!
//! The app is length-prefixed, so that no two pairs meet in one key (plain joining would let `a:b` + `c`
//! meet `a` + `b:c`: a hole between tenants). A key lives on the stack; building one allocates nothing.

use hawser_proto::id::{AppId, DeviceId, GroupId, IdError, NAME_BYTES_MAX, OPAQUE_BYTES_MAX};
use std::fmt;

const KEY_BYTES_MAX: usize = 1 + NAME_BYTES_MAX + OPAQUE_BYTES_MAX;

/// An app and a device or group of it, whose forms were checked. In memory and in the store alike.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    len: u8,
}

impl Key {
    /// The key of a device, after a look at the form of its id.
    pub fn device(app: &AppId, device: &str) -> Result<Self, IdError> {
        DeviceId::check(device)?;
        Ok(Self::join(app, device))
    }

    /// The key of a group, after a look at the form of its id.
    pub fn group(app: &AppId, group: &str) -> Result<Self, IdError> {
        GroupId::check(group)?;
        Ok(Self::join(app, group))
    }

    fn join(app: &AppId, id: &str) -> Self {
        let app = app.as_str().as_bytes();
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[0] = app.len() as u8;
        bytes[1..=app.len()].copy_from_slice(app);
        let start = 1 + app.len();
        let end = start + id.len();
        bytes[start..end].copy_from_slice(id.as_bytes());
        Self { bytes, len: end as u8 }
    }

    /// The bytes, for maps and the store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.as_bytes().escape_ascii())
    }
}

/// The app and the id in stored key bytes. `None`: not written by [`Key`].
pub fn split(bytes: &[u8]) -> Option<(&str, &str)> {
    let (&len, rest) = bytes.split_first()?;
    let (app, id) = rest.split_at_checked(usize::from(len))?;
    Some((std::str::from_utf8(app).ok()?, std::str::from_utf8(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(app: &str, id: &str) -> Key {
        Key::device(&AppId::new(app).unwrap(), id).unwrap()
    }

    #[test]
    fn no_two_pairs_share_a_key() {
        assert_ne!(key("a", "bc").as_bytes(), key("ab", "c").as_bytes());
        assert_eq!(split(key("demo", "web-1").as_bytes()), Some(("demo", "web-1")));
    }

    #[test]
    fn the_longest_ids_fit_and_longer_ones_are_refused() {
        let app = AppId::new(&"a".repeat(32)).unwrap();
        assert_eq!(Key::group(&app, &"g".repeat(128)).unwrap().as_bytes().len(), 161);
        assert!(Key::group(&app, &"g".repeat(129)).is_err());
        assert!(Key::device(&app, "").is_err());
    }
}
