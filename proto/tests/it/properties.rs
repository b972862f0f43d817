//! Properties of the codec: any frame survives the wire, however it is cut.

use crate::fuzz;
use crate::vectors::Frame;
use bytes::{Bytes, BytesMut};
use hawser_proto::codec::{self, FrameError};
use hawser_proto::frame::{DeviceFrame, Kind, NodeFrame};
use hawser_proto::limits::{FRAME_BYTES_MAX, HEADER_BYTES, PARAMS_BYTES_MAX};
use hawser_proto::params;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use prost::Message as _;
use std::collections::HashMap;

fn body() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..2000).prop_map(Bytes::from)
}
fn metadata() -> impl Strategy<Value = HashMap<String, String>> {
    // At most 32 entries of at most 4 × (12 + 20) bytes: within 4 KiB.
    hash_map("\\PC{0,12}", "\\PC{0,20}", 0..=32)
}
fn text() -> impl Strategy<Value = String> {
    "\\PC{0,32}"
}
fn traceparent() -> impl Strategy<Value = String> {
    "[0-9a-f-]{0,128}"
}

fn login() -> impl Strategy<Value = params::Login> {
    let client =
        (text(), text(), text(), text()).prop_map(|(sdk, platform, network, app_version)| {
            params::Client { sdk, platform, network, app_version }
        });
    let names = (text(), text(), text(), vec(any::<u8>(), 0..=64));
    let businesses = vec(text(), 0..=32);
    let cursor = (text(), any::<u64>(), any::<u64>())
        .prop_map(|(business, term, seq)| params::Cursor { business, term, seq });
    let rest = (any::<[u8; 16]>(), 1u64.., businesses, proptest::option::of(client), any::<u32>());
    let rest = (rest, vec(cursor, 0..=32));
    (names, rest).prop_map(
        |(
            (app, device, token, ticket),
            ((instance, attempt, businesses, client, bits), cursors),
        )| {
            params::Login {
                app,
                device,
                token,
                instance: Bytes::copy_from_slice(&instance),
                attempt,
                businesses,
                client,
                abilities: bits,
                resume_ticket: ticket.into(),
                cursors,
            }
        },
    )
}

fn request() -> impl Strategy<Value = params::Request> {
    (1u64.., any::<u32>(), "[ -~]{0,128}", metadata(), traceparent(), any::<u32>()).prop_map(
        |(request_id, business, method, metadata, traceparent, deadline_ms)| params::Request {
            request_id,
            business,
            method,
            metadata,
            traceparent,
            deadline_ms,
        },
    )
}

fn access_points() -> impl Strategy<Value = Vec<params::AccessPoint>> {
    let point =
        (text(), text(), any::<u32>(), text()).prop_map(|(protocol, host, port, server_name)| {
            params::AccessPoint { protocol, host, port, server_name }
        });
    vec(point, 0..=12)
}

fn close() -> impl Strategy<Value = params::Close> {
    (any::<u32>(), text(), any::<u32>(), access_points()).prop_map(
        |(code, reason, retry_after_ms, alternatives)| params::Close {
            code,
            reason,
            retry_after_ms,
            alternatives,
        },
    )
}

fn go_away() -> impl Strategy<Value = params::GoAway> {
    (any::<u32>(), text(), access_points()).prop_map(|(deadline_ms, reason, alternatives)| {
        params::GoAway { deadline_ms, reason, alternatives }
    })
}

fn inbox_position() -> impl Strategy<Value = params::InboxPosition> {
    (any::<u32>(), any::<u64>(), any::<u64>())
        .prop_map(|(business, term, seq)| params::InboxPosition { business, term, seq })
}

