//! What a device sends, good and bad, in every state, on every transport.

use crate::fakes::device::{Device, Got, masked};
use crate::fakes::dial::Dial;
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::codec::{self, Flags};
use hawser_proto::frame::{DeviceFrame, Kind, NodeFrame};
use hawser_proto::params;

/// A frame of any kind with parameters that are good for that kind.
fn good(kind: Kind, device: &Device) -> Vec<u8> {
    let frame = match kind {
        Kind::Login => DeviceFrame::Login(device.login_frame(APP, "d", tokens::token(APP, "d"))),
        Kind::Ping => DeviceFrame::Ping(params::Ping { nonce: 9 }),
        Kind::Refresh => DeviceFrame::Refresh(params::Refresh { request_id: 1 }),
        Kind::Bye => DeviceFrame::Bye(params::Close::default()),
        Kind::Request => {
            let request = params::Request { request_id: 1, business: 99, ..Default::default() };
            DeviceFrame::Request(request, b"body".to_vec().into())
        }
        Kind::Join => DeviceFrame::Join(params::Join {
            request_id: 1,
            group: "g".into(),
            ..Default::default()
        }),
        Kind::Leave => DeviceFrame::Leave(params::Leave { request_id: 1, group: "g".into() }),
        Kind::Ack => DeviceFrame::Ack(params::Ack::default()),
        Kind::Resync => {
            DeviceFrame::Resync(params::Resync { after: Some(params::InboxPosition::default()) })
        }
        Kind::Recover => {
            DeviceFrame::Recover(params::Recover { group: "g".into(), ..Default::default() })
        }
        node => return raw(node as u8),
    };
    frame.encode().to_vec()
}

fn raw(kind: u8) -> Vec<u8> {
    codec::encode(kind, Flags::NONE, &params::Ping::default(), &[]).to_vec()
}

/// A kind that needs an ability; until it is in force, it is not known here.
fn needs_ability(kind: Kind) -> bool {
    matches!(kind, Kind::Ack | Kind::Resync | Kind::Recover)
}

