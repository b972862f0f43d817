//! Compressed bodies: for devices that understand them as they come, for all others made plain, once.

use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::store::{self, compressed};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, DEAF, House, push_to};
use hawser_proto::code::CloseCode;
use hawser_proto::codec::{self, Flags};
use hawser_proto::frame::{DeviceFrame, Kind, NodeFrame, ability};
use hawser_proto::id::Position;
use hawser_proto::params::{self, GapReason};
use hawser_proto::rpc::node::{Broadcast, Delivery};

const PLAIN: &str = "hawser_access_bodies_made_plain_total";
const BEFORE: u32 = ability::ALL & !ability::ZSTD;

/// JSON of some KiB.
fn table() -> Vec<u8> {
    let rows: Vec<_> = (0..100).map(|n| format!("{{\"team\":\"blue\",\"points\":{n}}}")).collect();
    rows.concat().into()
}

/// Two devices that understand compressed bodies and two of a release before, on both forms of the wire.
async fn crowd(house: &House) -> [Device; 4] {
    let wise = async |how, name| Box::pin(house.able(how, name, Position::START)).await.0;
    let plain = async |how, name| Box::pin(before(house, how, name)).await;
    [
        wise(Dial::Tcp, "a").await,
        wise(Dial::Ws, "b").await,
        plain(Dial::Tcp, "c").await,
        plain(Dial::Wss, "d").await,
    ]
}

async fn before(house: &House, how: Dial, name: &str) -> Device {
    let mut device = house.dial(how).await;
    let mut login = device.login_frame(APP, name, tokens::token(APP, name));
    login.abilities = BEFORE;
    device.send(&DeviceFrame::Login(login)).await;
    assert_eq!(device.login_ok().await.abilities, BEFORE);
    device
}

