//! Groups: who owns them, who reports members, what a multicast counts.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::{FakeNode, WRITTEN};
use crate::kit::{CALL_TIMEOUT, House, by, code, create_group, to_group, within};
use bytes::BytesMut;
use hawser_proto::code::ErrorCode;
use hawser_proto::codec::decode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::node::membership::Change;
use hawser_proto::rpc::node::{GroupCounted, MembershipDone, down, up};
use hawser_proto::rpc::push::{
    CreateGroupRequest, DeleteGroupRequest, DescribeGroupRequest, ListGroupsRequest,
    MembershipRequest,
};
use std::time::Instant;

#[tokio::test]
async fn a_multicast_is_one_delivery_per_node_with_members_and_counts_add_up() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut two = FakeNode::connect(&house.internal(), "node-2", 2).await;
    let mut idle = FakeNode::connect(&house.internal(), "node-3", 3).await;
    for node in [&mut one, &mut two, &mut idle] {
        let result = node.join("room", 1).await;
        assert_eq!((result.status, result.business), (0, CHAT));
    }
    idle.report_group("demo", "room", 2, false).await;
    idle.bind("x", 1, &[CHAT]).await;

    let call = client.multicast(by("demo-chat", to_group("room")));
    let (answer, delivery, _) =
        within(async { tokio::join!(call, one.deliver_group(3), two.deliver_group(4)) }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!((answer.members, answer.written, answer.queued, answer.dropped), (7, 7, 0, 0));
    assert_eq!(answer.nodes.len(), 2);
    assert_eq!((delivery.group.as_str(), delivery.boot, delivery.targets.len()), ("room", 1, 0));
    let raw = decode(&mut BytesMut::from(delivery.frame.as_ref()), 1 << 20).unwrap().unwrap();
    let NodeFrame::GroupPush(params, body) = NodeFrame::parse(raw).unwrap() else {
        panic!("a push to a group")
    };
    assert_eq!(
        (params.group.as_str(), params.business, body.as_ref()),
        ("room", CHAT, &b"hello"[..])
    );
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_left_out_and_marked() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut fast = FakeNode::connect(&house.internal(), "fast", 1).await;
    let mut slow = FakeNode::connect(&house.internal(), "slow", 2).await;
    fast.join("room", 1).await;
    slow.join("room", 1).await;
    let call = client.multicast(by("demo-chat", to_group("room")));
    let (answer, _) = within(async { tokio::join!(call, fast.deliver_group(3)) }).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.members, 3);
    let unknown =
        |name: &str| answer.nodes.iter().find(|node| node.node == name).map(|n| n.unknown);
    assert_eq!((unknown("fast"), unknown("slow")), (Some(false), Some(true)));
}

#[tokio::test]
async fn a_group_of_nobody_is_pushed_to_at_once() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let started = Instant::now();
    let answer = client.multicast(by("demo-chat", to_group("room"))).await.unwrap().into_inner();
    assert_eq!((answer.members, answer.nodes.len()), (0, 0));
    assert!(started.elapsed() < CALL_TIMEOUT);
}

#[tokio::test]
async fn a_name_belongs_to_the_business_that_made_it() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let room = || "room".to_owned();
    let create = CreateGroupRequest { group: room(), history: None };
    assert_eq!(code(client.create_group(by("demo-live", create.clone())).await), "already_exists");
    assert_eq!(code(client.create_group(by("demo-chat", create)).await), "already_exists");
    assert_eq!(
        code(client.multicast(by("demo-live", to_group("room"))).await),
        "permission_denied"
    );
    let describe = DescribeGroupRequest { group: room() };
    assert_eq!(code(client.describe_group(by("demo-live", describe)).await), "permission_denied");
    let join = MembershipRequest { group: room(), ..Default::default() };
    assert_eq!(code(client.join_group(by("demo-live", join)).await), "permission_denied");
    let delete = DeleteGroupRequest { group: room() };
    assert_eq!(code(client.delete_group(by("demo-live", delete)).await), "permission_denied");
    // To another app the name is free, and ours is not there.
    assert_eq!(code(client.multicast(by("other-chat", to_group("room"))).await), "group_not_found");
    create_group(&mut client, "other-chat", "room").await;
}

#[tokio::test]
async fn a_report_for_another_apps_group_finds_none() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.report_group("other", "room", 1, true).await;
    match node.word().await {
        Some(down::What::GroupResult(result)) => {
            assert_eq!(result.status, ErrorCode::GroupNotFound.number());
        }
        other => panic!("{other:?}"),
    }
    let answer = client.multicast(by("demo-chat", to_group("room"))).await.unwrap().into_inner();
    assert_eq!(answer.nodes.len(), 0);
}

