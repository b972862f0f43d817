//! Requests to a business: through its pool and back, or refused at once with the reason.

use crate::eventually;
use crate::fakes::business::Business;
use crate::fakes::dial::Dial;
use crate::house::{APP, CHAT, DEAF, House, business};
use hawser_chassis::callback::Callbacks;
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params;
use hawser_proto::rpc::business::HandleResponse;
use hawser_proto::rpc::control::{self as wire, change::Entity};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

fn status(response: &params::Response) -> Option<ErrorCode> {
    ErrorCode::from_number(response.status)
}

/// Lets requests through one permit at a time.
fn gate(business: &Business) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    business.answer(move |asked| {
        let gate = held.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(HandleResponse { body: asked.body, ..Default::default() })
        }
    });
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_carries_everything_and_its_answer_comes_back() {
    let house = House::start().await;
    let metadata: HashMap<_, _> = [("k".to_owned(), "v".to_owned())].into();
    let sent = metadata.clone();
    house.business.answer(move |asked| {
        let metadata = asked.metadata.clone();
        async move { Ok(HandleResponse { body: asked.body, metadata, ..Default::default() }) }
    });
    for how in Dial::ALL {
        let (mut device, ok) = house.login(how, "d").await;
        let request = params::Request {
            request_id: 42,
            business: CHAT,
            method: "say".into(),
            metadata: metadata.clone(),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            deadline_ms: 3_000,
        };
        let frame = DeviceFrame::Request(request.clone(), b"hello".to_vec().into());
        device.send(&frame).await;
        let (response, body) = device.response().await;
        assert_eq!((response.request_id, response.status, &body[..]), (42, 0, &b"hello"[..]));
        assert_eq!(response.metadata, sent);
        let seen = house.business.seen().pop().unwrap();
        assert_eq!((&seen.app[..], &seen.business[..], &seen.device[..]), (APP, "chat", "d"));
        assert_eq!((seen.request_id, &seen.method[..], &seen.body[..]), (42, "say", &b"hello"[..]));
        assert_eq!(seen.traceparent, request.traceparent);
        assert!((1..=3_000).contains(&seen.deadline_ms), "{}", seen.deadline_ms);
        let session = seen.session.unwrap();
        assert_eq!((session.connection_id, session.epoch), (ok.connection, ok.epoch));
        assert_eq!((&session.transport[..], &session.remote_ip[..]), (how.name(), "127.0.0.1"));
        assert!(session.login_time_ms.abs_diff(ok.server_time_ms as i64) < 1_000);
    }
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_business_becomes_the_devices_status() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    for (code, expected) in [
        (Code::DeadlineExceeded, ErrorCode::DeadlineExceeded),
        (Code::Unavailable, ErrorCode::Unavailable),
        (Code::ResourceExhausted, ErrorCode::Overloaded),
        (Code::PermissionDenied, ErrorCode::PermissionDenied),
        (Code::NotFound, ErrorCode::NotFound),
        (Code::InvalidArgument, ErrorCode::InvalidArgument),
        (Code::Internal, ErrorCode::BusinessFailed),
        (Code::Unknown, ErrorCode::BusinessFailed),
        (Code::Unauthenticated, ErrorCode::BusinessFailed),
    ] {
        house.business.answer(move |_| async move { Err(Status::new(code, "its own words")) });
        device.request(1, CHAT, b"hello").await;
        let (response, body) = device.response().await;
        assert_eq!(status(&response), Some(expected), "{code:?}");
        assert!(body.is_empty());
        if expected != ErrorCode::Unavailable {
            assert_eq!(response.message, "its own words");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_that_is_not_there_is_unavailable_and_an_unknown_one_unknown() {
    let house = House::start().await;
    house.put(Entity::Business(business(APP, "dead", 3, &["http://127.0.0.1:1"]))).await;
    house
        .put(Entity::Business(wire::Business {
            enabled: false,
            ..business(APP, "off", 4, &[&house.business.uri])
        }))
        .await;
    let mut device = house.device("d").await;
    for (number, expected) in [
        (DEAF, ErrorCode::Unavailable),
        (3, ErrorCode::Unavailable),
        (4, ErrorCode::Disabled),
        (9, ErrorCode::UnknownBusiness),
        (0, ErrorCode::UnknownBusiness),
    ] {
        device.request(1, number, b"hello").await;
        assert_eq!(status(&device.response().await.0), Some(expected), "{number}");
    }
    // One that this connection did not ask for.
    let mut device = house.dial(Dial::Tcp).await;
    let token = crate::fakes::tokens::token(APP, "d");
    let mut login = device.login_frame(APP, "d", token);
    login.businesses = vec!["deaf".into()];
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
    device.request(1, CHAT, b"hello").await;
    assert_eq!(status(&device.response().await.0), Some(ErrorCode::UnknownBusiness));
    assert_eq!(house.business.seen_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_is_kept_whoever_set_it() {
    let house = House::start().await;
    let quick = wire::Business {
        request_timeout_ms: 150,
        ..business(APP, "chat", CHAT, &[&house.business.uri])
    };
    house.put(Entity::Business(quick)).await;
    house.business.answer(|_| std::future::pending());
    let mut device = house.device("d").await;
    for (asked_ms, at_most_ms) in [(0, 150), (60, 60), (60_000, 150)] {
        let request = params::Request {
            request_id: 1,
            business: CHAT,
            deadline_ms: asked_ms,
            ..Default::default()
        };
        let begun = Instant::now();
        device.send(&DeviceFrame::Request(request, bytes::Bytes::new())).await;
        assert_eq!(status(&device.response().await.0), Some(ErrorCode::DeadlineExceeded));
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(at_most_ms - 10), "{took:?}");
        assert!(took < Duration::from_millis(at_most_ms + 2_000), "{took:?}");
        let told = house.business.seen().pop().unwrap().deadline_ms;
        assert!(u64::from(told) <= at_most_ms, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_refuses_at_once_and_other_businesses_go_on() {
    let house = House::start().await;
    let beside = Business::start().await;
    house.put(Entity::Business(business(APP, "live", 5, &[&beside.uri]))).await;
    let gate = gate(&house.business);
    // The smallest pool: 16 at work and 64 waiting. Two connections fill it.
    let (mut a, mut b) = (house.device("a").await, house.device("b").await);
    for n in 1..=60 {
        a.request(n, CHAT, b"a").await;
    }
    a.settle().await;
    for n in 1..=20 {
        b.request(n, CHAT, b"b").await;
    }
    b.settle().await;
    b.request(21, CHAT, b"one too many").await;
    let (response, _) = b.response().await;
    assert_eq!((response.request_id, status(&response)), (21, Some(ErrorCode::Overloaded)));
    b.request(22, 5, b"beside").await;
    let (response, body) = b.response().await;
    assert_eq!((response.request_id, &body[..]), (22, &b"beside"[..]), "another pool");
    eventually("16 at work", || (house.business.seen_count() == 16).then_some(())).await;
    gate.add_permits(80);
    for _ in 0..60 {
        assert_eq!(a.response().await.0.status, 0);
    }
    for _ in 0..20 {
        assert_eq!(b.response().await.0.status, 0);
    }
    b.request(23, CHAT, b"room again").await;
    gate.add_permits(1);
    assert_eq!(b.response().await.0.status, 0);
    drop((a, b));
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_so_many_requests_in_flight_and_no_more() {
    let house = House::start().await;
    let gate = gate(&house.business);
    let (mut device, ok) = house.login(Dial::Tcp, "d").await;
    let max = u64::from(ok.requests_in_flight_max);
    for n in 1..=max + 1 {
        device.request(n, CHAT, b"x").await;
    }
    let (response, _) = device.response().await;
    assert_eq!(
        (response.request_id, status(&response)),
        (max + 1, Some(ErrorCode::TooManyRequests))
    );
    gate.add_permits(max as usize + 1);
    for _ in 0..max {
        assert_eq!(device.response().await.0.status, 0);
    }
    device.request(1, CHAT, b"x").await;
    assert_eq!(device.response().await.0.status, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_business_writes_into_a_session_is_seen_by_it_alone_and_ends_with_it() {
    let house = House::start().await;
    let beside = Business::start().await;
    house.put(Entity::Business(business(APP, "live", 5, &[&beside.uri]))).await;
    // The method says what to write: "key=value", or "-key".
    let write = |asked: hawser_proto::rpc::business::HandleRequest| async move {
        let mut answer = HandleResponse::default();
        match asked.method.split_once('=') {
            Some((key, value)) => {
                let value = if value == "long" { "x".repeat(5_000) } else { value.to_owned() };
                answer.set_attributes.insert(key.to_owned(), value);
            }
            None => answer.remove_attributes.push(asked.method[1..].to_owned()),
        }
        Ok(answer)
    };
    house.business.answer(write);
    beside.answer(write);
    let mut device = house.device("d").await;
    let seen_by = |business: &Business| {
        let session = business.seen().pop().unwrap().session.unwrap();
        let mut all: Vec<_> = session.attributes.into_iter().collect();
        all.sort();
        all.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    for (business, method, expected, seen) in [
        (CHAT, "a=1", None, vec![]),
        (CHAT, "b=2", None, vec!["a=1"]),
        (5, "c=3", None, vec![]),
        (CHAT, "a=4", None, vec!["a=1", "b=2"]),
        (CHAT, "-b", None, vec!["a=4", "b=2"]),
        (CHAT, "long=long", Some(ErrorCode::BusinessFailed), vec!["a=4"]),
        (CHAT, "-a", None, vec!["a=4"]),
        (5, "-c", None, vec!["c=3"]),
    ] {
        let request = params::Request {
            request_id: 1,
            business,
            method: method.into(),
            ..Default::default()
        };
        device.send(&DeviceFrame::Request(request, bytes::Bytes::new())).await;
        let (response, _) = device.response().await;
        assert_eq!(status(&response), expected, "{method}");
        let asked = if business == CHAT { &house.business } else { &beside };
        assert_eq!(seen_by(asked), seen, "{method}");
    }
    drop(device);
    let mut device = house.device("d").await;
    let request =
        params::Request { request_id: 1, business: 5, method: "x=1".into(), ..Default::default() };
    device.send(&DeviceFrame::Request(request, bytes::Bytes::new())).await;
    device.response().await;
    assert_eq!(seen_by(&beside), Vec::<String>::new(), "a new session starts with nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_must_fit_the_frame_limit_and_its_metadata_the_bounds() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    house.business.answer(|_| async {
        Ok(HandleResponse { body: vec![0; 70_000].into(), ..Default::default() })
    });
    device.request(1, CHAT, b"x").await;
    assert_eq!(status(&device.response().await.0), Some(ErrorCode::TooLarge));
    house.business.answer(|_| async {
        let metadata = (0..33).map(|n| (n.to_string(), String::new())).collect();
        Ok(HandleResponse { metadata, ..Default::default() })
    });
    device.request(2, CHAT, b"x").await;
    assert_eq!(status(&device.response().await.0), Some(ErrorCode::BusinessFailed));
    house.business.answer(|_| async {
        Ok(HandleResponse { body: vec![0; 60_000].into(), ..Default::default() })
    });
    device.request(3, CHAT, b"x").await;
    assert_eq!(device.response().await.1.len(), 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_for_a_device_that_has_gone_is_dropped_and_nothing_leaks() {
    let house = House::start().await;
    let gate = gate(&house.business);
    let mut device = house.device("d").await;
    device.request(1, CHAT, b"x").await;
    eventually("the request is there", || (house.business.seen_count() == 1).then_some(())).await;
    drop(device);
    house.metric_is("hawser_access_connections", &[], 0).await;
    // The next one in the slot must not get the answer.
    let mut next = house.device("next").await;
    gate.add_permits(1);
    house.metric_is("hawser_forward_requests_total", &[], 1).await;
    next.ping(7).await;
    assert_eq!(next.frame().await, NodeFrame::Pong(params::Ping { nonce: 7 }));
    drop(next);
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_drops_the_answers_that_are_owed() {
    let house = House::start().await;
    let _gate = gate(&house.business);
    let mut device = house.device("d").await;
    device.request(1, CHAT, b"x").await;
    device.send(&DeviceFrame::Bye(params::Close::default())).await;
    let (code, _, before) = device.closed_with().await;
    assert_eq!((code, before), (CloseCode::Goodbye, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_business_that_is_not_of_the_internet_is_not_called_unless_that_is_allowed() {
    let house = House::start_with(|config| config.callbacks = Callbacks::public()).await;
    let (mut device, _) = house.login(Dial::Tcp, "d").await;
    device
        .send(&DeviceFrame::Request(
            params::Request {
                request_id: 1,
                business: CHAT,
                method: "say".into(),
                ..Default::default()
            },
            b"hello".to_vec().into(),
        ))
        .await;
    let (response, _) = device.response().await;
    assert_eq!(status(&response), Some(ErrorCode::Unavailable));
    assert!(house.business.seen().is_empty(), "it listens, and was not called");
    house.node.shutdown(Duration::from_secs(5)).await;
}
