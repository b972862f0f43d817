//! Names of keys. All that belongs to one device or group carries one hash tag, so that it lives in one
//! slot of a cluster and one script can touch it all.

use crate::key::{self, Key};
use crate::store::EVENT_SHARDS;
use hawser_proto::id::{BootId, BusinessNo, NodeId};
use std::fmt::Write;
use std::sync::LazyLock;

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
        Self::of(key.as_bytes(), "", false)
    }

    /// Of a device, by its stored key.
    pub(super) fn stored_device(key: &[u8]) -> Self {
        Self::of(key, "", false)
    }

    /// Of a group's history.
    pub(super) fn group(key: &Key) -> Self {
        Self::of(key.as_bytes(), "g", true)
    }

    fn of(key: &[u8], kind: &str, is_group: bool) -> Self {
        let (app, id) = key::split(key).unwrap_or_default();
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

    /// What businesses want to hear of the device, and have heard.
    pub(super) fn heard(&self) -> Vec<u8> {
        format!("e:{}", self.text).into_bytes()
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

    /// Whether there is such a group, and how it is.
    pub(super) fn group_itself(&self) -> Vec<u8> {
        format!("g:{}:g", self.text).into_bytes()
    }

    /// Groups of this name that were deleted or replaced lately, by when.
    pub(super) fn tombstones(&self) -> Vec<u8> {
        format!("g:{}:d", self.text).into_bytes()
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

/// A key that shares its slot with nothing that has to be touched together with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lone {
    pub(super) name: Vec<u8>,
    pub(super) slot: u16,
}

impl Lone {
    fn new(name: String) -> Self {
        let slot = slot(name.as_bytes());
        Self { name: name.into_bytes(), slot }
    }

    /// All owners of groups, as `app:number`.
    pub(super) fn owners() -> Self {
        Self::new("l:owners".to_owned())
    }

    /// The log of what was changed about groups.
    pub(super) fn group_log() -> Self {
        Self::new("l:log".to_owned())
    }

    /// Who does something that one router does at a time.
    pub(super) fn duty(name: &str) -> Self {
        Self::new(format!("d:{name}"))
    }

    /// The sessions of a boot, those whose devices lie in one region.
    pub(super) fn sessions(region: u16, node: &NodeId, boot: BootId) -> Self {
        Self::near(region, &format!("s:{node}:{:016x}", boot.0))
    }

    /// Devices of a shard that are marked, by when. In the regions of the devices: mostly on their
    /// primary, so that a replica that has what was done to a device has the mark that was made before.
    pub(super) fn marks(shard: u16) -> Self {
        Self::near(shard * REGIONS_OF_SHARD, &format!("m:{shard}"))
    }

    /// A key in a slot of this region.
    pub(super) fn near(region: u16, name: &str) -> Self {
        let anchor = &ANCHORS[usize::from(region % REGIONS)];
        let slot = slot(anchor.as_bytes());
        Self { name: format!("{name}:{{{anchor}}}").into_bytes(), slot }
    }
}

/// Leases of nodes, and boots that may have sessions.
pub(super) const LEASES: &[u8] = b"n:{n}:leases";
pub(super) const BOOTS: &[u8] = b"n:{n}:boots";

/// The slot of both.
pub(super) fn nodes_slot() -> u16 {
    slot(b"n")
}

/// What is written beside a device's own keys lies in as many parts, each in the region of slots that the
/// device's are in: mostly that is the same primary, and where it is not, it is so for few.
pub(super) const REGIONS: u16 = 64;

/// So many regions share the marks of a shard.
const REGIONS_OF_SHARD: u16 = REGIONS / EVENT_SHARDS;

/// In which shard a device is marked.
pub(super) fn event_shard(device: &[u8]) -> u16 {
    region(Tag::stored_device(device).slot()) / REGIONS_OF_SHARD
}

/// In which region a slot is.
pub(super) fn region(slot: u16) -> u16 {
    slot / (16_384 / REGIONS)
}

/// For each region a tag that lies in it.
static ANCHORS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut anchors = vec![String::new(); usize::from(REGIONS)];
    let mut left = anchors.len();
    for number in 0u32.. {
        let tag = number.to_string();
        let anchor = &mut anchors[usize::from(region(slot(tag.as_bytes())))];
        if anchor.is_empty() {
            *anchor = tag;
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    anchors
});

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
    fn every_region_has_a_tag_of_its_own() {
        let node = NodeId::new("node-1").unwrap();
        for region in 0..REGIONS {
            let key = Lone::sessions(region, &node, BootId(7));
            assert_eq!(super::region(key.slot), region);
            let text = String::from_utf8(key.name).unwrap();
            let (_, tag) = text.trim_end_matches('}').split_once('{').unwrap();
            assert_eq!(slot(tag.as_bytes()), key.slot, "{text}");
        }
        // Stored keys are named so: never to be changed.
        let first = Lone::sessions(0, &node, BootId(7));
        assert_eq!(first.name, b"s:node-1:0000000000000007:{10}");
    }

    #[test]
    fn marks_lie_in_the_regions_of_their_devices() {
        for shard in 0..EVENT_SHARDS {
            let marks = Lone::marks(shard);
            assert_eq!(region(marks.slot) / REGIONS_OF_SHARD, shard);
            let text = String::from_utf8(marks.name).unwrap();
            let (_, tag) = text.trim_end_matches('}').split_once('{').unwrap();
            assert_eq!(slot(tag.as_bytes()), marks.slot, "{text}");
        }
        let app = AppId::new("demo").unwrap();
        for number in 0..1_000 {
            let device = Key::device(&app, &format!("d{number}")).unwrap();
            let (slot, marks) =
                (Tag::device(&device).slot(), Lone::marks(event_shard(device.as_bytes())).slot);
            assert_eq!(slot / 1_024, marks / 1_024, "a sixteenth of all slots has both");
        }
        // Stored keys are named so: never to be changed.
        assert_eq!(Lone::marks(0).name, b"m:0:{10}");
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
