//! The table of good cases: every kind of frame, and the freedoms a sender has.

use crate::compressed;
use crate::tokens;
use crate::vectors::{Case, Expect, Frame, From};
use bytes::Bytes;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::codec::{self, Flags};
use hawser_proto::frame::{DeviceFrame, Kind, NodeFrame, ability};
use hawser_proto::limits::{FRAME_BYTES_MAX_DEFAULT, LOGIN_FRAME_BYTES_MAX};
use hawser_proto::params;
use std::collections::HashMap;

/// 2027-01-15 08:00 UTC, the "now" of all vectors.
pub(crate) const NOW_MS: u64 = 1_800_000_000_000;
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn case(name: &'static str, title: &'static str, from: From, frames: Vec<Frame>) -> Case {
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
    Case {
        name,
        title,
        from,
        message: false,
        limit: FRAME_BYTES_MAX_DEFAULT,
        zstd: false,
        bytes: bytes.into(),
        expect: Expect::Frames(frames),
        canonical: true,
    }
}

fn device(name: &'static str, title: &'static str, frame: DeviceFrame) -> Case {
    case(name, title, From::Device, vec![Frame::Device(frame)])
}

pub(crate) fn node(name: &'static str, title: &'static str, frame: NodeFrame) -> Case {
    case(name, title, From::Node, vec![Frame::Node(frame)])
}

/// Bytes that our encoder does not write, but that every reader takes.
pub(crate) fn other_bytes(bytes: impl Into<Bytes>, case: Case) -> Case {
    Case { bytes: bytes.into(), canonical: false, ..case }
}