fn is_from_node(kind: Kind) -> bool {
    kind as u8 & 0x80 != 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_login_nothing_but_login_is_taken() {
    let house = House::start().await;
    for how in [Dial::Tcp, Dial::Ws, Dial::Quic] {
        for &kind in Kind::ALL.iter().filter(|&&kind| kind != Kind::Login) {
            let mut device = house.dial(how).await;
            let frame = good(kind, &device);
            device.send_raw(&frame).await;
            let code = if is_from_node(kind) {
                CloseCode::UnexpectedFrame
            } else if needs_ability(kind) {
                CloseCode::UnknownKind
            } else {
                CloseCode::LoginRequired
            };
            assert_eq!(device.closed().await, code, "{how:?} {}", kind.name());
        }
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_kinds_end_a_connection_and_ignorable_ones_do_not() {
    let house = House::start().await;
    for (kind, before, after) in [
        (0x05, CloseCode::UnknownKind, Some(CloseCode::UnknownKind)),
        // Reserved for acknowledgements.
        (0x30, CloseCode::UnknownKind, Some(CloseCode::UnknownKind)),
        (0x60, CloseCode::LoginRequired, None),
        (0x7f, CloseCode::LoginRequired, None),
        // What a device may skip is not for a node to skip.
        (0xe0, CloseCode::UnknownKind, Some(CloseCode::UnknownKind)),
        (0x86, CloseCode::UnknownKind, Some(CloseCode::UnknownKind)),
        // GO_AWAY is the node's to say.
        (0x85, CloseCode::UnexpectedFrame, Some(CloseCode::UnexpectedFrame)),
    ] {
        let mut stranger = house.dial(Dial::Tcp).await;
        stranger.send_raw(&raw(kind)).await;
        assert_eq!(stranger.closed().await, before, "{kind:#x} before login");
        let mut device = house.device("d").await;
        device.send_raw(&raw(kind)).await;
        match after {
            Some(code) => assert_eq!(device.closed().await, code, "{kind:#x} after login"),
            None => device.settle().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_login_each_kind_has_its_answer() {
    let house = House::start().await;
    for how in Dial::ALL {
        for &kind in Kind::ALL {
            let (mut device, _) = house.login(how, "d").await;
            let frame = good(kind, &device);
            device.send_raw(&frame).await;
            match kind {
                Kind::Login => assert_eq!(device.closed().await, CloseCode::LoginTwice),
                Kind::Ping => {
                    assert_eq!(device.frame().await, NodeFrame::Pong(params::Ping { nonce: 9 }));
                }
                Kind::Refresh => assert_eq!(device.refreshed().await.status, 0),
                Kind::Bye => assert_eq!(device.closed().await, CloseCode::Goodbye),
                Kind::Request => {
                    let status = device.response().await.0.status;
                    assert_eq!(status, ErrorCode::UnknownBusiness.number());
                }
                Kind::Join => {
                    assert_eq!(device.joined().await.status, ErrorCode::GroupNotFound.number());
                }
                Kind::Leave => {
                    assert_eq!(device.left().await.status, ErrorCode::NotMember.number());
                }
                Kind::Ack | Kind::Resync | Kind::Recover => {
                    assert_eq!(device.closed().await, CloseCode::UnknownKind, "{kind:?}");
                }
                _ => assert_eq!(device.closed().await, CloseCode::UnexpectedFrame, "{kind:?}"),
            }
        }
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_may_follow_login_at_once_and_are_answered_in_order() {
    let house = House::start().await;
    house.router.create_group(APP, "g", CHAT);
    for how in Dial::ALL {
        let mut device = house.dial(how).await;
        let login = good(Kind::Login, &device);
        let mut all = device.form(&login);
        for nonce in 1..=3 {
            let ping = DeviceFrame::Ping(params::Ping { nonce }).encode();
            all.extend(device.form(&ping));
        }
        let join = DeviceFrame::Join(params::Join {
            request_id: 4,
            group: "g".into(),
            ..Default::default()
        });
        all.extend(device.form(&join.encode()));
        device.send_bytes(&all).await;
        device.login_ok().await;
        for nonce in 1..=3 {
            assert_eq!(device.frame().await, NodeFrame::Pong(params::Ping { nonce }), "{how:?}");
        }
        assert_eq!(device.joined().await.status, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_the_same_however_their_bytes_arrive() {
    let house = House::start().await;
    for how in Dial::ALL {
        let mut device = house.dial(how).await;
        let mut all = device.form(&good(Kind::Login, &device));
        let ping = DeviceFrame::Ping(params::Ping { nonce: 5 }).encode();
        all.extend(device.form(&ping));
        for byte in all {
            device.send_bytes(&[byte]).await;
        }
        device.login_ok().await;
        assert_eq!(device.frame().await, NodeFrame::Pong(params::Ping { nonce: 5 }), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_login_ends_the_connection_also_when_it_comes_glued_to_the_first() {
    let house = House::start().await;
    for how in Dial::ALL {
        let mut device = house.dial(how).await;
        let login = device.form(&good(Kind::Login, &device));
        device.send_bytes(&[login.clone(), login].concat()).await;
        assert_eq!(device.closed().await, CloseCode::LoginTwice, "{how:?}");
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_headers_and_parameters_have_their_codes() {
    let house = House::start().await;
    let ping = raw(Kind::Ping as u8);
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = ping.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let garbage = codec::encode(0x02, Flags::NONE, &params::Ping::default(), &[]).to_vec();
    let mut garbage = garbage[..12].to_vec();
    garbage[7] = 2;
    garbage.extend([0xff, 0xff]);
    let body = codec::encode(0x02, Flags::NONE, &params::Ping::default(), b"x").to_vec();
    let zero =
        DeviceFrame::Join(params::Join { request_id: 0, group: "g".into(), ..Default::default() });
    for (what, frame, code) in [
        ("magic", with(0, b"GE"), CloseCode::BadMagic),
        ("version", with(2, &[2]), CloseCode::UnsupportedVersion),
        ("a required flag", with(4, &[1, 0]), CloseCode::UnsupportedFeature),
        ("parameters too long", with(6, &[0x80, 0x01]), CloseCode::FrameTooLarge),
        ("a body of 4 GiB", with(8, &[0xff; 4]), CloseCode::FrameTooLarge),
        ("parameters that are none", garbage, CloseCode::BadFrame),
        ("a body where none is", body, CloseCode::BadFrame),
        ("request id 0", zero.encode().to_vec(), CloseCode::BadFrame),
    ] {
        for how in [Dial::Tcp, Dial::Wss, Dial::Quic] {
            let (mut device, _) = house.login(how, "d").await;
            device.send_raw(&frame).await;
            assert_eq!(device.closed().await, code, "{what} on {how:?}");
        }
        // The checks of the header come before those of the state.
        let mut stranger = house.dial(Dial::Tcp).await;
        stranger.send_raw(&frame).await;
        assert_eq!(stranger.closed().await, code, "{what} before login");
    }
    // An optional flag is no harm.
    let mut device = house.device("d").await;
    device.send_raw(&with(4, &[0, 0xff])).await;
    assert!(matches!(device.frame().await, NodeFrame::Pong(_)));
    drop(device);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_small_frames_and_guests_the_limit_of_their_app() {
    let house = House::start().await;
    let mut stranger = house.dial(Dial::Tcp).await;
    let mut login = stranger.login_frame(APP, "d", tokens::token(APP, "d"));
    login.token = "x".repeat(4_096);
    stranger.send(&DeviceFrame::Login(login)).await;
    assert_eq!(stranger.closed().await, CloseCode::FrameTooLarge);
    let (mut device, ok) = house.login(Dial::Tcp, "d").await;
    let request = params::Request { request_id: 1, business: CHAT, ..Default::default() };
    let sized = |frame_bytes: usize| {
        use prost::Message as _;
        let body = vec![7; frame_bytes - 12 - request.encoded_len()];
        DeviceFrame::Request(request.clone(), body.into()).encode()
    };
    let max = ok.frame_bytes_max as usize;
    device.send_raw(&sized(max)).await;
    let (response, _) = device.response().await;
    assert_eq!(response.request_id, 1);
    device.send_raw(&sized(max + 1)).await;
    assert_eq!(device.closed().await, CloseCode::FrameTooLarge);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_messages_that_break_the_rules_are_told_apart() {
    let house = House::start().await;
    let ping = raw(Kind::Ping as u8);
    let mut unmasked = masked(0x82, &ping);
    unmasked[1] &= 0x7f;
    for how in [Dial::Ws, Dial::Wss] {
        for (what, bytes, code) in [
            ("text", masked(0x81, b"hello"), CloseCode::BadWebSocket),
            ("unmasked", unmasked.clone(), CloseCode::BadWebSocket),
            ("a reserved bit", masked(0xc2, &ping), CloseCode::BadWebSocket),
            ("an unknown operation", masked(0x83, &ping), CloseCode::BadWebSocket),
            ("a continuation of nothing", masked(0x80, &ping), CloseCode::BadWebSocket),
            ("a fragmented ping", masked(0x09, b"x"), CloseCode::BadWebSocket),
            ("a long ping", masked(0x89, &[0; 126]), CloseCode::BadWebSocket),
            ("less than a frame", masked(0x82, &ping[..5]), CloseCode::BadFrame),
            ("more than a frame", masked(0x82, &[&ping[..], b"x"].concat()), CloseCode::BadFrame),
            ("an empty message", masked(0x82, b""), CloseCode::BadFrame),
            ("above the limit", masked(0x02, &vec![0x68; 70_000]), CloseCode::FrameTooLarge),
        ] {
            let (mut device, _) = house.login(how, "d").await;
            device.send_bytes(&bytes).await;
            assert_eq!(device.closed().await, code, "{what} on {how:?}");
        }
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websocket_fragments_pings_and_closes_are_understood() {
    let house = House::start().await;
    let (mut device, _) = house.login(Dial::Ws, "d").await;
    let ping = DeviceFrame::Ping(params::Ping { nonce: 3 }).encode();
    let (a, b) = ping.split_at(7);
    let pieces = [masked(0x02, a), masked(0x89, b"are you there"), masked(0x80, b)].concat();
    device.send_bytes(&pieces).await;
    assert_eq!(device.got().await, Got::WebSocketPong(b"are you there".to_vec()));
    assert_eq!(device.frame().await, NodeFrame::Pong(params::Ping { nonce: 3 }));
    device.send_bytes(&masked(0x88, &1000u16.to_be_bytes())).await;
    assert_eq!(device.closed().await, CloseCode::Goodbye);
    // The same from one who has not logged in.
    let mut stranger = house.dial(Dial::Ws).await;
    stranger.send_bytes(&masked(0x88, &1000u16.to_be_bytes())).await;
    assert_eq!(stranger.closed().await, CloseCode::Goodbye);
    house.ends_clean().await;
}
