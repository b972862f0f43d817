//! Groups among routers on one store.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::FakeNode;
use crate::kit::redis::{Cluster, Member};
use crate::kit::store::Mode;
use crate::kit::{Client, by, code, create_group, eventually, to_group, within};
use hawser_proto::rpc::node::down;
use hawser_proto::rpc::push::{CreateGroupRequest, DeleteGroupRequest};

async fn delete(client: &mut Client, business: &str, group: &str) {
    let request = DeleteGroupRequest { group: group.to_owned() };
    client.delete_group(by(business, request)).await.expect("it is there");
}

/// Pushes to `room` and says how many members were counted, with what the call was refused with otherwise.
async fn multicast(client: &Client, business: &str) -> Result<u64, String> {
    let done = client.clone().multicast(by(business, to_group("room"))).await;
    match done {
        Ok(answer) => Ok(answer.into_inner().members),
        refused => Err(code(refused)),
    }
}

async fn node(member: &Member) -> FakeNode {
    FakeNode::connect(&member.internal(), "node-1", 1).await
}

#[tokio::test]
async fn a_group_made_on_one_router_is_usable_on_the_other_at_once() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut near, far) = (cluster.first.client().await, cluster.second.client().await);
    let (mut one, mut two) = (node(&cluster.first).await, node(&cluster.second).await);
    let _alive = (one.keep_alive(), two.keep_alive());
    assert_eq!(two.join("room", 1).await.status, 11, "there is none");
    create_group(&mut near, "demo-chat", "room").await;
    // Straight after the look that found none: a report is always asked for.
    let (first, second) = (one.join("room", 2).await, two.join("room", 2).await);
    assert_eq!((first.status, first.business), (0, CHAT));
    assert_eq!((second.status, second.created_ms), (0, first.created_ms));
    let call = async { tokio::join!(multicast(&far, "demo-chat"), two.deliver_group(3)) };
    let (members, delivery) = within(call).await;
    assert_eq!((members, delivery.group.as_str()), (Ok(3), "room"));
    assert_eq!(multicast(&far, "demo-live").await, Err("permission_denied".to_owned()));

    // Gone on one, gone on the other, whose node is told as well.
    delete(&mut near, "demo-chat", "room").await;
    for node in [&mut one, &mut two] {
        loop {
            if let Some(down::What::DropGroup(dropped)) = node.word().await {
                assert_eq!(
                    (dropped.group.as_str(), dropped.created_ms),
                    ("room", first.created_ms)
                );
                break;
            }
        }
    }
    assert_eq!(multicast(&far, "demo-chat").await, Err("group_not_found".to_owned()));
}

#[tokio::test]
async fn of_two_that_make_a_group_at_once_one_wins() {
    let Some(cluster) = Cluster::start().await else { return };
    let clients = [cluster.first.client().await, cluster.second.client().await];
    for round in 0..20 {
        let group = format!("room-{round}");
        let make = |client: &Client, business: &str| {
            let request = CreateGroupRequest { group: group.clone(), history: None };
            let (mut client, request) = (client.clone(), by(business, request));
            async move { client.create_group(request).await }
        };
        let answers = tokio::join!(make(&clients[0], "demo-chat"), make(&clients[1], "demo-live"));
        let winner = match answers {
            (Ok(_), Err(refused)) => (CHAT, refused),
            (Err(refused), Ok(_)) => (LIVE, refused),
            other => panic!("one of them has it: {other:?}"),
        };
        let (owner, refused) = winner;
        assert_eq!(code::<()>(Err(refused)), "already_exists");
        let (business, other) =
            if owner == CHAT { ("demo-chat", "demo-live") } else { ("demo-live", "demo-chat") };
        for client in &clients {
            let of = |business: &str| {
                let request = by(business, to_group(&group));
                let mut client = client.clone();
                async move { client.multicast(request).await }
            };
            assert_eq!(of(business).await.unwrap().into_inner().members, 0);
            assert_eq!(code(of(other).await), "permission_denied");
        }
    }
}

#[tokio::test]
async fn a_group_made_anew_by_another_business_keeps_its_members() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut near, mut far) = (cluster.first.client().await, cluster.second.client().await);
    let mut two = node(&cluster.second).await;
    let _alive = two.keep_alive();
    create_group(&mut near, "demo-chat", "room").await;
    let before = two.join("room", 1).await;
    // The second router hears nothing of it while it happens.
    cluster.second.store.set(Mode::Fails);
    delete(&mut near, "demo-chat", "room").await;
    create_group(&mut near, "demo-live", "room").await;
    assert_eq!(two.join("room", 2).await.created_ms, before.created_ms, "as it is known there");
    cluster.second.store.set(Mode::Answers);
    let taken_over = async || match multicast(&far, "demo-chat").await {
        Err(code) if code == "permission_denied" => Some(()),
        _ => None,
    };
    // Until then it is pushed to the members of a group that was theirs.
    let drained = async {
        loop {
            two.deliver_group(0).await;
        }
    };
    tokio::select! {
        () = eventually(taken_over) => {}
        () = drained => {}
    }
    let dropped = loop {
        if let Some(down::What::DropGroup(dropped)) = two.word().await {
            break dropped;
        }
    };
    assert_eq!(dropped.created_ms, before.created_ms, "of the group before alone");
    // What the node had said of the one before may have been about this one.
    let call = async { tokio::join!(multicast(&far, "demo-live"), two.deliver_group(1)) };
    assert_eq!(within(call).await.0, Ok(1));
    delete(&mut far, "demo-live", "room").await;
    let gone = async || (multicast(&near, "demo-live").await.is_err()).then_some(());
    eventually(gone).await;
}

#[tokio::test]
async fn a_group_of_another_router_is_deleted_through_any() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut near, mut far) = (cluster.first.client().await, cluster.second.client().await);
    create_group(&mut near, "demo-chat", "room").await;
    let request = DeleteGroupRequest { group: "room".to_owned() };
    let refused = far.delete_group(by("demo-live", request)).await;
    assert_eq!(code(refused), "permission_denied");
    delete(&mut far, "demo-chat", "room").await;
    // The first router does not know yet, and is put right by the store.
    create_group(&mut near, "demo-live", "room").await;
    assert_eq!(multicast(&far, "demo-live").await, Ok(0));
}
