//! The table of bad cases: what each check of a reader refuses, and with which code.

use crate::cases::{head, login, ping, raw, request};
use crate::compressed;
use crate::vectors::{Case, Expect, From};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, Kind};
use hawser_proto::limits::{FRAME_BYTES_MAX_DEFAULT, LOGIN_FRAME_BYTES_MAX};
use hawser_proto::params;
use prost::Message as _;
use std::collections::HashMap;

pub(crate) fn refused(
    name: &'static str,
    title: &'static str,
    code: CloseCode,
    bytes: impl Into<Bytes>,
) -> Case {
    Case {
        name,
        title,
        from: From::Device,
        message: false,
        limit: FRAME_BYTES_MAX_DEFAULT,
        zstd: false,
        bytes: bytes.into(),
        expect: Expect::Close(code),
        canonical: false,
    }
}

pub(crate) fn bad() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(kinds());
    cases.extend(parameters());
    cases.extend(messages());
    cases.extend(rules());
    cases.extend(compressed::bad());
    cases
}

/// A PING with one byte of its header changed.
fn ping_with(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = ping(7).encode().to_vec();
    bytes[at] = byte;
    bytes
}

fn headers() -> Vec<Case> {
    use CloseCode::{BadMagic, FrameTooLarge, UnsupportedFeature, UnsupportedVersion};
    let part = |name, title, bytes: &[u8]| Case {
        expect: Expect::More,
        ..refused(name, title, BadMagic, bytes.to_vec())
    };
    vec![
        part("more_magic", "half of the magic", b"h"),
        part("more_header", "a header without its last byte", &head(0x02, 0, 0, 0)[..11]),
        part("more_params", "a header that announces two more bytes", &head(0x02, 0, 2, 0)),
        part("more_body", "a body without its last byte", &raw(0x10, 0, &[8, 1], b"hello")[..18]),
        refused("bad_magic", "one byte is enough to see a wrong magic", BadMagic, &b"G"[..]),
        refused("bad_magic_second", "the magic ends wrong", BadMagic, &b"hW"[..]),
        refused("bad_version_0", "version 0", UnsupportedVersion, &b"hw\x00"[..]),
        refused("bad_version_2", "version 2", UnsupportedVersion, ping_with(2, 2)),
        refused(
            "bad_flag_required",
            "a required flag that nobody knows",
            UnsupportedFeature,
            ping_with(4, 0x80),
        ),
        refused(
            "bad_flag_compressed",
            "a device compresses nothing",
            UnsupportedFeature,
            raw(Kind::Request as u8, 0x0100, &[8, 1, 16, 1], b"\x28\xb5\x2f\xfd"),
        ),
        Case {
            from: From::Node,
            ..refused(
                "bad_flag_compressed_node",
                "a compressed push to a device without the ability",
                UnsupportedFeature,
                compressed::push(compressed::GOOD),
            )
        },
        refused(
            "bad_params_length",
            "parameters of 32,769 bytes, refused at the header",
            FrameTooLarge,
            head(Kind::Request as u8, 0, 0x8001, 0),
        ),
        refused(
            "bad_body_length",
            "one byte above the limit, refused at the header",
            FrameTooLarge,
            head(Kind::Request as u8, 0, 4, 65_536 - 12 - 4 + 1),
        ),
        refused(
            "bad_body_length_max",
            "a body of 2^32 - 1 bytes, refused at the header",
            FrameTooLarge,
            head(Kind::Request as u8, 0, 4, u32::MAX),
        ),
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..refused(
                "bad_login_length",
                "a LOGIN of 4,097 bytes, refused at the header",
                FrameTooLarge,
                head(Kind::Login as u8, 0, 4097 - 12, 0),
            )
        },
    ]
}

