//! What a connection costs that is logged in and does nothing: nothing but what must be there.

use super::{Connection, Identity, Slot};
use crate::conn;
use crate::link::Link;
use crate::outbox::Outbox;
use crate::reader::Reader;
use crate::session::Session;
use hawser_proto::id::SlotRef;

/// Bytes of an idle TCP connection whose device id has 16 bytes, by allocation; an allocator that knows
/// these sizes adds nothing to them:
///
/// | | bytes | |
/// |---|---|---|
/// | slot | 24 | lock 8, generation 8, pointer 8: in an array, taken or not |
/// | [`Connection`] | 128 | socket and what was heard of it 16, whom to wake 16, address 17, four times 32, pointers to who it is and to what is rare (outbox, signal, stored pushes) 32, limit, count and flags 15 |
/// | [`Identity`] | 128 | app 16, device 16, two epochs 16, installation and attempt 24, three times 24, pointers to what is shared (rights, facts) and rare (early kick, attributes) 32 |
/// | device id | 32 | two counts 16, and the text; the app's name is the catalogue's |
/// | task | 128 | tokio's own 104, family 8, pointer to what it holds 16 |
/// | held by the task | 112 | node 8, slot 8, reader 16, session 12, pointer to what a stranger has 8, and where it stands |
/// | wheel | 16 | an entry 8, and as much room at worst |
///
/// In a router, a route takes 64 bytes and its key in a table that is at least 7/16 full.
const IDLE_BYTES: usize = 24 + 128 + 128 + 32 + 128 + 112 + 16;

#[test]
fn an_idle_connection_takes_what_is_counted_here() {
    assert_eq!(size_of::<Link>(), 16);
    assert_eq!(size_of::<Outbox>(), 8);
    assert_eq!(size_of::<Reader>(), 16);
    assert_eq!(size_of::<Session>(), 12);
    let parts = [
        ("slot", size_of::<Slot>(), 24),
        ("connection", size_of::<Connection>(), 128),
        ("identity", size_of::<Identity>(), 128),
        ("device id", 2 * size_of::<usize>() + 16, 32),
        ("task", TASK_BYTES, 128),
        ("held by the task", conn::held_bytes(), 112),
        ("wheel", 2 * size_of::<SlotRef>(), 16),
    ];
    for (what, bytes, counted) in parts {
        assert!(bytes <= counted, "{what}: {bytes} bytes, and {counted} were counted");
    }
    assert_eq!(parts.iter().map(|part| part.2).sum::<usize>(), IDLE_BYTES);
    const { assert!(IDLE_BYTES < 600) };
}

/// A task of tokio whose future is a pointer with its family's token: header 32, scheduler and id 16, the
/// future or what came of it 32, trailer 48. Laid out in steps of 128 bytes.
const TASK_BYTES: usize = 32 + 16 + 32 + 48;
