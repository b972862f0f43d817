//! Everything that is refused, with its published code; nothing reaches a node.

use crate::kit::control::CHAT;
use crate::kit::node::FakeNode;
use crate::kit::{Client, House, by, code, key_text, say, to_group, to_many, to_one, within};
use hawser_chassis::grpc::{ShowBearer, channel};
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{ControlUp, DeliverUp, Hello};
use hawser_proto::rpc::push::{
    BatchUnicastRequest, BroadcastRequest, Class, CreateGroupRequest, DeleteGroupRequest,
    DescribeDeviceRequest, DescribeGroupRequest, DisconnectRequest, InboxRequest,
    ListGroupsRequest, MembershipRequest, Message, PresenceRequest, StoreOptions, Target,
};
use std::collections::HashMap;
use tonic::{Code, Request, Status};

fn with<T>(header: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(header) = header {
        request.metadata_mut().insert("authorization", header.parse().expect("a header value"));
    }
    request
}

fn refused<T: std::fmt::Debug>(call: Result<T, Status>) -> Option<String> {
    call.is_err().then(|| code(call))
}

/// Every call of the API, named by the scope it needs, with this header.
async fn every_call(
    client: &mut Client,
    header: Option<&str>,
) -> Vec<(&'static str, Option<String>)> {
    let group = || "room".to_owned();
    let stream = || tokio_stream::iter([to_many(&["a"])]);
    let member = || MembershipRequest { group: group(), ..Default::default() };
    let broadcast = || BroadcastRequest { message: say("x"), ..Default::default() };
    let device = || "a".to_owned();
    let inbox = || InboxRequest { device: device() };
    let end = || DisconnectRequest { device: device(), ..Default::default() };
    vec![
        ("push", refused(client.unicast(with(header, to_one("a"))).await)),
        ("push", refused(client.batch_unicast(with(header, to_many(&["a"]))).await)),
        ("push", refused(client.stream_unicast(with(header, stream())).await)),
        ("push", refused(client.multicast(with(header, to_group("room"))).await)),
        ("push", refused(client.broadcast(with(header, broadcast())).await)),
        (
            "group",
            refused(
                client
                    .create_group(with(
                        header,
                        CreateGroupRequest { group: group(), history: None },
                    ))
                    .await,
            ),
        ),
        (
            "group",
            refused(
                client.describe_group(with(header, DescribeGroupRequest { group: group() })).await,
            ),
        ),
        ("group", refused(client.list_groups(with(header, ListGroupsRequest::default())).await)),
        ("group", refused(client.join_group(with(header, member())).await)),
        ("group", refused(client.leave_group(with(header, member())).await)),
        ("group", refused(client.kick_from_group(with(header, member())).await)),
        (
            "group",
            refused(client.delete_group(with(header, DeleteGroupRequest { group: group() })).await),
        ),
        (
            "presence",
            refused(
                client
                    .get_presence(with(header, PresenceRequest { devices: vec![device()] }))
                    .await,
            ),
        ),
        (
            "presence",
            refused(
                client
                    .describe_device(with(header, DescribeDeviceRequest { device: device() }))
                    .await,
            ),
        ),
        ("presence", refused(client.describe_inbox(with(header, inbox())).await)),
        ("push", refused(client.purge_inbox(with(header, inbox())).await)),
        ("admin", refused(client.disconnect(with(header, end())).await)),
    ]
}

#[tokio::test]
async fn without_a_good_key_no_call_is_served() {
    let house = House::new().await;
    let mut client = house.client().await;
    let good = key_text("demo-chat");
    let headers = [
        (None, "unauthenticated"),
        (Some("Bearer ".to_owned()), "unauthenticated"),
        (Some(good.clone()), "unauthenticated"),
        (Some(format!("Basic {good}")), "unauthenticated"),
        (Some(format!("Bearer {good}x")), "unauthenticated"),
        (Some("Bearer hbk_no-such-key".to_owned()), "unauthenticated"),
        (Some(format!("Bearer {}", key_text("demo-chat-expired"))), "unauthenticated"),
        (Some(format!("Bearer {}", key_text("off-chat"))), "disabled"),
        (Some(format!("Bearer {}", key_text("demo-dark"))), "disabled"),
    ];
    for (header, expected) in headers {
        for (call, (_, code)) in every_call(&mut client, header.as_deref()).await.iter().enumerate()
        {
            assert_eq!(code.as_deref(), Some(expected), "call {call} with {header:?}");
        }
    }
}

