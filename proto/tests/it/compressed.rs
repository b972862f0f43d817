//! Compressed bodies: their cases, byte by byte, and what holds for any.

use crate::bad_cases::refused;
use crate::cases::{node, other_bytes, raw};
use crate::vectors::{Case, From};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::codec::{self, Flags, FrameError, RawFrame, Terms};
use hawser_proto::compressed::{compress, expand, is_compressed, plain_bytes, plain_frame};
use hawser_proto::frame::{Kind, NodeFrame};
use hawser_proto::limits::{COMPRESS_BYTES_MIN, FRAME_BYTES_MAX, HEADER_BYTES};
use hawser_proto::params;
use proptest::collection::vec;
use proptest::prelude::*;

const PLAIN: &[u8] = br#"{"say":"hello, hello, hello, hello","to":["ana","bo","ana","bo"]}"#;
/// [`PLAIN`] as libzstd 1.5.7 writes it at level 1.
pub(crate) const GOOD: &[u8] =
    b"\x28\xb5\x2f\xfd\x20\x41\x75\x01\x00\x44\x02{\"say\":\"hello, \",\"to\":\
[\"ana\",\"bo\",]}\x02\x00\x5d\xb6\x50\x49\xa9\x03";
const MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
/// One segment, its length in one byte.
const LENGTH_1: u8 = 0x20;
/// A window, and then the length in two, four or eight bytes.
const LENGTH_2: u8 = 0x40;
const LENGTH_4: u8 = 0x80;
const LENGTH_8: u8 = 0xc0;
/// 128 KiB.
const WINDOW: u8 = 0x38;

/// A block of one byte repeated, the last one.
fn repeated(byte: u8, times: u32) -> Vec<u8> {
    let head = times << 3 | 1 << 1 | 1;
    [&head.to_le_bytes()[..3], &[byte]].concat()
}

/// A zstd frame put together by hand.
fn zstd(head: &[u8], block: &[u8]) -> Vec<u8> {
    [MAGIC, head, block].concat()
}

/// The parameters of all pushes here: `p`, of business 7.
fn params() -> params::Push {
    params::Push { push_id: "p".into(), business: 7, ..Default::default() }
}

/// A PUSH whose body says to be compressed.
pub(crate) fn push(body: &[u8]) -> Vec<u8> {
    raw(Kind::Push as u8, 0x0100, &[0x0a, 1, b'p', 0x10, 7], body)
}

pub(crate) fn good() -> Vec<Case> {
    let case = |name, title, bytes: Vec<u8>, plain: &'static [u8]| {
        let case = node(name, title, NodeFrame::Push(params(), Bytes::from_static(plain)));
        Case { zstd: true, ..other_bytes(bytes, case) }
    };
    let group = params::GroupPush { group: "room".into(), business: 7, ..Default::default() };
    let in_group = raw(Kind::GroupPush as u8, 0x0100, &prost::Message::encode_to_vec(&group), GOOD);
    let plain = || Bytes::from_static(PLAIN);
    vec![
        case("push_compressed", "PUSH with a compressed body", push(GOOD), PLAIN),
        Case {
            zstd: true,
            ..other_bytes(
                in_group,
                node(
                    "group_push_compressed",
                    "GROUP_PUSH with a compressed body",
                    NodeFrame::GroupPush(group.clone(), plain()),
                ),
            )
        },
        case(
            "push_compressed_window",
            "a window of 128 KiB, the largest, and a body of 300 times the same byte",
            push(&zstd(&[LENGTH_2, WINDOW, 44, 0], &repeated(b'a', 300))),
            &[b'a'; 300],
        ),
        Case {
            zstd: true,
            ..node(
                "push_not_compressed",
                "with the ability, a body may still be plain",
                NodeFrame::Push(params(), plain()),
            )
        },
    ]
}

pub(crate) fn bad() -> Vec<Case> {
    let case = |name, title, code, body: &[u8]| Case {
        from: From::Node,
        zstd: true,
        ..refused(name, title, code, push(body))
    };
    let bad = |name, title, body: &[u8]| case(name, title, CloseCode::BadFrame, body);
    let mib = [&[LENGTH_4, WINDOW][..], &(1u32 << 20).to_le_bytes()].concat();
    vec![
        case(
            "bad_compressed_large",
            "a body of 1 MiB in a few bytes: above the limit once it is plain",
            CloseCode::FrameTooLarge,
            &zstd(&mib, &repeated(b'a', 1 << 17)),
        ),
        bad("bad_compressed_not", "the body is no zstd frame", PLAIN),
        bad("bad_compressed_empty", "no body", b""),
        bad(
            "bad_compressed_more",
            "it says 16 bytes and holds 1,000",
            &zstd(&[LENGTH_1, 16], &repeated(b'a', 1_000)),
        ),
        bad(
            "bad_compressed_less",
            "it says 200 bytes and holds 100",
            &zstd(&[LENGTH_1, 200], &repeated(b'a', 100)),
        ),
        bad("bad_compressed_cut", "its last byte is missing", &GOOD[..GOOD.len() - 1]),
        bad(
            "bad_compressed_two",
            "something behind the zstd frame",
            &[GOOD, &zstd(&[LENGTH_1, 0], &[1, 0, 0])].concat(),
        ),
        bad(
            "bad_compressed_unsized",
            "it does not say how long it will be",
            &zstd(&[0x00, WINDOW], &repeated(b'a', 300)),
        ),
        bad(
            "bad_compressed_window",
            "a window just above 128 KiB",
            &zstd(&[LENGTH_2, WINDOW + 1, 44, 0], &repeated(b'a', 300)),
        ),
        bad(
            "bad_compressed_dictionary",
            "it wants a dictionary",
            &zstd(&[0x21, 1, 100], &repeated(b'a', 100)),
        ),
        Case {
            from: From::Node,
            zstd: true,
            ..refused(
                "bad_compressed_kind",
                "only pushes are compressed",
                CloseCode::BadFrame,
                raw(Kind::Response as u8, 0x0100, &[8, 1], GOOD),
            )
        },
    ]
}

