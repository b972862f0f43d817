//! The rules of each kind at their edges. The vectors hold one case each; here are both sides.

use super::*;
use crate::limits::{PARAMS_BYTES_MAX, REASON_BYTES_MAX};
use prost::Message as _;

fn raw(kind: u8, params: &impl prost::Message, body: &'static [u8]) -> RawFrame {
    RawFrame {
        kind,
        flags: Flags::NONE,
        params: params.encode_to_vec().into(),
        body: Bytes::from_static(body),
    }
}

/// Reads the frame as a node does. `None`: it is taken.
fn check(frame: &DeviceFrame) -> Option<CloseCode> {
    let raw = codec::decode_message(frame.encode(), usize::MAX).unwrap();
    DeviceFrame::parse(raw).err().map(FrameError::close_code)
}

fn login() -> params::Login {
    params::Login {
        instance: Bytes::from_static(&[7; 16]),
        attempt: 1,
        businesses: vec!["b".into(); 32],
        cursors: vec![params::Cursor::default(); 32],
        ..Default::default()
    }
}

fn request() -> params::Request {
    params::Request {
        request_id: 1,
        method: "m".repeat(128),
        traceparent: "0".repeat(128),
        ..Default::default()
    }
}

fn entries(count: usize, bytes: usize) -> HashMap<String, String> {
    let each = bytes / count;
    (0..count).map(|i| (format!("{i:04}"), "v".repeat(each - 4))).collect()
}

#[test]
fn a_login_at_its_limits_is_taken_and_one_beyond_is_not() {
    assert_eq!(check(&DeviceFrame::Login(login())), None);
    for bad in [
        params::Login { instance: Bytes::from_static(&[7; 17]), ..login() },
        params::Login { instance: Bytes::new(), ..login() },
        params::Login { attempt: 0, ..login() },
        params::Login { businesses: vec!["b".into(); 33], ..login() },
        params::Login { cursors: vec![params::Cursor::default(); 33], ..login() },
    ] {
        assert_eq!(check(&DeviceFrame::Login(bad)), Some(CloseCode::BadFrame));
    }
}

#[test]
fn a_request_at_its_limits_is_taken_and_one_beyond_is_not() {
    let ask = |request| DeviceFrame::Request(request, Bytes::new());
    let full = || params::Request { metadata: entries(32, 4096), ..request() };
    assert_eq!(check(&ask(full())), None);
    for bad in [
        params::Request { request_id: 0, ..full() },
        params::Request { method: "m".repeat(129), ..full() },
        params::Request { traceparent: "0".repeat(129), ..full() },
        params::Request { metadata: entries(33, 3300), ..full() },
        params::Request { metadata: entries(1, 4097), ..full() },
    ] {
        assert_eq!(check(&ask(bad)), Some(CloseCode::BadFrame));
    }
}

#[test]
fn an_id_of_0_is_no_id_and_an_echo_is_bounded() {
    for request_id in [0, 1] {
        for length in [0, 129, 1024, 1025] {
            let group = "g".repeat(length);
            let expected = (request_id == 0 || length == 1025).then_some(CloseCode::BadFrame);
            let join = DeviceFrame::Join(params::Join {
                request_id,
                group: group.clone(),
                ..Default::default()
            });
            let leave = DeviceFrame::Leave(params::Leave { request_id, group });
            assert_eq!(
                (check(&join), check(&leave)),
                (expected, expected),
                "{request_id} {length}"
            );
        }
        let refresh = DeviceFrame::Refresh(params::Refresh { request_id });
        assert_eq!(check(&refresh).is_some(), request_id == 0);
    }
}

#[test]
fn positions_are_taken_as_they_are_and_lists_of_them_are_bounded() {
    let at = |business| params::InboxPosition { business, term: u64::MAX, seq: u64::MAX };
    for (count, expected) in [(0, None), (32, None), (33, Some(CloseCode::BadFrame))] {
        let ack = params::Ack { inboxes: (0..count).map(at).collect() };
        assert_eq!(check(&DeviceFrame::Ack(ack)), expected, "{count} acknowledgements");
    }
    let nowhere = DeviceFrame::Resync(params::Resync { after: None });
    assert_eq!(check(&nowhere), Some(CloseCode::BadFrame));
    // Both zero is a position like any other, and takes no byte.
    let start = params::InboxPosition::default();
    assert_eq!(check(&DeviceFrame::Resync(params::Resync { after: Some(start) })), None);
    for (length, expected) in [(0, None), (1024, None), (1025, Some(CloseCode::BadFrame))] {
        let recover = params::Recover { group: "g".repeat(length), ..Default::default() };
        assert_eq!(check(&DeviceFrame::Recover(recover)), expected, "{length}");
    }
}

#[test]
fn a_kind_of_the_other_side_is_seen_before_anything_else() {
    let junk = params::Ping { nonce: 1 };
    for &kind in Kind::ALL {
        let from_node = kind as u8 & 0x80 != 0;
        let told = raw(kind as u8, &junk, b"body");
        let unexpected = FrameError::Direction(kind as u8);
        assert_eq!(DeviceFrame::parse(told.clone()) == Err(unexpected), from_node, "{kind:?}");
        assert_eq!(NodeFrame::parse(told) == Err(unexpected), !from_node, "{kind:?}");
    }
}

#[test]
fn each_kind_is_known_ignorable_or_refused() {
    for byte in 0..=u8::MAX {
        let told = raw(byte, &params::Ping::default(), b"");
        let known = Kind::from_byte(byte).is_some();
        let device = DeviceFrame::parse(told.clone());
        let node = NodeFrame::parse(told);
        let skipped =
            (device == Ok(DeviceFrame::Ignored(byte)), node == Ok(NodeFrame::Ignored(byte)));
        assert_eq!(skipped, ((0x60..=0x7f).contains(&byte), byte >= 0xe0), "{byte:#04x}");
        if !known && skipped == (false, false) {
            assert_eq!(device, Err(FrameError::Kind(byte)));
            assert_eq!(node, Err(FrameError::Kind(byte)));
        }
    }
}

#[test]
fn only_a_request_of_a_device_has_a_body() {
    for (kind, body_allowed) in [(Kind::Ping, false), (Kind::Bye, false), (Kind::Request, true)] {
        let parsed = DeviceFrame::parse(raw(kind as u8, &params::Ping { nonce: 1 }, b"body"));
        assert_eq!(parsed.is_ok(), body_allowed, "{kind:?}");
    }
}

/// The echo in an answer is the one thing a device can make it grow with.
#[test]
fn the_longest_echo_fits_into_its_answer() {
    let joined = params::Joined {
        request_id: u64::MAX,
        group: "g".repeat(1024),
        status: u32::MAX,
        message: cut(&"é".repeat(1000)),
        business: u32::MAX,
        tail_term: u64::MAX,
        tail_seq: u64::MAX,
        floor_term: u64::MAX,
        floor_seq: u64::MAX,
        history: true,
    };
    assert!(joined.encoded_len() < PARAMS_BYTES_MAX);
}

#[test]
fn a_sentence_is_cut_at_a_character() {
    assert_eq!(cut("short"), "short");
    assert_eq!(cut(&"é".repeat(200)).len(), REASON_BYTES_MAX);
    assert_eq!(cut(&format!("a{}", "é".repeat(200))).len(), REASON_BYTES_MAX - 1);
    let NodeFrame::Close(close) = NodeFrame::close(CloseCode::Internal, &"x".repeat(999), 5) else {
        panic!("a close is a CLOSE");
    };
    assert_eq!((close.code, close.reason.len(), close.retry_after_ms), (4101, 256, 5));
}