fn map(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

pub(crate) fn login() -> params::Login {
    params::Login {
        app: "demo".into(),
        device: "web-1".into(),
        token: tokens::example(),
        instance: Bytes::from_static(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        attempt: 1,
        ..Default::default()
    }
}

pub(crate) fn ping(nonce: u64) -> Frame {
    Frame::Device(DeviceFrame::Ping(params::Ping { nonce }))
}

pub(crate) fn request() -> params::Request {
    params::Request {
        request_id: 1,
        business: 1,
        method: "say".into(),
        metadata: map("room", "lobby"),
        traceparent: TRACEPARENT.into(),
        deadline_ms: 2000,
    }
}

fn business(name: &str, number: u32, status: Option<ErrorCode>) -> params::BusinessNumber {
    let status = status.map_or(0, ErrorCode::number);
    params::BusinessNumber { name: name.into(), number, status }
}

fn login_ok() -> params::LoginOk {
    params::LoginOk {
        connection: "a1/00000000deadbeef/7.3".into(),
        epoch: NOW_MS,
        businesses: vec![business("chat", 1, None)],
        heartbeat_ms: 25_000,
        idle_timeout_ms: 35_000,
        server_time_ms: NOW_MS,
        frame_bytes_max: 65_536,
        groups_max: 100,
        requests_in_flight_max: 64,
        token_refresh_at_ms: NOW_MS + 2_700_000,
        token_expires_at_ms: NOW_MS + 3_600_000,
        ..Default::default()
    }
}

/// The abilities of the release before tickets and moves.
const ABILITIES_BEFORE: u32 = ability::INBOX | ability::HISTORY;
const ABILITIES: u32 = ABILITIES_BEFORE | ability::GO_AWAY | ability::RESUME;
/// Opaque to all but the nodes that make and check it.
const TICKET: &[u8] = b"\x00\x00\x00\x01 opaque, and as long as its node likes";

fn access_point(protocol: &str, host: &str, port: u32) -> params::AccessPoint {
    let server_name = if protocol == "tcp" { String::new() } else { host.to_owned() };
    params::AccessPoint { protocol: protocol.into(), host: host.into(), port, server_name }
}

/// The newest position of the examples, a few days after the term began.
const TERM: u64 = NOW_MS - 300_000_000;

fn inbox(business: u32, tail: u64, floor: u64, state: params::InboxState) -> params::Inbox {
    params::Inbox {
        business,
        tail_term: TERM,
        tail_seq: tail,
        floor_term: TERM,
        floor_seq: floor,
        state: state.into(),
    }
}

fn position(business: u32, seq: u64) -> params::InboxPosition {
    params::InboxPosition { business, term: TERM, seq }
}

pub(crate) fn good() -> Vec<Case> {
    let mut cases = from_devices();
    cases.extend(from_nodes());
    cases.extend(freedoms());
    cases.extend(compressed::good());
    cases
}

fn from_devices() -> Vec<Case> {
    let client = params::Client {
        sdk: "my-client/1.0".into(),
        platform: "web".into(),
        network: "wifi".into(),
        app_version: "3.2".into(),
    };
    let full = params::Login {
        attempt: 300,
        businesses: vec!["chat".into(), "live".into()],
        client: Some(client),
        ..login()
    };
    let back = params::Login {
        attempt: 301,
        businesses: vec!["chat".into(), "live".into()],
        abilities: ABILITIES_BEFORE,
        cursors: vec![params::Cursor { business: "chat".into(), term: TERM, seq: 41 }],
        ..login()
    };
    let resumed = params::Login {
        token: String::new(),
        attempt: 302,
        abilities: ABILITIES,
        resume_ticket: Bytes::from_static(TICKET),
        ..login()
    };
    let both = params::Login { token: tokens::example(), attempt: 303, ..resumed.clone() };
    let join = params::Join { request_id: 3, group: "lobby".into(), ..Default::default() };
    vec![
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..device(
                "login_ticket",
                "LOGIN with a resume ticket in place of the token",
                DeviceFrame::Login(resumed),
            )
        },
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..device(
                "login_ticket_and_token",
                "LOGIN with a resume ticket, and the token for the case that it is refused",
                DeviceFrame::Login(both),
            )
        },
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..device(
                "login_cursors",
                "LOGIN of a device that has taken pushes of one business before",
                DeviceFrame::Login(back),
            )
        },
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..device(
                "login",
                "LOGIN that names two businesses and says what the device is",
                DeviceFrame::Login(full),
            )
        },
        Case {
            limit: LOGIN_FRAME_BYTES_MAX,
            ..device(
                "login_small",
                "LOGIN with what it must have, for all businesses",
                DeviceFrame::Login(login()),
            )
        },
        device("ping", "PING", DeviceFrame::Ping(params::Ping { nonce: 7 })),
        device(
            "ping_empty",
            "PING with nonce 0: no parameters at all",
            DeviceFrame::Ping(params::Ping { nonce: 0 }),
        ),
        device("refresh", "REFRESH", DeviceFrame::Refresh(params::Refresh { request_id: 2 })),
        device(
            "bye",
            "BYE",
            DeviceFrame::Bye(params::Close {
                code: CloseCode::Goodbye.number().into(),
                reason: "the app was closed".into(),
                ..Default::default()
            }),
        ),
        device(
            "request",
            "REQUEST with metadata, a deadline and a body",
            DeviceFrame::Request(request(), Bytes::from_static(b"hello")),
        ),
        device(
            "request_small",
            "REQUEST with what it must have, without a body",
            DeviceFrame::Request(
                params::Request { request_id: u64::MAX, business: 1, ..Default::default() },
                Bytes::new(),
            ),
        ),
        device("join", "JOIN", DeviceFrame::Join(join.clone())),
        device(
            "join_again",
            "JOIN of a history group after a new login",
            DeviceFrame::Join(params::Join { last_term: TERM, last_seq: 7, ..join }),
        ),
        device(
            "leave",
            "LEAVE",
            DeviceFrame::Leave(params::Leave { request_id: 4, group: "lobby".into() }),
        ),
        device(
            "ack",
            "ACK of two inboxes at once",
            DeviceFrame::Ack(params::Ack { inboxes: vec![position(1, 43), position(2, 7)] }),
        ),
        device("ack_empty", "ACK of nothing", DeviceFrame::Ack(params::Ack::default())),
        device(
            "resync",
            "RESYNC",
            DeviceFrame::Resync(params::Resync { after: Some(position(1, 41)) }),
        ),
        device(
            "resync_start",
            "RESYNC from the very beginning",
            DeviceFrame::Resync(params::Resync {
                after: Some(params::InboxPosition { business: 1, term: 0, seq: 0 }),
            }),
        ),
        device(
            "recover",
            "RECOVER",
            DeviceFrame::Recover(params::Recover { group: "lobby".into(), term: TERM, seq: 7 }),
        ),
    ]
}