#[tokio::test]
async fn a_key_reaches_its_own_scope_and_no_other() {
    let house = House::new().await;
    let mut client = house.client().await;
    crate::kit::create_group(&mut client, "demo-chat", "room").await;
    for scope in ["push", "group", "presence", "admin"] {
        let header = format!("Bearer {}", key_text(&format!("demo-chat-{scope}")));
        for (needs, code) in every_call(&mut client, Some(&header)).await {
            let denied = code.as_deref() == Some("permission_denied");
            assert_eq!(denied, needs != scope, "{scope} at a call of {needs}: {code:?}");
        }
    }
}

#[tokio::test]
async fn malformed_pushes_are_refused_before_anything_is_sent() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let metadata = |entries: usize, bytes: usize| -> HashMap<String, String> {
        (0..entries).map(|n| (format!("{n:04}"), "v".repeat(bytes))).collect()
    };
    let message = |metadata| Some(Message { metadata, ..Default::default() });
    let large = Some(Message { body: vec![0; 64 * 1024].into(), ..Default::default() });
    let target = |device: &str| Target {
        device: device.into(),
        message: say("x"),
        push_id: bytes::Bytes::new(),
    };
    let long = "x".repeat(129);
    let many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let base = || to_many(&["a"]);
    let cases = [
        ("bad id after a good one", "invalid_argument", to_many(&["a", "a\u{7}"])),
        ("empty id", "invalid_argument", to_many(&["a", ""])),
        ("long id", "invalid_argument", to_many(&["a", &long])),
        ("no message", "invalid_argument", BatchUnicastRequest { message: None, ..base() }),
        ("unknown class", "invalid_argument", BatchUnicastRequest { class: 9, ..base() }),
        (
            "options of a push that is not stored",
            "invalid_argument",
            BatchUnicastRequest { store: Some(StoreOptions::default()), ..base() },
        ),
        ("large body", "too_large", BatchUnicastRequest { message: large.clone(), ..base() }),
        (
            "many entries",
            "too_large",
            BatchUnicastRequest { message: message(metadata(33, 1)), ..base() },
        ),
        (
            "much metadata",
            "too_large",
            BatchUnicastRequest { message: message(metadata(4, 1_100)), ..base() },
        ),
        (
            "long push id",
            "invalid_argument",
            BatchUnicastRequest { push_id: vec![1; 129].into(), ..base() },
        ),
        (
            "long trace context",
            "invalid_argument",
            BatchUnicastRequest {
                message: Some(Message { traceparent: "0".repeat(129), ..Default::default() }),
                ..base()
            },
        ),
        ("many targets", "too_large", BatchUnicastRequest { devices: many, ..base() }),
        (
            "both forms",
            "invalid_argument",
            BatchUnicastRequest { targets: vec![target("a")], ..base() },
        ),
        (
            "one body missing",
            "invalid_argument",
            BatchUnicastRequest {
                targets: vec![target("a"), Target { message: None, ..target("a") }],
                ..Default::default()
            },
        ),
        (
            "one body too large",
            "too_large",
            BatchUnicastRequest {
                targets: vec![target("a"), Target { message: large, ..target("a") }],
                ..Default::default()
            },
        ),
    ];
    for (what, expected, request) in cases {
        // What is wrong with a push is as wrong with one that is to be stored.
        if request.class == 0 && request.store.is_none() {
            let stored = BatchUnicastRequest { class: Class::Stored.into(), ..request.clone() };
            let refused = client.batch_unicast(by("demo-chat", stored)).await;
            assert_eq!(code(refused), expected, "{what}, stored");
        }
        assert_eq!(code(client.batch_unicast(by("demo-chat", request)).await), expected, "{what}");
    }
    let inbox = InboxRequest { device: "a".to_owned() };
    let inbox = client.describe_inbox(by("demo-chat", inbox)).await.unwrap().into_inner();
    assert_eq!((inbox.entries, inbox.tail_term), (0, 0), "nothing was stored");
    assert_eq!(code(client.unicast(by("demo-chat", to_one("\u{0}"))).await), "invalid_argument");
    assert_eq!(code(client.multicast(by("demo-chat", to_group(""))).await), "invalid_argument");
    let huge = Some(Message { body: vec![0; 5 << 20].into(), ..Default::default() });
    let request = BatchUnicastRequest { message: huge, ..base() };
    assert_eq!(code(client.batch_unicast(by("demo-chat", request)).await), "too_large");

    // The first thing the node sees of all this is the push that was good.
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (_, delivery) = within(async { tokio::join!(call, node.deliver(1)) }).await;
    assert_eq!(delivery.id, 0, "nothing was sent before");
}

