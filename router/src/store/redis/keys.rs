//! Names of keys. All that belongs to one device or group carries one hash tag, so that it lives in one
//! slot of a cluster and one script can touch it all.

use crate::key::{self, Key};
use hawser_proto::id::BusinessNo;
use std::fmt::Write;

/// What stands between the braces, braces included: `{4:demo:web-1}`. No two things share one: the app's
/// length says where the id begins, and groups and owners have a letter before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    text: String,
    is_group: bool,
}

impl Tag {
    /// Of a device.
    pub(super) fn device(key: &Key) -> Self {
        Self::of(key, "", false)
    }

    /// Of a group's history.
    pub(super) fn group(key: &Key) -> Self {
        Self::of(key, "g", true)
    }

    fn of(key: &Key, kind: &str, is_group: bool) -> Self {
        let (app, id) = key::split(key.as_bytes()).unwrap_or_default();
        let mut text = String::with_capacity(kind.len() + app.len() + id.len() + 6);
        let _ = write!(text, "{{{kind}{}:{app}:", app.len());
        // Redis cuts a tag at the first closing brace, wherever it stands.
        for part in id.chars() {
            match part {
                '}' => text.push_str("%7D"),
                '%' => text.push_str("%25"),
                plain => text.push(plain),
            }
        }
        text.push('}');
        Self { text, is_group }
    }

    /// Of a business's list of groups.
    pub(super) fn owner(app: &str, owner: u32) -> Self {
        Self { text: format!("{{o{}:{app}:{owner}}}", app.len()), is_group: false }
    }

    /// Route of a device. A group has none: nothing is ever there.
    pub(super) fn route(&self) -> Vec<u8> {
        let Self { text, is_group } = self;
        if *is_group { format!("g:{text}:r") } else { format!("r:{text}") }.into_bytes()
    }

    /// What is known of each inbox; of a history.
    pub(super) fn inboxes(&self) -> Vec<u8> {
        let Self { text, is_group } = self;
        if *is_group { format!("g:{text}:m") } else { format!("b:{text}") }.into_bytes()
    }

    /// Entries.
    pub(super) fn entries(&self, business: BusinessNo) -> Vec<u8> {
        self.part(business, 'e')
    }

    /// Collapse keys.
    pub(super) fn collapse(&self, business: BusinessNo) -> Vec<u8> {
        self.part(business, 'c')
    }

    fn part(&self, BusinessNo(business): BusinessNo, part: char) -> Vec<u8> {
        let Self { text, is_group } = self;
        if *is_group { format!("g:{text}:{part}") } else { format!("i:{text}:{business}:{part}") }
            .into_bytes()
    }

    /// A push id that is remembered. It may hold any bytes, so it stands last.
    pub(super) fn push_id(&self, BusinessNo(business): BusinessNo, id: &[u8]) -> Vec<u8> {
        let Self { text, is_group } = self;
        let mut key =
            if *is_group { format!("g:{text}:k:") } else { format!("k:{text}:{business}:") }
                .into_bytes();
        key.extend_from_slice(id);
        key
    }

    /// Ids of a business's groups, in order.
    pub(super) fn group_ids(&self) -> Vec<u8> {
        format!("l:{}:ids", self.text).into_bytes()
    }

    /// What is known of a business's groups.
    pub(super) fn group_metas(&self) -> Vec<u8> {
        format!("l:{}:metas", self.text).into_bytes()
    }

    /// Written to learn whether replicas follow.
    pub(super) fn fence(&self) -> Vec<u8> {
        format!("w:{}", self.text).into_bytes()
    }

    /// The slot of a cluster that all of this lives in.
    pub(super) fn slot(&self) -> u16 {
        slot(&self.text.as_bytes()[1..self.text.len() - 1])
    }
}

/// All owners of groups, as `app:number`.
pub(super) const OWNERS: &[u8] = b"l:owners";

/// The slot of [`OWNERS`].
pub(super) fn owners_slot() -> u16 {
    slot(OWNERS)
}

/// CRC16 of what stands in the braces, as the Redis Cluster specification has it.
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::AppId;

    fn tag(app: &str, id: &str) -> Tag {
        Tag::device(&Key::device(&AppId::new(app).unwrap(), id).unwrap())
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
    }

    #[test]
    fn an_id_with_braces_stays_whole_inside_its_tag() {
        let odd = tag("demo", "a}{b%7D");
        assert_eq!(odd.text, "{4:demo:a%7D{b%257D}");
        assert_eq!(odd.text.find('}'), Some(odd.text.len() - 1));
        assert_ne!(tag("demo", "a%7D").text, tag("demo", "a}").text);
    }

    #[test]
    fn no_two_things_share_a_key() {
        assert_ne!(tag("a", "1:b:c"), tag("a-1", "b:c"));
        let key = Key::group(&AppId::new("demo").unwrap(), "web-1").unwrap();
        assert_ne!(Tag::group(&key).text, Tag::device(&key).text);
        let tag = tag("demo", "web-1");
        assert_ne!(tag.push_id(BusinessNo(1), b"2:x"), tag.push_id(BusinessNo(12), b":x"));
        assert_eq!(tag.entries(BusinessNo(7)), b"i:{4:demo:web-1}:7:e");
    }
}