fn from_nodes() -> Vec<Case> {
    let mut two = login_ok();
    two.businesses.push(business("live", 0, Some(ErrorCode::PermissionDenied)));
    let joined = params::Joined { request_id: 3, group: "lobby".into(), ..Default::default() };
    let left = params::Left { group: "lobby".into(), ..Default::default() };
    vec![
        node("login_ok", "LOGIN_OK with one business", NodeFrame::LoginOk(login_ok())),
        node(
            "login_ok_partly",
            "LOGIN_OK with a business that the token does not allow",
            NodeFrame::LoginOk(two),
        ),
        node(
            "login_ok_inboxes",
            "LOGIN_OK with stored pushes that wait, and a store that went back in time",
            NodeFrame::LoginOk(params::LoginOk {
                abilities: ABILITIES_BEFORE,
                businesses: vec![business("chat", 1, None), business("live", 2, None)],
                inboxes: vec![
                    inbox(1, 43, 41, params::InboxState::Unspecified),
                    inbox(2, 7, 7, params::InboxState::TermChanged),
                ],
                ..login_ok()
            }),
        ),
        node(
            "login_ok_refused",
            "LOGIN_OK that does not believe the device's cursor",
            NodeFrame::LoginOk(params::LoginOk {
                abilities: ABILITIES_BEFORE,
                inboxes: vec![inbox(1, 43, 40, params::InboxState::CursorRefused)],
                ..login_ok()
            }),
        ),
        node(
            "login_ok_ticket",
            "LOGIN_OK with a resume ticket, and how long to spread the way back",
            NodeFrame::LoginOk(params::LoginOk {
                abilities: ABILITIES,
                resume_ticket: Bytes::from_static(TICKET),
                reconnect_window_ms: 15_000,
                ..login_ok()
            }),
        ),
        node("pong", "PONG", NodeFrame::Pong(params::Ping { nonce: 7 })),
        node(
            "refreshed",
            "REFRESHED with a new token",
            NodeFrame::Refreshed(params::Refreshed {
                request_id: 2,
                token: tokens::example(),
                token_refresh_at_ms: NOW_MS + 2_700_000,
                token_expires_at_ms: NOW_MS + 3_600_000,
                ..Default::default()
            }),
        ),
        node(
            "refreshed_revoked",
            "REFRESHED that says no",
            NodeFrame::Refreshed(params::Refreshed {
                request_id: 2,
                status: ErrorCode::Revoked.number(),
                message: "the device's tokens were revoked".into(),
                ..Default::default()
            }),
        ),
        node(
            "close",
            "CLOSE with a time to come back",
            NodeFrame::close(CloseCode::Overloaded, "too many logins", 1500),
        ),
        node(
            "close_alternatives",
            "CLOSE of a node that is full, and where to go instead",
            NodeFrame::Close(params::Close {
                code: CloseCode::NodeFull.number().into(),
                reason: "full".into(),
                alternatives: vec![access_point("tls", "a2.example.com", 7002)],
                ..Default::default()
            }),
        ),
        node(
            "go_away",
            "GO_AWAY: half a minute to be elsewhere, and where",
            NodeFrame::GoAway(params::GoAway {
                deadline_ms: 30_000,
                reason: "an upgrade".into(),
                alternatives: vec![
                    access_point("quic", "a2.example.com", 7003),
                    access_point("tcp", "10.0.0.3", 7001),
                ],
            }),
        ),
        node(
            "go_away_anywhere",
            "GO_AWAY that names no place",
            NodeFrame::GoAway(params::GoAway { deadline_ms: 30_000, ..Default::default() }),
        ),
        node(
            "response",
            "RESPONSE with metadata and a body",
            NodeFrame::Response(
                params::Response {
                    request_id: 1,
                    metadata: map("seen-by", "3"),
                    ..Default::default()
                },
                Bytes::from_static(b"hello yourself"),
            ),
        ),
        node(
            "response_error",
            "RESPONSE of a request that the pool had no room for",
            NodeFrame::Response(
                params::Response {
                    request_id: 1,
                    status: ErrorCode::Overloaded.number(),
                    message: "the business is busy".into(),
                    ..Default::default()
                },
                Bytes::new(),
            ),
        ),
        node(
            "joined",
            "JOINED",
            NodeFrame::Joined(params::Joined { business: 1, ..joined.clone() }),
        ),
        node(
            "joined_history",
            "JOINED of a history group",
            NodeFrame::Joined(params::Joined {
                business: 1,
                tail_term: TERM,
                tail_seq: 9,
                floor_term: TERM,
                floor_seq: 2,
                history: true,
                ..joined.clone()
            }),
        ),
        node(
            "joined_not",
            "JOINED that says no",
            NodeFrame::Joined(params::Joined {
                status: ErrorCode::GroupNotFound.number(),
                message: "there is no such group".into(),
                ..joined
            }),
        ),
        node(
            "left",
            "LEFT, the answer to LEAVE",
            NodeFrame::Left(params::Left {
                request_id: 4,
                reason: params::LeftReason::Asked.into(),
                ..left.clone()
            }),
        ),
        node(
            "left_kicked",
            "LEFT that nobody asked for",
            NodeFrame::Left(params::Left {
                message: "spam".into(),
                reason: params::LeftReason::Kicked.into(),
                ..left
            }),
        ),
        node(
            "push",
            "PUSH",
            NodeFrame::Push(
                params::Push {
                    push_id: Bytes::from_static(b"order-17"),
                    business: 1,
                    metadata: map("type", "text"),
                    ..Default::default()
                },
                Bytes::from_static(b"your order is on its way"),
            ),
        ),
        node(
            "push_stored",
            "PUSH that was stored: its position, and the one before it",
            NodeFrame::Push(
                params::Push {
                    push_id: Bytes::from_static(b"order-17"),
                    business: 1,
                    term: TERM,
                    seq: 42,
                    prev_term: TERM,
                    prev_seq: 41,
                    redelivered: true,
                    expires_at_ms: NOW_MS + 3_600_000,
                    ..Default::default()
                },
                Bytes::from_static(b"your order is on its way"),
            ),
        ),
        node(
            "push_term",
            "PUSH of a new term: the store came back without the position 42",
            NodeFrame::Push(
                params::Push {
                    push_id: Bytes::from_static(b"order-18"),
                    business: 1,
                    term: NOW_MS,
                    seq: 1,
                    prev_term: TERM,
                    prev_seq: 41,
                    ..Default::default()
                },
                Bytes::from_static(b"your order is here"),
            ),
        ),
        node(
            "gap",
            "GAP: the inbox was full",
            NodeFrame::Gap(params::Gap {
                business: 1,
                after_term: TERM,
                after_seq: 41,
                upto_term: TERM,
                upto_seq: 50,
                count: 9,
                reason: params::GapReason::Overflow.into(),
            }),
        ),
        node(
            "gap_nothing",
            "GAP of which nothing is known to be lost: to a device that has lost its cursor",
            NodeFrame::Gap(params::Gap {
                business: 1,
                upto_term: TERM,
                upto_seq: 41,
                ..Default::default()
            }),
        ),
        node(
            "missed",
            "MISSED: the link was slower than a live group",
            NodeFrame::Missed(params::Missed { group: "lobby".into(), business: 1, count: 12 }),
        ),
        node(
            "group_reset",
            "GROUP_RESET: the device was away for longer than the history",
            NodeFrame::GroupReset(params::GroupReset {
                group: "lobby".into(),
                business: 1,
                floor_term: TERM,
                floor_seq: 100,
                tail_term: TERM,
                tail_seq: 1100,
            }),
        ),
        node(
            "group_push_history",
            "GROUP_PUSH of a history group",
            NodeFrame::GroupPush(
                params::GroupPush {
                    push_id: Bytes::from_static(&[0xf0, 0x0d]),
                    business: 1,
                    group: "lobby".into(),
                    term: TERM,
                    seq: 8,
                    prev_term: TERM,
                    prev_seq: 7,
                    ..Default::default()
                },
                Bytes::from_static("grüß dich".as_bytes()),
            ),
        ),
        node(
            "group_push",
            "GROUP_PUSH, the same bytes for every member",
            NodeFrame::GroupPush(
                params::GroupPush {
                    push_id: Bytes::from_static(&[0xf0, 0x0d]),
                    business: 1,
                    group: "lobby".into(),
                    ..Default::default()
                },
                Bytes::from_static("grüß dich".as_bytes()),
            ),
        ),
    ]
}