fn device_frame() -> impl Strategy<Value = DeviceFrame> {
    let named = || (1u64.., text());
    prop_oneof![
        login().prop_map(DeviceFrame::Login),
        any::<u64>().prop_map(|nonce| DeviceFrame::Ping(params::Ping { nonce })),
        (1u64..).prop_map(|request_id| DeviceFrame::Refresh(params::Refresh { request_id })),
        close().prop_map(DeviceFrame::Bye),
        (request(), body()).prop_map(|(request, body)| DeviceFrame::Request(request, body)),
        (named(), any::<[u64; 2]>()).prop_map(|((request_id, group), [last_term, last_seq])| {
            DeviceFrame::Join(params::Join { request_id, group, last_term, last_seq })
        }),
        named().prop_map(|(request_id, group)| DeviceFrame::Leave(params::Leave {
            request_id,
            group
        })),
        vec(inbox_position(), 0..=32).prop_map(|inboxes| DeviceFrame::Ack(params::Ack { inboxes })),
        inbox_position()
            .prop_map(|after| DeviceFrame::Resync(params::Resync { after: Some(after) })),
        (text(), any::<u64>(), any::<u64>()).prop_map(|(group, term, seq)| {
            DeviceFrame::Recover(params::Recover { group, term, seq })
        }),
        (0x60u8..0x80).prop_map(DeviceFrame::Ignored),
    ]
}

fn login_ok() -> impl Strategy<Value = params::LoginOk> {
    let business = (text(), any::<u32>(), any::<u32>())
        .prop_map(|(name, number, status)| params::BusinessNumber { name, number, status });
    let inbox =
        (any::<u32>(), any::<[u64; 4]>(), any::<i32>()).prop_map(|(business, at, state)| {
            params::Inbox {
                business,
                tail_term: at[0],
                tail_seq: at[1],
                floor_term: at[2],
                floor_seq: at[3],
                state,
            }
        });
    let lists = (vec(business, 0..=32), vec(inbox, 0..=32));
    (text(), lists, any::<[u64; 4]>(), any::<[u32; 7]>(), vec(any::<u8>(), 0..=64)).prop_map(
        |(connection, (businesses, inboxes), long, short, ticket)| params::LoginOk {
            connection,
            epoch: long[0],
            businesses,
            heartbeat_ms: short[0],
            idle_timeout_ms: short[1],
            server_time_ms: long[1],
            frame_bytes_max: short[2],
            groups_max: short[3],
            requests_in_flight_max: short[4],
            token_refresh_at_ms: long[2],
            token_expires_at_ms: long[3],
            abilities: short[5],
            inboxes,
            resume_ticket: ticket.into(),
            reconnect_window_ms: short[6],
        },
    )
}

fn refreshed() -> impl Strategy<Value = params::Refreshed> {
    (any::<[u64; 3]>(), any::<u32>(), text(), text()).prop_map(|(long, status, message, token)| {
        params::Refreshed {
            request_id: long[0],
            status,
            message,
            resume_ticket: token.clone().into(),
            token,
            token_refresh_at_ms: long[1],
            token_expires_at_ms: long[2],
        }
    })
}

fn response() -> impl Strategy<Value = params::Response> {
    (any::<u64>(), any::<u32>(), text(), metadata()).prop_map(
        |(request_id, status, message, metadata)| params::Response {
            request_id,
            status,
            message,
            metadata,
        },
    )
}

fn joined() -> impl Strategy<Value = params::Joined> {
    let positions = (any::<[u64; 4]>(), any::<bool>());
    (any::<u64>(), text(), any::<[u32; 2]>(), text(), positions).prop_map(
        |(request_id, group, [status, business], message, (at, history))| params::Joined {
            request_id,
            group,
            status,
            message,
            business,
            tail_term: at[0],
            tail_seq: at[1],
            floor_term: at[2],
            floor_seq: at[3],
            history,
        },
    )
}

fn left() -> impl Strategy<Value = params::Left> {
    (any::<u64>(), text(), any::<u32>(), text(), any::<i32>()).prop_map(
        |(request_id, group, status, message, reason)| params::Left {
            request_id,
            group,
            status,
            message,
            reason,
        },
    )
}

fn group_push() -> impl Strategy<Value = params::GroupPush> {
    let facts = (metadata(), traceparent(), any::<[u64; 4]>());
    (vec(any::<u8>(), 0..128), any::<u32>(), text(), facts).prop_map(
        |(push_id, business, group, (metadata, traceparent, at))| params::GroupPush {
            push_id: push_id.into(),
            business,
            group,
            metadata,
            traceparent,
            term: at[0],
            seq: at[1],
            prev_term: at[2],
            prev_seq: at[3],
        },
    )
}