#[tokio::test]
async fn a_leave_that_overtakes_a_join_does_not_deafen_the_node() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.join("room", 3).await.status, 0);
    node.report_group("demo", "room", 2, false).await;
    node.bind("x", 1, &[CHAT]).await;
    let call = client.multicast(by("demo-chat", to_group("room")));
    let (answer, _) = within(async { tokio::join!(call, node.deliver_group(1)) }).await;
    assert_eq!(answer.unwrap().into_inner().members, 1);
    assert_eq!(node.join("room", 1).await.status, ErrorCode::Unavailable.number(), "too old");
}

#[tokio::test]
async fn a_deleted_group_is_dropped_by_its_nodes_and_its_name_is_free() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.join("room", 1).await;
    let delete = || DeleteGroupRequest { group: "room".to_owned() };
    client.delete_group(by("demo-chat", delete())).await.unwrap();
    match node.word().await {
        Some(down::What::DropGroup(it)) => {
            assert_eq!((it.app.as_str(), it.group.as_str()), ("demo", "room"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(code(client.delete_group(by("demo-chat", delete())).await), "group_not_found");
    assert_eq!(code(client.multicast(by("demo-chat", to_group("room"))).await), "group_not_found");
    assert_eq!(node.join("room", 2).await.status, ErrorCode::GroupNotFound.number());
    create_group(&mut client, "demo-live", "room").await;
    assert_eq!(node.join("room", 3).await.business, LIVE);
}

#[tokio::test]
async fn a_node_is_told_when_the_group_was_made() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let describe = DescribeGroupRequest { group: "room".to_owned() };
    let made = client.describe_group(by("demo-chat", describe)).await.unwrap().into_inner();
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.join("room", 1).await.created_ms, made.created_ms);
    assert_eq!(node.join("nowhere", 2).await.created_ms, 0);
}

#[tokio::test]
async fn members_are_counted_by_the_nodes() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut one = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let mut mute = FakeNode::connect(&house.internal(), "mute", 2).await;
    one.join("room", 1).await;
    mute.join("room", 1).await;
    let describe = DescribeGroupRequest { group: "room".to_owned() };
    let call = client.describe_group(by("demo-chat", describe));
    let counting = async {
        match one.word().await {
            Some(down::What::CountGroup(it)) => {
                assert_eq!((it.app.as_str(), it.group.as_str()), ("demo", "room"));
                one.send(up::What::GroupCounted(GroupCounted { call: it.call, members: 12 })).await;
            }
            other => panic!("{other:?}"),
        }
    };
    let (info, ()) = within(async { tokio::join!(call, counting) }).await;
    let info = info.unwrap().into_inner();
    assert_eq!((info.business.as_str(), info.members), ("chat", 12));
    assert!(info.created_ms > 1_600_000_000_000);
    assert_eq!(info.nodes.len(), 1, "who does not answer is left out");
}

#[tokio::test]
async fn groups_are_listed_by_page_and_only_ones_own() {
    let house = House::new().await;
    let mut client = house.client().await;
    for group in ["c", "a", "b"] {
        create_group(&mut client, "demo-chat", group).await;
    }
    create_group(&mut client, "demo-live", "x").await;
    create_group(&mut client, "other-chat", "y").await;
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let request = ListGroupsRequest { page_size: 2, page_token: token };
        let page = client.list_groups(by("demo-chat", request)).await.unwrap().into_inner();
        pages.push(page.groups.into_iter().map(|group| group.group).collect::<Vec<_>>());
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, [vec!["a", "b"], vec!["c"]]);
}

#[tokio::test]
async fn a_page_of_groups_does_not_flood_a_node_that_does_not_answer() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    for at in 1..=40 {
        let group = format!("room-{at}");
        create_group(&mut client, "demo-chat", &group).await;
        node.join(&group, at).await;
    }
    let page = client.list_groups(by("demo-chat", ListGroupsRequest::default())).await.unwrap();
    assert_eq!(page.into_inner().groups.len(), 40);
    node.report_group("demo", "room-1", 41, true).await;
    let mut asked = 0;
    while let Some(down::What::CountGroup(_)) = node.word().await {
        asked += 1;
    }
    assert_eq!(asked, 32);
}