/// All four read this body, the first two compressed, and nothing else.
async fn all_read(devices: &mut [Device; 4], body: &[u8]) {
    for (index, device) in devices.iter_mut().enumerate() {
        assert_eq!(device.pushed().await, body);
        assert_eq!(std::mem::take(&mut device.compressed), usize::from(index < 2), "{index}");
        device.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_push_reaches_each_in_a_form_it_understands() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    let mut devices = crowd(&house).await;
    for device in &mut devices {
        device.enter("room").await;
    }
    let delivery = house.push_group("room", &table());
    let frame = compressed(&delivery.frame);
    let report = house.router.deliver(Delivery { frame, ..delivery }).await;
    assert_eq!((report.members, report.written, report.dropped), (4, 4, 0));
    all_read(&mut devices, &table()).await;
    house.metric_is(PLAIN, &[], 1).await;

    let routes = ["a", "b", "c", "d"].map(|name| house.route(name));
    let delivery = push_to(&routes, &table());
    let frame = compressed(&delivery.frame);
    house.router.deliver(Delivery { frame: frame.clone(), ..delivery }).await;
    all_read(&mut devices, &table()).await;
    house.metric_is(PLAIN, &[], 2).await;

    let broadcast = Some(Broadcast { targets_per_second: 10_000, newest_epoch: 0 });
    let everyone = Delivery { frame, broadcast, ..house.push_group("", b"") };
    let report = house.router.deliver(everyone).await;
    assert_eq!(report.written, 4);
    all_read(&mut devices, &table()).await;
    house.metric_is(PLAIN, &[], 3).await;
    drop(devices);
    house.ends_clean().await;
}

/// Stores a push with a compressed body, and wakes the device if it is to be woken.
async fn stores(house: &House, device: &str, wakes: bool) {
    let name = (APP.to_owned(), device.to_owned(), CHAT);
    let place = {
        let mut store = house.router.store.lock();
        let inbox = store.inboxes.entry(name).or_default();
        inbox.append(|place| compressed(&store::push(CHAT, place, table())))
    };
    if wakes {
        house.router.hint(house.router.wake_up(&house.route(device), CHAT, place)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_push_comes_in_a_form_the_device_understands_woken_or_pulled() {
    let house = House::start().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        for _ in 0..40 {
            stores(&house, name, false).await;
        }
    }
    let mut devices = crowd(&house).await;
    for (index, device) in devices.iter_mut().enumerate() {
        for seq in 1..=40 {
            assert_eq!(device.stored().await, (Position::new(5, seq), table()));
        }
        assert_eq!(std::mem::take(&mut device.compressed), if index < 2 { 40 } else { 0 });
        device.ack(CHAT, Position::new(5, 40)).await;
        device.settle().await;
    }
    for pull in house.router.pulls() {
        let session = pull.session.expect("a pull names its session");
        assert_eq!(pull.takes_compressed, ["a", "b"].contains(&session.device.as_str()));
    }
    house.metric_is(PLAIN, &[], 0).await;
    for name in names {
        stores(&house, name, true).await;
    }
    all_read(&mut devices, &table()).await;
    house.metric_is(PLAIN, &[], 2).await;
    drop(devices);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_is_recovered_in_a_form_each_member_understands() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    house.router.keep_history(APP, "room");
    {
        let mut store = house.router.store.lock();
        let history = store.histories.values_mut().next().expect("there is one");
        for _ in 0..3 {
            history.append(|at| compressed(&store::group_push(CHAT, "room", at, table())));
        }
    }
    let mut devices = crowd(&house).await;
    for (index, device) in devices.iter_mut().enumerate() {
        let (last_term, last_seq) = (5, 1);
        let join = params::Join { request_id: 3, group: "room".into(), last_term, last_seq };
        device.send(&DeviceFrame::Join(join)).await;
        assert!(device.joined().await.history);
        for seq in 2..=3 {
            assert_eq!(device.stored().await, (Position::new(5, seq), table()));
        }
        assert_eq!(device.compressed, if index < 2 { 2 } else { 0 });
    }
    drop(devices);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_another_business_is_passed_over_compressed_or_not() {
    let house = House::start().await;
    house.router.create_group(APP, "room", CHAT);
    house.router.keep_history(APP, "room");
    {
        let mut store = house.router.store.lock();
        let history = store.histories.values_mut().next().expect("there is one");
        for business in [CHAT, DEAF, CHAT] {
            history.append(|at| compressed(&store::group_push(business, "room", at, table())));
        }
    }
    let (mut device, _) = house.able(Dial::Tcp, "a", Position::START).await;
    let (last_term, last_seq) = (5, 1);
    let join = params::Join { request_id: 3, group: "room".into(), last_term, last_seq };
    device.send(&DeviceFrame::Join(join)).await;
    assert!(device.joined().await.history);
    assert_eq!(device.stored().await, (Position::new(5, 3), table()));
    device.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_a_session_counts_the_plain_body() {
    let house = House::start().await;
    let [mut wise, _b, mut plain, _d] = crowd(&house).await;
    let routes = ["a", "c"].map(|name| house.route(name));
    // In the wire's limit of this session it is once it is compressed, and not before.
    let large = push_to(&routes, &vec![b'a'; 100_000]);
    let frame = compressed(&large.frame);
    assert!(frame.len() < 1_000);
    let report = house.router.deliver(Delivery { frame, ..large }).await;
    assert_eq!((report.written, report.dropped), (0, 2));
    let name = (APP.to_owned(), "a".to_owned(), CHAT);
    let place = {
        let mut store = house.router.store.lock();
        let inbox = store.inboxes.entry(name).or_default();
        inbox.append(|place| compressed(&store::push(CHAT, place, vec![b'a'; 100_000])))
    };
    house.router.hint(house.router.wake_up(&house.route("a"), CHAT, place)).await;
    match wise.frame().await {
        NodeFrame::Gap(gap) => assert_eq!((gap.reason(), gap.count), (GapReason::TooLarge, 1)),
        other => panic!("wanted GAP, got {other:?}"),
    }
    wise.settle().await;
    plain.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_compresses_nothing() {
    let house = House::start().await;
    let small = hawser_proto::compressed::compress(&table()).unwrap();
    for how in [Dial::Tcp, Dial::Ws] {
        let (mut device, _) = house.able(how, "a", Position::START).await;
        let request = params::Request { request_id: 1, business: CHAT, ..Default::default() };
        let frame = codec::encode(Kind::Request as u8, Flags::COMPRESSED, &request, &small);
        device.send_raw(&frame).await;
        assert_eq!(device.closed().await, CloseCode::UnsupportedFeature);
    }
    assert_eq!(house.business.seen_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_not_what_it_should_be_harms_nobody() {
    let house = House::start().await;
    let mut devices = crowd(&house).await;
    let routes = ["c", "d"].map(|name| house.route(name));
    let delivery = push_to(&routes, &table());
    let frame = compressed(&delivery.frame);
    let broken = frame.slice(..frame.len() - 3);
    let report = house.router.deliver(Delivery { frame: broken, ..delivery.clone() }).await;
    assert_eq!((report.written, report.dropped), (0, 2));
    let everyone = push_to(&["a", "b", "c", "d"].map(|name| house.route(name)), &table());
    house.router.deliver(Delivery { frame, ..everyone }).await;
    all_read(&mut devices, &table()).await;
}