/// What a sender may do though ours does not, and several frames at once.
fn freedoms() -> Vec<Case> {
    let ping = || ping(7);
    let again = |name, title| case(name, title, From::Device, vec![ping()]);
    let fields = |bytes: &[u8]| raw(Kind::Ping as u8, 0, bytes, b"");
    let glued = vec![
        ping(),
        Frame::Device(DeviceFrame::Request(request(), Bytes::from_static(b"hello"))),
        ping(),
    ];
    vec![
        case("stream_of_three", "three frames glued together", From::Device, glued),
        Case { message: true, ..again("message", "one WebSocket message that holds one frame") },
        other_bytes(
            raw(Kind::Ping as u8, 0x00ff, &[0x08, 7], b""),
            again("flags_optional", "optional flags that nobody knows yet are ignored"),
        ),
        other_bytes(
            fields(&[0x82, 0x04, 2, b'h', b'i', 0x08, 7, 0xa8, 0x06, 0x2a]),
            again(
                "fields_unknown",
                "unknown fields, here the private ones 64 and 101, are skipped",
            ),
        ),
        other_bytes(
            fields(&[0x08, 1, 0x08, 0x87, 0x00]),
            again(
                "fields_repeated",
                "the last of a repeated field wins, and a varint may be longer than it must",
            ),
        ),
        other_bytes(
            raw(0x6a, 0, &[1, 2, 3], b"whatever"),
            case(
                "skipped_from_device",
                "an ignorable kind of a later release is skipped, parameters and body included",
                From::Device,
                vec![Frame::Device(DeviceFrame::Ignored(0x6a))],
            ),
        ),
        other_bytes(
            raw(0xe0, 0, &[], b"whatever"),
            case(
                "skipped_from_node",
                "the same in the other direction",
                From::Node,
                vec![Frame::Node(NodeFrame::Ignored(0xe0))],
            ),
        ),
        other_bytes(
            raw(Kind::Pong as u8, 0, &[0x08, 7], b"odd"),
            case(
                "pong_with_body",
                "a body on a node's frame that has none is ignored",
                From::Node,
                vec![Frame::Node(NodeFrame::Pong(params::Ping { nonce: 7 }))],
            ),
        ),
    ]
}

/// Bytes of a frame, whatever they mean.
pub(crate) fn raw(kind: u8, flags: u16, params: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = head(kind, flags, params.len() as u16, body.len() as u32);
    out.extend_from_slice(params);
    out.extend_from_slice(body);
    out
}

/// A header alone, whatever it claims.
pub(crate) fn head(kind: u8, flags: u16, params_len: u16, body_len: u32) -> Vec<u8> {
    let mut out = codec::encode(kind, Flags(flags), &params::Ping::default(), b"").to_vec();
    out[6..8].copy_from_slice(&params_len.to_be_bytes());
    out[8..12].copy_from_slice(&body_len.to_be_bytes());
    out
}