#[tokio::test]
async fn groups_go_with_their_business() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-live", "room").await;
    create_group(&mut client, "demo-chat", "hall").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.join("room", 1).await;
    node.join("hall", 2).await;
    // The second change is read as a snapshot, which lacks the business.
    house.control.change(|_| {});
    let revision = house.control.change(|all| all.businesses.retain(|it| it.business != "live"));
    within(house.router.catalogue(revision)).await;
    match node.word().await {
        Some(down::What::DropGroup(dropped)) => assert_eq!(dropped.group, "room"),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.join("room", 3).await.status, ErrorCode::GroupNotFound.number());
    assert_eq!(node.join("hall", 4).await.status, 0, "others stay");

    let house = house.restart().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    assert_eq!(node.join("room", 1).await.status, ErrorCode::GroupNotFound.number());
    assert_eq!(node.join("hall", 2).await.status, 0);
}

#[tokio::test]
async fn a_business_has_a_bounded_number_of_groups() {
    let house = House::with(|config| config.groups_per_business_max = 2).await;
    let mut client = house.client().await;
    let create = |group: &str| CreateGroupRequest { group: group.to_owned(), history: None };
    create_group(&mut client, "demo-chat", "a").await;
    create_group(&mut client, "demo-chat", "b").await;
    assert_eq!(code(client.create_group(by("demo-chat", create("c"))).await), "quota_exceeded");
    create_group(&mut client, "demo-live", "c").await;
    let delete = DeleteGroupRequest { group: "a".to_owned() };
    client.delete_group(by("demo-chat", delete)).await.unwrap();
    create_group(&mut client, "demo-chat", "d").await;
}

#[tokio::test]
async fn the_server_changes_membership_of_online_devices() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "room").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 9).await;
    let mut mute = FakeNode::connect(&house.internal(), "mute", 2).await;
    let session = node.bind("a", 4, &[CHAT]).await;
    node.bind("live-only", 5, &[LIVE]).await;
    node.bind("b", 6, &[CHAT]).await;
    mute.bind("c", 1, &[CHAT]).await;
    let devices = ["a", "offline", "live-only", "b", "c"].map(str::to_owned).to_vec();
    let request =
        MembershipRequest { group: "room".to_owned(), devices, reason: "moved".to_owned() };
    let call = client.kick_from_group(by("demo-chat", request));
    let changing = async {
        match node.word().await {
            Some(down::What::Membership(it)) => {
                assert_eq!((it.change(), it.boot, it.business), (Change::Kick, 9, CHAT));
                assert_eq!((it.group.as_str(), it.reason.as_str()), ("room", "moved"));
                assert_eq!(it.targets.len(), 2);
                let first = &it.targets[0];
                assert_eq!(
                    (first.device.as_str(), first.slot, first.epoch),
                    ("a", 4, session.epoch)
                );
                let statuses = vec![0, ErrorCode::NotMember.number()];
                let done = MembershipDone { call: it.call, statuses };
                node.send(up::What::MembershipDone(done)).await;
            }
            other => panic!("{other:?}"),
        }
    };
    let (answer, ()) = within(async { tokio::join!(call, changing) }).await;
    let results = answer.unwrap().into_inner().results;
    let statuses: Vec<u32> = results.iter().map(|result| result.status).collect();
    let expected = [
        0,
        ErrorCode::DeviceOffline.number(),
        ErrorCode::PermissionDenied.number(),
        ErrorCode::NotMember.number(),
        ErrorCode::DeadlineExceeded.number(),
    ];
    assert_eq!(statuses, expected);
    assert_eq!(results[3].device, "b");
}

#[tokio::test]
async fn a_unicast_and_a_multicast_do_not_mix() {
    let house = House::new().await;
    let mut client = house.client().await;
    create_group(&mut client, "demo-chat", "a").await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    node.bind("a", 1, &[CHAT]).await;
    node.join("a", 1).await;
    let mut other = house.client().await;
    let calls = async {
        tokio::join!(
            client.multicast(by("demo-chat", to_group("a"))),
            other.unicast(by("demo-chat", crate::kit::to_one("a")))
        )
    };
    let answering = async {
        for _ in 0..2 {
            let delivery = node.delivery().await;
            let mut report = hawser_proto::rpc::node::DeliveryReport {
                id: delivery.id,
                done: true,
                ..Default::default()
            };
            if delivery.group.is_empty() {
                report.outcomes = vec![WRITTEN];
            } else {
                (report.members, report.queued) = (1, 1);
            }
            node.report(report).await;
        }
    };
    let ((multicast, unicast), ()) = within(async { tokio::join!(calls, answering) }).await;
    assert_eq!(multicast.unwrap().into_inner().queued, 1);
    assert_eq!(unicast.unwrap().into_inner().outcome as u32, WRITTEN);
}