fn kinds() -> Vec<Case> {
    use CloseCode::{UnexpectedFrame, UnknownKind};
    let from_node = |case| Case { from: From::Node, ..case };
    vec![
        refused("bad_kind", "a kind that is not assigned", UnknownKind, head(0x05, 0, 0, 0)),
        refused(
            "bad_kind_quality",
            "the kind reserved for quality reports",
            UnknownKind,
            head(0x40, 0, 0, 0),
        ),
        refused(
            "bad_kind_of_nodes",
            "a device may not send what only nodes may skip",
            UnknownKind,
            head(0xe0, 0, 0, 0),
        ),
        refused(
            "bad_direction",
            "a PONG from a device",
            UnexpectedFrame,
            head(Kind::Pong as u8, 0, 0, 0),
        ),
        refused(
            "bad_direction_body",
            "a PUSH from a device; the direction is looked at before the rest",
            UnexpectedFrame,
            raw(Kind::Push as u8, 0, &[0xff], b"hello"),
        ),
        from_node(refused(
            "bad_kind_at_device",
            "a kind of nodes that is not assigned",
            UnknownKind,
            head(0x86, 0, 0, 0),
        )),
        refused(
            "bad_direction_go_away",
            "a GO_AWAY from a device",
            UnexpectedFrame,
            head(Kind::GoAway as u8, 0, 0, 0),
        ),
        refused(
            "bad_direction_gap",
            "a GAP from a device",
            UnexpectedFrame,
            head(Kind::Gap as u8, 0, 0, 0),
        ),
        from_node(refused(
            "bad_direction_ack",
            "an ACK from a node",
            UnexpectedFrame,
            head(Kind::Ack as u8, 0, 0, 0),
        )),
        from_node(refused(
            "bad_direction_node",
            "a PING from a node",
            UnexpectedFrame,
            ping(7).encode(),
        )),
    ]
}

fn parameters() -> Vec<Case> {
    let bad = |name, title, bytes: Vec<u8>| refused(name, title, CloseCode::BadFrame, bytes);
    vec![
        bad("bad_params", "parameters that are no protobuf", raw(0x02, 0, &[0xff; 3], b"")),
        bad(
            "bad_params_cut",
            "a text that is longer than the parameters",
            raw(0x20, 0, b"\x08\x03\x12\x09lobby", b""),
        ),
        bad(
            "bad_params_type",
            "a number where a text belongs",
            raw(0x20, 0, &[0x08, 3, 0x10, 1], b""),
        ),
        bad(
            "bad_params_utf8",
            "a text that is not UTF-8",
            raw(0x20, 0, b"\x08\x03\x12\x02\xc3\x28", b""),
        ),
        bad("bad_ping_body", "a PING with a body", raw(0x02, 0, &[8, 7], b"!")),
        bad("bad_ack_body", "an ACK with a body", raw(0x30, 0, &[], b"!")),
        bad("bad_ack_type", "an ACK whose position is a number", raw(0x30, 0, &[0x08, 7], b"")),
        Case {
            from: From::Node,
            ..bad("bad_params_node", "the same from a node", raw(0x82, 0, &[0xff; 3], b""))
        },
        Case {
            from: From::Node,
            ..bad(
                "bad_params_gap",
                "a GAP whose position is cut",
                raw(0xb2, 0, &[0x08, 1, 0x20, 0x80], b""),
            )
        },
    ]
}

fn messages() -> Vec<Case> {
    let bad = |name, title, bytes: Vec<u8>| Case {
        message: true,
        ..refused(name, title, CloseCode::BadFrame, bytes)
    };
    let ping = ping(7).encode().to_vec();
    vec![
        bad("bad_message_two", "two frames in one message", [ping.clone(), ping.clone()].concat()),
        bad("bad_message_cut", "a message that ends within its frame", ping[..13].to_vec()),
        bad("bad_message_header", "a message that ends within the header", ping[..5].to_vec()),
        bad("bad_message_empty", "an empty message", Vec::new()),
    ]
}

