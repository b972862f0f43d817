//! Routers that do not do everything.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, Session, bind};
use crate::kit::{House, by, code, create_group, to_group, to_one};
use hawser_chassis::grpc::channel;
use hawser_proto::rpc::node::answer::Status as Answered;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::push::{InboxRequest, PresenceRequest};
use hawser_router::Functions;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn house(functions: Functions) -> House {
    House::with(move |config| config.functions = functions).await
}

async fn is_healthy(house: &House, service: &str) -> bool {
    let channel = channel(&format!("http://{}", house.router.push_addr())).unwrap();
    let request = HealthCheckRequest { service: service.to_owned() };
    let checked = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    checked.status() == ServingStatus::Serving
}

const PUSH: &str = "hawser.push.v1.Push";
const STORED: &str = "hawser.push.v1.Push.stored";
const PRESENCE: &str = "hawser.push.v1.Push.presence";
const INBOX: &str = "hawser.push.v1.Push.inbox";

fn presence() -> PresenceRequest {
    PresenceRequest { devices: vec!["a".to_owned()] }
}

fn inbox() -> InboxRequest {
    InboxRequest { device: "a".to_owned() }
}

#[tokio::test]
async fn a_router_for_pushes_refuses_logins_presence_and_inboxes() {
    let house = house(Functions::PUSH).await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.welcome.functions, Functions::PUSH.bits());
    assert_eq!(code(client.get_presence(by("demo-chat", presence())).await), "not_served_here");
    assert_eq!(code(client.describe_inbox(by("demo-chat", inbox())).await), "not_served_here");
    assert_eq!(code(client.purge_inbox(by("demo-chat", inbox())).await), "not_served_here");
    let refused = node.try_bind(bind("a", 1, 1, &[CHAT])).await;
    assert_eq!(refused.0, Status::Unavailable as i32);
    let session = Session { device: "a".to_owned(), slot: 1, epoch: 5, attempt: 1 };
    assert_eq!(node.pull(&session, CHAT, (0, 0)).await.status(), Answered::Unavailable);
    create_group(&mut client, "demo-chat", "room").await;
    assert_eq!(node.join("room", 1).await.status, 0, "reports go to every router");
    client.unicast(by("demo-chat", to_one("a"))).await.unwrap();
    let health = [PUSH, STORED, PRESENCE, INBOX].map(|name| is_healthy(&house, name));
    let health = futures_util::future::join_all(health).await;
    assert_eq!(health, [true, true, false, false]);
}

#[tokio::test]
async fn a_router_for_logins_refuses_pushes_and_groups() {
    let house = house(Functions::LOGINS).await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    client.get_presence(by("demo-chat", presence())).await.unwrap();
    assert_eq!(code(client.unicast(by("demo-chat", to_one("a"))).await), "not_served_here");
    assert_eq!(code(client.multicast(by("demo-chat", to_group("g"))).await), "not_served_here");
    assert_eq!(code(client.describe_inbox(by("demo-chat", inbox())).await), "not_served_here");
    let health = [PUSH, STORED, PRESENCE, INBOX].map(|name| is_healthy(&house, name));
    let health = futures_util::future::join_all(health).await;
    assert_eq!(health, [false, false, true, false]);
}

#[tokio::test]
async fn a_router_for_inboxes_answers_nodes_and_looks_at_inboxes() {
    let house = house(Functions::INBOX).await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    client.describe_inbox(by("demo-chat", inbox())).await.unwrap();
    let session = Session { device: "a".to_owned(), slot: 1, epoch: 5, attempt: 1 };
    assert_eq!(node.pull(&session, CHAT, (0, 0)).await.status(), Answered::Forgotten);
    assert_eq!(code(client.get_presence(by("demo-chat", presence())).await), "not_served_here");
    let health = [PUSH, STORED, PRESENCE, INBOX].map(|name| is_healthy(&house, name));
    let health = futures_util::future::join_all(health).await;
    assert_eq!(health, [false, false, false, true]);
}
