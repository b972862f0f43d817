//! What operators and their tools see: health, reflection, metrics, a shutdown.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, WRITTEN};
use crate::kit::{House, PATIENCE, by, to_one, within};
use hawser_chassis::grpc::channel;
use hawser_proto::rpc::push::Outcome;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[tokio::test]
async fn health_says_that_pushes_are_served() {
    let house = House::new().await;
    let channel = channel(&format!("http://{}", house.router.push_addr())).unwrap();
    let request = HealthCheckRequest { service: "hawser.push.v1.Push".to_owned() };
    let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn reflection_tells_of_the_public_services_alone() {
    let house = House::new().await;
    let channel = channel(&format!("http://{}", house.router.push_addr())).unwrap();
    let ask = |what| ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("hawser.push.v1.UnicastRequest".to_owned())),
        ask(MessageRequest::FileContainingSymbol("hawser.node.v1.Hello".to_owned())),
    ];
    let mut client = ServerReflectionClient::new(channel);
    let call = client.server_reflection_info(tokio_stream::iter(requests));
    let mut answers = within(call).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = first else { panic!("{first:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["hawser.push.v1.Push", "hawser.business.v1.Business", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("node") || name.contains("control")));
    let second = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(second, Some(MessageResponse::FileDescriptorResponse(_))));
    assert!(!matches!(
        answers.message().await.map(|answer| answer.and_then(|it| it.message_response)),
        Ok(Some(MessageResponse::FileDescriptorResponse(_)))
    ));
}

#[tokio::test]
async fn a_push_in_flight_gets_its_outcome_before_the_router_ends() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let call = tokio::spawn(async move { client.unicast(by("demo-chat", to_one("a"))).await });
    let delivery = node.delivery().await;
    let ending = tokio::spawn(house.router.shutdown(PATIENCE));
    let report = hawser_proto::rpc::node::DeliveryReport {
        id: delivery.id,
        outcomes: vec![WRITTEN],
        done: true,
        ..Default::default()
    };
    node.report(report).await;
    let answer = within(call).await.unwrap().unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Written);
    while node.word().await.is_some() {}
    drop(node);
    assert!(within(ending).await.unwrap(), "everything ended in time");
}

#[tokio::test]
async fn a_connection_that_never_speaks_is_ended_and_makes_room() {
    let house = House::with(|config| {
        config.push_connections_max = 1;
        config.push_preface_timeout = Duration::from_millis(500);
    })
    .await;
    let mut silent = TcpStream::connect(house.router.push_addr()).await.unwrap();
    let mut slow = TcpStream::connect(house.router.push_addr()).await.unwrap();
    slow.write_all(b"PRI * HTTP/2").await.unwrap();
    let started = Instant::now();
    let connecting = tokio::spawn(async move {
        let mut client = house.client().await;
        let done = client.unicast(by("demo-chat", to_one("nobody"))).await;
        (started.elapsed(), done)
    });
    for stream in [&mut silent, &mut slow] {
        let mut said = Vec::new();
        let _ = within(stream.read_to_end(&mut said)).await;
    }
    let (waited, done) = within(connecting).await.unwrap();
    done.unwrap();
    assert!(waited >= Duration::from_millis(400), "there was one place");
}

#[tokio::test]
async fn metrics_move() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (_, _) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
    client.unicast(by("demo-chat", to_one("nobody"))).await.unwrap();
    let _ = client.unicast(by("demo-chat", to_one(""))).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&house.registry.gather()).unwrap();
    for line in [
        "hawser_router_binds_total{outcome=\"ok\"} 1",
        "hawser_router_pushes_total{class=\"volatile\",outcome=\"written\"} 1",
        "hawser_router_pushes_total{class=\"volatile\",outcome=\"offline\"} 1",
        "hawser_router_refusals_total{code=\"invalid_argument\"} 1",
        "hawser_router_push_seconds_count{call=\"unicast\"} 3",
        "hawser_router_catalogue_revision 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