#[tokio::test]
async fn an_app_may_allow_larger_frames() {
    let house = House::new().await;
    let mut client = house.client().await;
    house.control.change(|_| {});
    let revision = house.control.change(|all| all.apps[0].frame_bytes_max = 1 << 20);
    within(house.router.catalogue(revision)).await;
    let message =
        |bytes: usize| Some(Message { body: vec![0; bytes].into(), ..Default::default() });
    let large = BatchUnicastRequest { message: message(1_000_000), ..to_many(&["a"]) };
    client.batch_unicast(by("demo-chat", large)).await.unwrap();
    let larger = BatchUnicastRequest { message: message(1 << 20), ..to_many(&["a"]) };
    assert_eq!(code(client.batch_unicast(by("demo-chat", larger)).await), "too_large");
}

#[tokio::test]
async fn long_lists_are_refused_in_every_call_that_takes_one() {
    let house = House::new().await;
    let mut client = house.client().await;
    crate::kit::create_group(&mut client, "demo-chat", "room").await;
    let devices: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let presence = PresenceRequest { devices: devices.clone() };
    assert_eq!(code(client.get_presence(by("demo-chat", presence)).await), "too_large");
    let group = "room".to_owned();
    let join = MembershipRequest { group, devices, ..Default::default() };
    assert_eq!(code(client.join_group(by("demo-chat", join)).await), "too_large");
    let presence = PresenceRequest { devices: vec!["a".to_owned(), String::new()] };
    assert_eq!(code(client.get_presence(by("demo-chat", presence)).await), "invalid_argument");
}

#[tokio::test]
async fn the_node_port_asks_for_the_cluster_secret_and_a_hello() {
    let house = House::new().await;
    let channel = || channel(&house.internal()).unwrap();
    let hello = |node: &str| Some(Hello { node: node.to_owned(), boot: 1, ..Default::default() });
    let up = |hello| tokio_stream::iter([ControlUp { hello, items: Vec::new() }]);
    let wrong = ShowBearer::new(&Secret::new("wrong")).unwrap();
    let refused = NodeClient::with_interceptor(channel(), wrong).control(up(hello("a"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let refused = NodeClient::new(channel()).control(up(hello("a"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);

    let good = ShowBearer::new(&Secret::new(crate::kit::SECRET)).unwrap();
    let mut client = NodeClient::with_interceptor(channel(), good);
    for bad in [None, hello(""), hello("Not A Name")] {
        let refused = client.control(up(bad.clone())).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        let up = tokio_stream::iter([DeliverUp { hello: bad, ..Default::default() }]);
        assert_eq!(client.deliver(up).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let nothing = tokio_stream::iter(Vec::<ControlUp>::new());
    assert_eq!(client.control(nothing).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_is_no_protobuf_or_no_method_has_a_published_code_too() {
    let house = House::new().await;
    let channel = channel(&format!("http://{}", house.router.push_addr())).unwrap();
    // The bytes of another message: `device` would have to be text.
    let mut client = tonic::client::Grpc::new(channel);
    let mut ask = async |path: &'static str| {
        client.ready().await.expect("the router listens");
        let codec = tonic_prost::ProstCodec::<Message, Message>::default();
        let body = Message { body: vec![0xff, 0xfe].into(), ..Default::default() };
        client.unary(by("demo-chat", body), path.parse().expect("a path"), codec).await
    };
    assert_eq!(code(ask("/hawser.push.v1.Push/Unicast").await), "invalid_argument");
    assert_eq!(code(ask("/hawser.push.v1.Push/NoSuchCall").await), "unsupported");
}
