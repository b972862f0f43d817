//! Presence calls and disconnect.

use crate::kit::control::{CHAT, LIVE};
use crate::kit::node::FakeNode;
use crate::kit::{House, by, code, within};
use hawser_proto::code::CloseCode;
use hawser_proto::rpc::node::{SessionDescribed, down, up};
use hawser_proto::rpc::push::{
    DescribeDeviceRequest, DisconnectRequest, PresenceRequest, PresenceState,
};

#[tokio::test]
async fn presence_of_many_in_their_order() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("b", 1, &[CHAT]).await;
    let devices = ["a", "b", "c"].map(str::to_owned).to_vec();
    let ask = |key| by(key, PresenceRequest { devices: devices.clone() });
    let answer = client.get_presence(ask("demo-chat")).await.unwrap().into_inner().devices;
    use PresenceState::{Offline, Online};
    let states: Vec<_> = answer.iter().map(|it| (it.device.as_str(), it.state())).collect();
    assert_eq!(states, [("a", Offline), ("b", Online), ("c", Offline)]);
    assert_eq!((answer[1].epoch, answer[0].epoch), (session.epoch, 0));
    assert!(answer[1].since_ms > 1_600_000_000_000);
    let theirs = client.get_presence(ask("other-chat")).await.unwrap().into_inner().devices;
    assert!(theirs.iter().all(|it| it.state() == Offline), "nothing crosses an app");
}

#[tokio::test]
async fn a_device_is_described_by_its_node() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 0xab).await;
    let session = node.bind("a", 3, &[CHAT, LIVE]).await;
    let request = || by("demo-chat", DescribeDeviceRequest { device: "a".to_owned() });
    for found in [true, false] {
        let describing = async {
            match node.word().await {
                Some(down::What::DescribeSession(it)) => {
                    let target = it.target.unwrap();
                    assert_eq!((it.app.as_str(), it.boot), ("demo", 0xab));
                    assert_eq!((target.slot, target.epoch), (3, session.epoch));
                    let told = SessionDescribed {
                        call: it.call,
                        found,
                        transport: "tls".to_owned(),
                        groups: vec!["room".to_owned()],
                        ..Default::default()
                    };
                    node.send(up::What::Session(told)).await;
                }
                other => panic!("{other:?}"),
            }
        };
        let call = client.describe_device(request());
        let (info, ()) = within(async { tokio::join!(call, describing) }).await;
        let info = info.unwrap().into_inner();
        if found {
            assert_eq!(info.state(), PresenceState::Online);
            assert_eq!(info.connection_id, "node-1/00000000000000ab/3.1");
            assert_eq!((info.transport.as_str(), info.groups.len()), ("tls", 1));
            assert_eq!(info.businesses, ["chat", "live"]);
        } else {
            assert_eq!(info.state(), PresenceState::Offline, "its node knows better");
        }
    }
    let info = client.describe_device(request()).await.unwrap().into_inner();
    assert_eq!((info.state(), info.node.as_str()), (PresenceState::Unknown, "node-1"));
}

#[tokio::test]
async fn a_disconnect_names_the_session_and_waits_for_word() {
    let house = House::new().await;
    let mut client = house.client().await;
    let mut node = FakeNode::connect(&house.internal(), "node-1", 1).await;
    let session = node.bind("a", 3, &[CHAT]).await;
    for (eject, expected, matched) in
        [(false, CloseCode::Disconnected, true), (true, CloseCode::Ejected, false)]
    {
        let (device, reason) = ("a".to_owned(), "enough".to_owned());
        let call = client.disconnect(by("demo-chat", DisconnectRequest { device, eject, reason }));
        let kicking = async {
            let kick = node.kick().await;
            assert_eq!((kick.slot, kick.epoch, kick.boot), (3, session.epoch, 1));
            assert_eq!((kick.code, kick.reason.as_str()), (expected.number().into(), "enough"));
            node.kick_done(&kick, matched).await;
        };
        let (answer, ()) = within(async { tokio::join!(call, kicking) }).await;
        assert_eq!(answer.unwrap().into_inner().was_online, matched);
    }
    let request =
        |device: &str| DisconnectRequest { device: device.to_owned(), ..Default::default() };
    let nobody = client.disconnect(by("demo-chat", request("nobody"))).await;
    assert!(!nobody.unwrap().into_inner().was_online);
    let other = client.disconnect(by("other-chat", request("a"))).await;
    assert!(!other.unwrap().into_inner().was_online, "not one's own app's");
    let mute = client.disconnect(by("demo-chat", request("a"))).await;
    assert_eq!(code(mute), "deadline_exceeded");
}