fn rules() -> Vec<Case> {
    let bad =
        |name, title, frame: DeviceFrame| refused(name, title, CloseCode::BadFrame, frame.encode());
    let ask = |change: fn(&mut params::Request)| {
        let mut request = request();
        change(&mut request);
        DeviceFrame::Request(request, Bytes::from_static(b"hello"))
    };
    let enter = |change: fn(&mut params::Login)| {
        let mut login = login();
        change(&mut login);
        DeviceFrame::Login(login)
    };
    // A map has no order of its own, but a vector has: one entry after the other.
    let named = params::Request { request_id: 1, business: 1, ..Default::default() };
    let mut crowded = named.encode_to_vec();
    for key in 0..33 {
        let metadata = HashMap::from([(format!("k{key:02}"), String::new())]);
        let entry = params::Request { metadata, ..Default::default() };
        crowded.extend(entry.encode_to_vec());
    }
    vec![
        bad(
            "bad_login_instance",
            "LOGIN with an instance of 15 bytes",
            enter(|login| login.instance = Bytes::from_static(&[1; 15])),
        ),
        bad("bad_login_attempt", "LOGIN with attempt 0", enter(|login| login.attempt = 0)),
        bad(
            "bad_login_businesses",
            "LOGIN with 33 businesses",
            enter(|login| login.businesses = vec!["b".into(); 33]),
        ),
        bad(
            "bad_login_cursors",
            "LOGIN with 33 cursors",
            enter(|login| {
                let cursor = params::Cursor { business: "b".into(), term: 1, seq: 1 };
                login.cursors = vec![cursor; 33];
            }),
        ),
        bad("bad_request_id", "REQUEST without an id", ask(|it| it.request_id = 0)),
        bad("bad_request_method", "a method of 129 bytes", ask(|it| it.method = "m".repeat(129))),
        bad(
            "bad_request_traceparent",
            "a trace context of 129 bytes",
            ask(|it| it.traceparent = "0".repeat(129)),
        ),
        bad(
            "bad_request_metadata_bytes",
            "metadata of 4,097 bytes",
            ask(|it| it.metadata = HashMap::from([("k".into(), "v".repeat(4096))])),
        ),
        refused(
            "bad_request_metadata_entries",
            "33 entries of metadata",
            CloseCode::BadFrame,
            raw(Kind::Request as u8, 0, &crowded, b""),
        ),
        bad(
            "bad_refresh_id",
            "REFRESH without an id",
            DeviceFrame::Refresh(params::Refresh { request_id: 0 }),
        ),
        bad(
            "bad_join_id",
            "JOIN without an id",
            DeviceFrame::Join(params::Join { group: "lobby".into(), ..Default::default() }),
        ),
        bad(
            "bad_join_group",
            "a group of 1,025 bytes",
            DeviceFrame::Join(params::Join {
                request_id: 3,
                group: "g".repeat(1025),
                ..Default::default()
            }),
        ),
        bad(
            "bad_leave_id",
            "LEAVE without an id",
            DeviceFrame::Leave(params::Leave { request_id: 0, group: "lobby".into() }),
        ),
        bad(
            "bad_leave_group",
            "the same in a LEAVE",
            DeviceFrame::Leave(params::Leave { request_id: 4, group: "g".repeat(1025) }),
        ),
        bad(
            "bad_recover_group",
            "the same in a RECOVER",
            DeviceFrame::Recover(params::Recover { group: "g".repeat(1025), term: 1, seq: 1 }),
        ),
        bad(
            "bad_ack_inboxes",
            "ACK of 33 inboxes",
            DeviceFrame::Ack(params::Ack {
                inboxes: vec![params::InboxPosition { business: 1, term: 1, seq: 1 }; 33],
            }),
        ),
        bad(
            "bad_resync_nowhere",
            "RESYNC without a position",
            DeviceFrame::Resync(params::Resync { after: None }),
        ),
    ]
}
