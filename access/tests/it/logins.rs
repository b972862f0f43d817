//! Logins: who is let in over which transport, and who is not.

use crate::fakes::device::{Device, Form};
use crate::fakes::dial::{self, Dial};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, app, push_to};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::frame::DeviceFrame;
use hawser_proto::rpc::control::{self as wire, change::Entity};
use hawser_proto::rpc::push::Outcome;
use hawser_proto::token::{Claims, SigningKey};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_logs_in_over_every_transport_and_is_pushed_to() {
    let house = House::start().await;
    for how in Dial::ALL {
        let name = format!("d-{}", how.name());
        let (mut device, ok) = house.login(how, &name).await;
        let route = house.router.route(APP, &name).unwrap();
        assert_eq!(ok.epoch, route.epoch);
        let names: Vec<_> = ok.businesses.iter().map(|it| (&it.name[..], it.number)).collect();
        assert_eq!(names, [("chat", 1), ("deaf", 2)], "all that the token allows, by name");
        let report = house.router.deliver(push_to(&[route], b"hello")).await;
        assert_eq!(report.outcomes, [Outcome::Written as u32], "{how:?}");
        assert_eq!(device.pushed().await, b"hello");
        house
            .metric_is("hawser_access_sessions", &[("app", APP), ("transport", how.name())], 1)
            .await;
    }
    house.ends_clean().await;
}

/// Sends a LOGIN with this token for demo/d, and returns how it is refused.
async fn refused(house: &House, token: String) -> CloseCode {
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "d", token);
    device.send(&DeviceFrame::Login(login)).await;
    device.closed().await
}

fn claims_with(change: impl FnOnce(&mut Claims)) -> String {
    let mut claims = tokens::claims(APP, "d");
    change(&mut claims);
    tokens::sign(&claims)
}

