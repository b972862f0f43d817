//! What a restart keeps: epochs, attempts and groups; and how routes come back.

use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, OK, WRITTEN, announcement, bind};
use crate::kit::{House, by, code, create_group, to_group, to_one, within};
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::push::{DeleteGroupRequest, Outcome};

#[tokio::test]
async fn a_restart_keeps_epochs_attempts_and_groups_and_nodes_bring_back_the_routes() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    create_group(&mut client, "demo-chat", "short-lived").await;
    let delete = DeleteGroupRequest { group: "short-lived".to_owned() };
    client.delete_group(by("demo-chat", delete)).await.unwrap();
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 1, &[CHAT]).await;
    let (_, ended) = node.try_bind(bind("b", 2, 5, &[CHAT])).await;
    node.unbind(&ended).await;
    node.bind("c", 3, &[CHAT]).await;

    let house = house.restart().await;
    let mut client = house.client().await;
    let answer = client.unicast(by("demo-chat", to_one("a"))).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Unknown, "nobody has told of it yet");
    let answer = client.unicast(by("demo-chat", to_one("b"))).await.unwrap().into_inner();
    assert_eq!(answer.outcome(), Outcome::Offline, "it had ended before");
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.try_bind(announcement(&session, &[CHAT])).await.0, OK);
    let call = client.unicast(by("demo-chat", to_one("a")));
    let (answer, delivery) = within(async { tokio::join!(call, node.deliver(WRITTEN)) }).await;
    assert_eq!(answer.unwrap().into_inner().outcome(), Outcome::Written);
    assert_eq!(delivery.targets[0].epoch, session.epoch);

    let late = node.try_bind(bind("b", 4, 5, &[CHAT])).await;
    assert_eq!(late.0, Status::StaleAttempt as i32, "the attempt is remembered");
    let (status, next) = node.try_bind(bind("b", 4, 6, &[CHAT])).await;
    assert!(status == OK && next.epoch > ended.epoch, "and so is the epoch");

    assert_eq!(
        code(client.multicast(by("demo-live", to_group("room"))).await),
        "permission_denied"
    );
    assert_eq!(
        code(client.multicast(by("demo-chat", to_group("short-lived"))).await),
        "group_not_found"
    );
    assert_eq!(node.join("room", 1).await.business, CHAT);
}

#[tokio::test]
async fn control_may_go_away_and_the_last_catalogue_stays() {
    let house = House::new().await;
    let mut client = house.client().await;
    // A change, then a snapshot: both forms arrive.
    for _ in 0..2 {
        let revision = house.control.change(|_| {});
        within(house.router.catalogue(revision)).await;
    }
    let revision = house.control.change(|all| all.apps[0].enabled = false);
    within(house.router.catalogue(revision)).await;
    assert_eq!(code(client.unicast(by("demo-chat", to_one("a"))).await), "disabled");
    let revision = house.control.change(|all| all.apps[0].enabled = true);
    within(house.router.catalogue(revision)).await;
    client.unicast(by("demo-chat", to_one("a"))).await.unwrap();
    house.control.stop();
    client.unicast(by("demo-chat", to_one("a"))).await.unwrap();
}