fn raw_push(body: impl Into<Bytes>) -> RawFrame {
    let bytes = Bytes::from(push(&body.into()));
    let known = Flags::COMPRESSED;
    let terms = Terms { frame_bytes_max: FRAME_BYTES_MAX, known };
    codec::decode_message(bytes, terms).unwrap()
}

/// Bodies as businesses have them: words of a small vocabulary, and noise.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let words = vec(
        proptest::sample::select(&["{\"name\":", "\"ana\"", ",", "0", "}", "\n"][..]),
        0..9_000,
    );
    let words = words.prop_map(|words| words.concat().into_bytes());
    prop_oneof![words, vec(any::<u8>(), 0..2_000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_compressed_becomes_plain_again_and_is_worth_it(body in body()) {
        let Some(small) = compress(&body) else { return Ok(()) };
        prop_assert!(body.len() >= COMPRESS_BYTES_MIN && small.len() <= body.len() - body.len() / 8);
        let frame = Bytes::from(push(&small));
        let plain = NodeFrame::Push(params(), body.clone().into()).encode();
        prop_assert!(is_compressed(&frame) && !is_compressed(&plain));
        prop_assert_eq!((plain_bytes(&frame), plain_bytes(&plain)), (plain.len(), plain.len()));
        prop_assert_eq!(plain_frame(&frame), Some(plain.clone()));
        // The limit counts the plain frame, to the byte.
        let raw = raw_push(small);
        let read = expand(raw.clone(), plain.len()).unwrap();
        prop_assert_eq!(&read.body[..], &body[..]);
        prop_assert_eq!(NodeFrame::parse(read), Ok(NodeFrame::Push(params(), body.into())));
        let is_too_large = matches!(expand(raw, plain.len() - 1), Err(FrameError::TooLarge { .. }));
        prop_assert!(is_too_large);
    }

    #[test]
    fn a_changed_body_is_refused_or_within_the_limit(
        body in body(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        limit in prop_oneof![Just(100usize), Just(65_536), Just(FRAME_BYTES_MAX)],
    ) {
        let mut small = compress(&body).unwrap_or_else(|| GOOD.to_vec());
        for (at, byte) in changes {
            let at = at.index(small.len());
            small[at] = byte;
        }
        let frame = Bytes::from(push(&small));
        if let Ok(read) = expand(raw_push(small), limit) {
            let whole = HEADER_BYTES + read.params.len() + read.body.len();
            prop_assert!(whole <= limit);
            prop_assert_eq!(plain_bytes(&frame), whole);
        }
        if let Some(plain) = plain_frame(&frame) {
            prop_assert!(plain.len() <= FRAME_BYTES_MAX);
        }
    }

    #[test]
    fn any_bytes_for_a_body_never_panic(body in vec(any::<u8>(), 0..200), is_zstd in any::<bool>()) {
        let body = if is_zstd { [MAGIC, &body].concat() } else { body };
        let frame = Bytes::from(push(&body));
        let _ = (plain_bytes(&frame), plain_frame(&frame));
        for cut in 0..frame.len() {
            let _ = (plain_bytes(&frame[..cut]), plain_frame(&frame.slice(..cut)));
        }
        let _ = expand(raw_push(body), 65_536);
    }
}

#[test]
fn what_does_not_pay_stays_plain() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(4_000)
    .collect();
    for body in [&[][..], &[b'a'; COMPRESS_BYTES_MIN - 1], &noise] {
        assert_eq!(compress(body), None, "{} bytes", body.len());
    }
    assert_eq!(compress(&vec![b'a'; FRAME_BYTES_MAX + 1]), None, "no frame is so large");
    assert!(compress(&[b'a'; COMPRESS_BYTES_MIN]).is_some());
}

#[test]
fn a_large_body_asks_for_no_larger_window() {
    let body = vec![b'a'; FRAME_BYTES_MAX - 100];
    let small = compress(&body).unwrap();
    assert_eq!(&small[4..6], [LENGTH_4, WINDOW], "a length of four bytes, a window of 128 KiB");
    assert_eq!(expand(raw_push(small), FRAME_BYTES_MAX).unwrap().body.len(), body.len());
}

#[test]
fn a_claim_reserves_nothing_above_the_limit() {
    // 2^63 bytes, 2^32 bytes, 1 MiB: each in a few bytes.
    for length in [1u64 << 63, 1 << 32, 1 << 20] {
        let bomb = zstd(
            &[&[LENGTH_8, WINDOW][..], &length.to_le_bytes()].concat(),
            &repeated(b'a', 1 << 17),
        );
        let frame = Bytes::from(push(&bomb));
        assert!(expand(raw_push(bomb), 65_536).is_err());
        assert_eq!(plain_frame(&frame), None);
        assert!(plain_bytes(&frame) > 65_536);
    }
}

#[test]
fn a_kind_that_is_skipped_is_skipped_whatever_it_holds() {
    let terms = Terms { frame_bytes_max: 100, known: Flags::COMPRESSED };
    let later = codec::decode_message(raw(0xe0, 0x0100, &[1], b"?").into(), terms).unwrap();
    assert_eq!(NodeFrame::parse(expand(later, 100).unwrap()), Ok(NodeFrame::Ignored(0xe0)));
}

#[test]
fn a_body_that_nobody_made_plain_is_handed_to_nobody() {
    let refused = FrameError::Body("it was not made plain");
    assert_eq!(NodeFrame::parse(raw_push(GOOD)), Err(refused));
}