/// A token with a header of the test's own.
fn signed(header: &Header, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, &tokens::claims(APP, "d"), key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_token_has_its_code() {
    let house = House::start().await;
    let ours = EncodingKey::from_ed_der(&tokens::pkcs8(tokens::OURS));
    let theirs = EncodingKey::from_ed_der(&tokens::pkcs8(tokens::THEIRS));
    let header = |algorithm, kid: Option<&str>| {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        header
    };
    let public = hex::decode(tokens::OURS.1).unwrap();
    let now = tokens::now_s();
    let good = tokens::token(APP, "d");
    let (body, signature) = good.rsplit_once('.').unwrap();
    let none = {
        let text = r#"{"alg":"none","kid":"k1"}"#;
        let claims = good.split('.').nth(1).unwrap();
        format!("{}.{claims}.", base64_url(text.as_bytes()))
    };
    for (what, token, code) in [
        ("nothing", String::new(), CloseCode::TokenInvalid),
        ("no JWT", "abc".into(), CloseCode::TokenInvalid),
        ("no signature", format!("{body}."), CloseCode::TokenInvalid),
        ("a signature cut short", format!("{body}.{}", &signature[..40]), CloseCode::TokenInvalid),
        ("forged", signed(&header(Algorithm::EdDSA, Some("k1")), &theirs), CloseCode::TokenInvalid),
        (
            "the public key as a shared secret",
            signed(&header(Algorithm::HS256, Some("k1")), &EncodingKey::from_secret(&public)),
            CloseCode::TokenInvalid,
        ),
        ("no algorithm", none, CloseCode::TokenInvalid),
        (
            "an unknown key",
            signed(&header(Algorithm::EdDSA, Some("k9")), &ours),
            CloseCode::TokenUnknownKey,
        ),
        ("no key id", signed(&header(Algorithm::EdDSA, None), &ours), CloseCode::TokenUnknownKey),
        (
            "expired",
            claims_with(|it| (it.iat, it.exp) = (now - 3_700, now - 100)),
            CloseCode::TokenExpired,
        ),
        ("of the future", claims_with(|it| it.iat = now + 3_000), CloseCode::TokenInvalid),
        (
            "for another audience",
            claims_with(|it| it.aud = "someone".into()),
            CloseCode::TokenWrongAudience,
        ),
        (
            "from another issuer",
            claims_with(|it| it.iss = "someone".into()),
            CloseCode::TokenWrongAudience,
        ),
        ("of another app", claims_with(|it| it.app = "other".into()), CloseCode::TokenMismatch),
        ("of another device", claims_with(|it| it.sub = "e".into()), CloseCode::TokenMismatch),
    ] {
        assert_eq!(refused(&house, token).await, code, "{what}");
    }
    house.control.put(Entity::SigningKey(wire::SigningKey {
        verify_until_ms: now as i64 * 1_000 - 1,
        ..tokens::published("k1", tokens::OURS)
    }));
    house.caught_up().await;
    assert_eq!(refused(&house, good).await, CloseCode::TokenUnknownKey, "the key's time is over");
    house.metric_is("hawser_access_logins_total", &[("result", "token_invalid")], 8).await;
    house.ends_clean().await;
}

fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(ALPHABET[(word >> (18 - 6 * place)) as usize & 63] as char);
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_keys_of_a_rotation_are_good() {
    let house = House::start().await;
    house.put(Entity::SigningKey(tokens::published("k2", tokens::THEIRS))).await;
    let key = SigningKey::from_ed25519_pkcs8("k2", &tokens::pkcs8(tokens::THEIRS));
    for token in [tokens::token(APP, "d"), key.sign(&tokens::claims(APP, "d")).unwrap()] {
        let mut device = house.dial(Dial::Tcp).await;
        let login = device.login_frame(APP, "d", token);
        device.send(&DeviceFrame::Login(login)).await;
        device.login_ok().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_is_switched_off_is_closed_and_stays_closed() {
    let house = House::start().await;
    let mut device = house.device("d").await;
    let mut other = house.dial(Dial::Tcp).await;
    let login = other.login_frame("other", "d", tokens::token("other", "d"));
    other.send(&DeviceFrame::Login(login)).await;
    other.login_ok().await;
    house.put(Entity::App(wire::App { enabled: false, ..app(APP) })).await;
    assert_eq!(device.closed().await, CloseCode::AppUnavailable);
    assert_eq!(refused(&house, tokens::token(APP, "d")).await, CloseCode::AppUnavailable);
    other.settle().await;
    let mut unknown = house.dial(Dial::Tcp).await;
    let login = unknown.login_frame("nobody", "d", tokens::token("nobody", "d"));
    unknown.send(&DeviceFrame::Login(login)).await;
    assert_eq!(unknown.closed().await, CloseCode::AppUnavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_must_be_one_of_the_apps() {
    let house = House::start().await;
    for (how, origin, refused) in [
        (Dial::Ws, Some("https://demo.example"), None),
        (Dial::Wss, Some("https://DEMO.example"), None),
        (Dial::Ws, Some("https://evil.example"), Some(CloseCode::AppUnavailable)),
        (Dial::Wss, Some("null"), Some(CloseCode::AppUnavailable)),
        (Dial::Ws, None, None),
    ] {
        let headers: Vec<_> = origin.map(|it| ("origin", it)).into_iter().collect();
        let address = house.node.address(how.name()).unwrap();
        let mut device = dial::dial(how, address, &headers).await;
        let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
        device.send(&DeviceFrame::Login(login)).await;
        match refused {
            None => drop(device.login_ok().await),
            Some(code) => assert_eq!(device.closed().await, code, "{origin:?}"),
        }
    }
    house.put(Entity::App(wire::App { allowed_origins: vec!["*".into()], ..app(APP) })).await;
    let address = house.node.address("ws").unwrap();
    let mut device = dial::dial(Dial::Ws, address, &[("origin", "https://evil.example")]).await;
    let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
    device.send(&DeviceFrame::Login(login)).await;
    device.login_ok().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sub_protocol_is_echoed_only_if_it_is_ours() {
    let house = House::start().await;
    let address = house.node.address("ws").unwrap();
    for (offered, echoed) in [("hawser.1", true), ("chat, hawser.1", true)] {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (_, response) = dial::upgrade(tcp, &[("sec-websocket-protocol", offered)]).await;
        let named = response.headers().get("sec-websocket-protocol");
        assert_eq!(named.is_some_and(|it| it == "hawser.1"), echoed, "{offered}");
        assert!(response.headers().get("sec-websocket-extensions").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alpn_is_optional_on_tls_but_must_be_ours() {
    let house = House::start().await;
    let address = house.node.address("tls").unwrap();
    for alpn in [&[][..], &[&b"h2"[..], b"hawser/1"]] {
        let mut device = Device::new(dial::tls(address, alpn).await, Form::Stream);
        let login = device.login_frame(APP, "d", tokens::token(APP, "d"));
        device.send(&DeviceFrame::Login(login)).await;
        device.login_ok().await;
    }
    let alone = tokio::spawn(async move { dial::tls(address, &[b"h2"]).await });
    assert!(alone.await.is_err(), "the handshake fails");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_business_of_a_login_is_answered_for_itself() {
    let house = House::start().await;
    let mut device = house.dial(Dial::Tcp).await;
    let token = claims_with(|it| it.biz = vec!["chat".into()]);
    let mut login = device.login_frame(APP, "d", token.clone());
    login.businesses = ["deaf", "chat", "nowhere", "Not a name"].map(str::to_owned).to_vec();
    device.send(&DeviceFrame::Login(login)).await;
    let ok = device.login_ok().await;
    let seen: Vec<_> = ok
        .businesses
        .iter()
        .map(|it| (&it.name[..], it.number, ErrorCode::from_number(it.status)))
        .collect();
    assert_eq!(
        seen,
        [
            ("deaf", 0, Some(ErrorCode::PermissionDenied)),
            ("chat", CHAT, None),
            ("nowhere", 0, Some(ErrorCode::UnknownBusiness)),
            ("Not a name", 0, Some(ErrorCode::UnknownBusiness)),
        ]
    );
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, "d", token);
    device.send(&DeviceFrame::Login(login)).await;
    let ok = device.login_ok().await;
    assert_eq!(ok.businesses.len(), 1, "an empty list: all that the token allows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_ok_says_what_holds_on_this_connection() {
    let house = House::start().await;
    let settings = wire::App {
        heartbeat_ms: 7_000,
        idle_timeout_ms: 9_000,
        frame_bytes_max: 128 * 1024,
        ..app(APP)
    };
    house.put(Entity::App(settings)).await;
    let (_device, ok) = house.login(Dial::Tcp, "d").await;
    assert_eq!((ok.heartbeat_ms, ok.idle_timeout_ms, ok.frame_bytes_max), (7_000, 9_000, 131_072));
    assert_eq!((ok.groups_max, ok.requests_in_flight_max, ok.abilities), (100, 64, 0));
    let now_ms = tokens::now_s() * 1_000;
    assert!(ok.server_time_ms.abs_diff(now_ms) < 5_000);
    assert!(ok.token_refresh_at_ms > now_ms && ok.token_expires_at_ms > ok.token_refresh_at_ms);
    assert!(ok.connection.starts_with(&format!("node-1/{}/", house.node.boot())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_reports_where_it_can_be_dialled() {
    let house = House::start().await;
    let _device = house.device("d").await;
    let report = crate::eventually("a report", || {
        house.control.report().filter(|report| report.connections == 1)
    })
    .await;
    assert_eq!(
        (&report.node[..], report.boot, report.draining),
        ("node-1", house.node.boot().0, false)
    );
    for point in &report.access_points {
        let address = house.node.address(&point.protocol).unwrap();
        assert_eq!((&point.host[..], point.port), ("127.0.0.1", u32::from(address.port())));
        let is_plain = ["tcp", "ws"].contains(&&point.protocol[..]);
        assert_eq!(point.server_name.is_empty(), is_plain);
    }
    assert_eq!(report.access_points.len(), 5);
}