fn gap() -> impl Strategy<Value = params::Gap> {
    (any::<u32>(), any::<[u64; 5]>(), any::<i32>()).prop_map(|(business, at, reason)| params::Gap {
        business,
        after_term: at[0],
        after_seq: at[1],
        upto_term: at[2],
        upto_seq: at[3],
        count: at[4],
        reason,
    })
}

fn group_reset() -> impl Strategy<Value = params::GroupReset> {
    (text(), any::<u32>(), any::<[u64; 4]>()).prop_map(|(group, business, at)| params::GroupReset {
        group,
        business,
        floor_term: at[0],
        floor_seq: at[1],
        tail_term: at[2],
        tail_seq: at[3],
    })
}

fn node_frame() -> impl Strategy<Value = NodeFrame> {
    let push = (group_push(), any::<bool>(), any::<u64>());
    let push = push.prop_map(|(it, redelivered, expires_at_ms)| params::Push {
        push_id: it.push_id,
        business: it.business,
        metadata: it.metadata,
        traceparent: it.traceparent,
        term: it.term,
        seq: it.seq,
        prev_term: it.prev_term,
        prev_seq: it.prev_seq,
        redelivered,
        expires_at_ms,
    });
    let missed = (text(), any::<u32>(), any::<u64>())
        .prop_map(|(group, business, count)| params::Missed { group, business, count });
    prop_oneof![
        login_ok().prop_map(NodeFrame::LoginOk),
        any::<u64>().prop_map(|nonce| NodeFrame::Pong(params::Ping { nonce })),
        refreshed().prop_map(NodeFrame::Refreshed),
        close().prop_map(NodeFrame::Close),
        go_away().prop_map(NodeFrame::GoAway),
        (response(), body()).prop_map(|(response, body)| NodeFrame::Response(response, body)),
        joined().prop_map(NodeFrame::Joined),
        left().prop_map(NodeFrame::Left),
        (push, body()).prop_map(|(push, body)| NodeFrame::Push(push, body)),
        (group_push(), body()).prop_map(|(push, body)| NodeFrame::GroupPush(push, body)),
        gap().prop_map(NodeFrame::Gap),
        missed.prop_map(NodeFrame::Missed),
        group_reset().prop_map(NodeFrame::GroupReset),
        (0xe0u8..=0xff).prop_map(NodeFrame::Ignored),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![device_frame().prop_map(Frame::Device), node_frame().prop_map(Frame::Node)]
}

/// The parameters as their message measures itself.
fn params_len(frame: &Frame) -> usize {
    match frame {
        Frame::Device(frame) => match frame {
            DeviceFrame::Login(p) => p.encoded_len(),
            DeviceFrame::Ping(p) => p.encoded_len(),
            DeviceFrame::Refresh(p) => p.encoded_len(),
            DeviceFrame::Bye(p) => p.encoded_len(),
            DeviceFrame::Request(p, _) => p.encoded_len(),
            DeviceFrame::Join(p) => p.encoded_len(),
            DeviceFrame::Leave(p) => p.encoded_len(),
            DeviceFrame::Ack(p) => p.encoded_len(),
            DeviceFrame::Resync(p) => p.encoded_len(),
            DeviceFrame::Recover(p) => p.encoded_len(),
            DeviceFrame::Ignored(_) => 0,
        },
        Frame::Node(frame) => match frame {
            NodeFrame::LoginOk(p) => p.encoded_len(),
            NodeFrame::Pong(p) => p.encoded_len(),
            NodeFrame::Refreshed(p) => p.encoded_len(),
            NodeFrame::Close(p) => p.encoded_len(),
            NodeFrame::GoAway(p) => p.encoded_len(),
            NodeFrame::Response(p, _) => p.encoded_len(),
            NodeFrame::Joined(p) => p.encoded_len(),
            NodeFrame::Left(p) => p.encoded_len(),
            NodeFrame::Push(p, _) => p.encoded_len(),
            NodeFrame::GroupPush(p, _) => p.encoded_len(),
            NodeFrame::Gap(p) => p.encoded_len(),
            NodeFrame::Missed(p) => p.encoded_len(),
            NodeFrame::GroupReset(p) => p.encoded_len(),
            NodeFrame::Ignored(_) => 0,
        },
    }
}

fn body_len(frame: &Frame) -> usize {
    match frame {
        Frame::Device(DeviceFrame::Request(_, body))
        | Frame::Node(
            NodeFrame::Response(_, body) | NodeFrame::Push(_, body) | NodeFrame::GroupPush(_, body),
        ) => body.len(),
        _ => 0,
    }
}

proptest! {
    #[test]
    fn every_frame_survives_the_wire_at_its_exact_length(frame in frame()) {
        let bytes = frame.encode();
        let (params, body) = (params_len(&frame), body_len(&frame));
        prop_assert_eq!(bytes.len(), HEADER_BYTES + params + body);
        prop_assert_eq!(&bytes[6..8], (params as u16).to_be_bytes());
        prop_assert_eq!(&bytes[8..12], (body as u32).to_be_bytes());

        let raw = codec::decode_message(bytes.clone(), bytes.len()).unwrap();
        let again = match &frame {
            Frame::Device(_) => Frame::Device(DeviceFrame::parse(raw).unwrap()),
            Frame::Node(_) => Frame::Node(NodeFrame::parse(raw).unwrap()),
        };
        prop_assert_eq!(again, frame);
        let above = codec::decode_message(bytes.clone(), bytes.len() - 1);
        let too_large = matches!(above, Err(FrameError::TooLarge { .. }));
        prop_assert!(too_large, "one byte above the limit");
    }

    #[test]
    fn any_split_of_a_stream_gives_the_same_frames(
        frames in vec(frame(), 1..5),
        seed in any::<[u8; 8]>(),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        fuzz::stream_splits(&[&seed[..], &stream].concat());
    }

    #[test]
    fn every_prefix_of_a_frame_wants_exactly_what_is_missing(frame in frame()) {
        let bytes = frame.encode();
        for end in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..end]);
            prop_assert_eq!(codec::decode(&mut buffer, FRAME_BYTES_MAX), Ok(None));
            let missing = codec::missing(&bytes[..end], FRAME_BYTES_MAX).unwrap();
            let known = if end < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            prop_assert_eq!(end + missing, known);
        }
    }

    #[test]
    fn no_length_reserves_memory(
        kind in any::<u8>(),
        params_len in any::<u16>(),
        // Small, any, and those whose low bytes alone would pass.
        body_len in prop_oneof![
            any::<u32>(),
            Just(u32::MAX),
            0u32..70_000,
            (1u32..=255).prop_map(|high| high << 24),
        ],
        limit in prop_oneof![Just(4096usize), Just(65_536), Just(1_048_576)],
    ) {
        let head = crate::cases::head(kind, 0, params_len, body_len);
        let mut buffer = BytesMut::from(&head[..]);
        let capacity = buffer.capacity();
        let decoded = codec::decode(&mut buffer, limit);
        let missing = codec::missing(&head, limit);
        let whole = HEADER_BYTES as u64 + u64::from(params_len) + u64::from(body_len);
        let fits = whole <= limit as u64 && usize::from(params_len) <= PARAMS_BYTES_MAX;
        prop_assert_eq!(matches!(decoded, Err(FrameError::TooLarge { .. })), !fits);
        prop_assert_eq!(matches!(missing, Err(FrameError::TooLarge { .. })), !fits);
        prop_assert!(buffer.capacity() <= capacity);
        if fits && whole > HEADER_BYTES as u64 {
            prop_assert_eq!(missing, Ok(whole as usize - HEADER_BYTES));
        }
    }

    #[test]
    fn random_parameters_of_any_kind_never_panic(
        kind in prop_oneof![
            proptest::sample::select(Kind::ALL).prop_map(|kind| kind as u8),
            any::<u8>(),
        ],
        params in vec(any::<u8>(), 0..200),
        body in vec(any::<u8>(), 0..4),
    ) {
        let length = (params.len() as u16).to_be_bytes();
        fuzz::parse(&[&[kind], &length[..], &params, &body].concat());
    }
}
