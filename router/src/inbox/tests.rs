use super::rules::{append, claim, fetch};
use super::shelf::Memory;
use super::*;

fn owner(slot: u32) -> Owner {
    let node = NodeId::new("node-1").unwrap();
    Owner { node, boot: BootId(1), at: SlotRef { slot, generation: 1 } }
}

fn push(id: &str) -> NewEntry {
    NewEntry {
        push_id: Bytes::copy_from_slice(id.as_bytes()),
        digest: 1,
        expires_at_ms: u64::MAX,
        collapse_key: Bytes::new(),
        priority: Priority::Normal,
        blob: Bytes::copy_from_slice(id.as_bytes()),
    }
}

const CAPS: Caps = Caps { entries_max: 3, bytes_max: 10_000, drops_oldest: true };
const CHAT: BusinessNo = BusinessNo(1);

#[test]
fn what_left_by_overflow_is_told_and_the_rest_comes_in_order() {
    let mut shelf = Memory::default();
    for id in ["a", "b", "c", "d"] {
        append(&mut shelf, CHAT, push(id), CAPS, 7, 1000).unwrap();
    }
    let login = Login { owner: owner(1), instance: [1; 16], attempt: 1, watchers: Vec::new() };
    let Claimed::Bound { epoch, inboxes, .. } = claim(&mut shelf, login, &[], 2000).unwrap() else {
        panic!("a first login")
    };
    assert_eq!(inboxes[0].count, 3);
    let session = Session { owner: owner(1), epoch };
    let limits = Limits { entries_max: 32, bytes_max: 1000 };
    let batch = fetch(&shelf, &session, CHAT, Position::START, limits, 3000).unwrap().unwrap();
    let seen: Vec<_> = batch.items.iter().map(|one| (one.position.seq, one.lost)).collect();
    assert_eq!(seen, [(2, 1), (3, 0), (4, 0)]);
    assert_eq!(batch.items[0].reason, LostReason::Overflow);
}
