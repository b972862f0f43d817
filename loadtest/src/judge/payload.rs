//! Payloads that say for whom they are: `<push id>|<app>|<device>|<inbox>|<keyed hash of these>`. A wrong
//! delivery is found from what the app was handed alone. Group payloads name the group as the inbox and
//! no device. Ids must not hold a `|`.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Not a secret: it tells our payloads from other bytes, and a mixed-up one from a whole one.
const KEY: u64 = 0x6861_7773_6572_2e31;

/// The target a payload names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of the form above")]
pub struct Payload<'a> {
    pub push: &'a str,
    pub app: &'a str,
    pub device: &'a str,
    pub inbox: &'a str,
}

impl<'a> Payload<'a> {
    /// The bytes to push.
    pub fn encode(&self) -> String {
        let Self { push, app, device, inbox } = self;
        let named = format!("{push}|{app}|{device}|{inbox}");
        let hash = xxh3_64_with_seed(named.as_bytes(), KEY);
        format!("{named}|{hash:016x}")
    }

    /// The target, when the bytes are whole.
    pub fn parse(body: &'a str) -> Option<Self> {
        let (named, hash) = body.rsplit_once('|')?;
        let hash = u64::from_str_radix(hash, 16).ok()?;
        if hash != xxh3_64_with_seed(named.as_bytes(), KEY) {
            return None;
        }
        let mut parts = named.split('|');
        let found = Self {
            push: parts.next()?,
            app: parts.next()?,
            device: parts.next()?,
            inbox: parts.next()?,
        };
        parts.next().is_none().then_some(found)
    }
}
