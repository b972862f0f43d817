//! Coming back with a resume ticket: as with the token it was made from, and never beyond it.

use crate::eventually;
use crate::fakes::device::Device;
use crate::fakes::dial::Dial;
use crate::fakes::tokens;
use crate::house::{APP, House};
use bytes::Bytes;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params::{Login, LoginOk};
use hawser_proto::rpc::control::{TicketKey, change::Entity};

fn key(kid: u32, fill: u8) -> TicketKey {
    TicketKey { kid, key: vec![fill; 32].into(), active_from_ms: 0, verify_until_ms: 0 }
}

async fn house_with_key() -> House {
    let house = House::start().await;
    house.put(Entity::TicketKey(key(1, 7))).await;
    house
}

/// A login with everything about it given.
async fn login(
    house: &House,
    name: &str,
    token: String,
    ticket: Bytes,
    change: impl FnOnce(&mut Login),
) -> (Device, Result<LoginOk, CloseCode>) {
    let mut device = house.dial(Dial::Tcp).await;
    let mut login = device.login_frame(APP, name, token);
    login.abilities = ability::RESUME;
    login.resume_ticket = ticket;
    change(&mut login);
    device.send(&DeviceFrame::Login(login)).await;
    let answer = match device.frame().await {
        NodeFrame::LoginOk(ok) => Ok(ok),
        NodeFrame::Close(close) => Err(CloseCode::from_number(close.code).unwrap()),
        other => panic!("wanted LOGIN_OK or CLOSE, got {other:?}"),
    };
    (device, answer)
}

async fn with_token(house: &House, name: &str) -> LoginOk {
    let token = tokens::token(APP, name);
    login(house, name, token, Bytes::new(), |_| {}).await.1.expect("the token is good")
}

async fn with_ticket(house: &House, name: &str, ticket: &Bytes) -> Result<LoginOk, CloseCode> {
    login(house, name, String::new(), ticket.clone(), |_| {}).await.1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_given_to_those_who_know_it_once_there_is_a_key() {
    let house = House::start().await;
    house.control.advise(|answer| answer.reconnect_window_ms = 9_000);
    // What the node knows of before it reports for the third time, it was told at the second.
    let reports = house.control.reports().len();
    eventually("reports", || (house.control.reports().len() >= reports + 3).then_some(())).await;
    let ok = with_token(&house, "d").await;
    assert_eq!((ok.abilities, ok.resume_ticket.len()), (ability::RESUME, 0), "no key yet");
    house.put(Entity::TicketKey(key(1, 7))).await;
    let ok = with_token(&house, "d").await;
    assert!(!ok.resume_ticket.is_empty() && ok.resume_ticket.len() <= 1_024);
    assert_eq!(ok.reconnect_window_ms, 9_000);
    let (_, ok) = house.login(Dial::Tcp, "plain").await;
    assert!(ok.resume_ticket.is_empty(), "it does not know what that is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_stands_for_its_token_here_and_on_any_other_node() {
    let (house, other) = (house_with_key().await, house_with_key().await);
    let first = with_token(&house, "d").await;
    let mut ticket = first.resume_ticket.clone();
    for house in [&house, &other, &house] {
        let ok = with_ticket(house, "d", &ticket).await.expect("the ticket is good");
        assert_eq!(ok.token_expires_at_ms, first.token_expires_at_ms);
        assert_eq!(ok.token_refresh_at_ms, first.token_refresh_at_ms);
        assert_eq!(ok.businesses, first.businesses);
        ticket = ok.resume_ticket;
        assert!(!ticket.is_empty(), "the next one");
    }
    house.metric_is("hawser_access_login_proofs_total", &[("proof", "token")], 1).await;
    house.metric_is("hawser_access_login_proofs_total", &[("proof", "ticket")], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_token_did_not_allow_the_ticket_does_not_either() {
    let house = house_with_key().await;
    let mut claims = tokens::claims(APP, "d");
    claims.biz = vec!["deaf".into()];
    let (_, ok) = login(&house, "d", tokens::sign(&claims), Bytes::new(), |_| {}).await;
    let ok = with_ticket(&house, "d", &ok.unwrap().resume_ticket).await.unwrap();
    let names: Vec<_> = ok.businesses.iter().map(|it| &it.name[..]).collect();
    assert_eq!(names, ["deaf"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_does_not_hold_is_refused_or_the_token_speaks() {
    let house = house_with_key().await;
    let ticket = with_token(&house, "d").await.resume_ticket;
    let foreign = {
        let other = House::start().await;
        other.put(Entity::TicketKey(key(9, 9))).await;
        with_token(&other, "d").await.resume_ticket
    };
    let theirs = with_token(&house, "e").await.resume_ticket;
    let mut forged = ticket.to_vec();
    forged[20] ^= 1;
    let cases = [
        ("forged", Bytes::from(forged), CloseCode::TokenInvalid),
        ("cut", ticket.slice(..ticket.len() - 1), CloseCode::TokenInvalid),
        ("noise", Bytes::from_static(b"noise"), CloseCode::TokenInvalid),
        ("of an unknown key", foreign, CloseCode::TokenExpired),
        ("of another device", theirs, CloseCode::TokenMismatch),
    ];
    for (what, ticket, code) in cases {
        assert_eq!(with_ticket(&house, "d", &ticket).await, Err(code), "{what}");
        let token = tokens::token(APP, "d");
        let (_, answer) = login(&house, "d", token, ticket, |_| {}).await;
        assert!(answer.is_ok(), "{what}: the token is good");
    }
    let (_, none) = login(&house, "d", String::new(), Bytes::new(), |_| {}).await;
    assert_eq!(none, Err(CloseCode::TokenInvalid), "neither");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_reaches_the_ticket_through_its_token() {
    let house = house_with_key().await;
    let ticket = with_token(&house, "d").await.resume_ticket;
    house.control.revoke(APP, "d", tokens::now_s() * 1_000 + 60_000);
    house.caught_up().await;
    assert_eq!(with_ticket(&house, "d", &ticket).await, Err(CloseCode::TokenRevoked));
    // A ticket made an hour later would be of a token issued later: none comes of a revoked one.
    let token = tokens::token(APP, "d");
    let (_, both) = login(&house, "d", token, ticket, |_| {}).await;
    assert_eq!(both, Err(CloseCode::TokenRevoked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_go_take_their_tickets_with_them_and_new_ones_overlap() {
    let house = house_with_key().await;
    let old = with_token(&house, "d").await.resume_ticket;
    house.put(Entity::TicketKey(TicketKey { active_from_ms: 1, ..key(2, 8) })).await;
    let new = with_ticket(&house, "d", &old).await.expect("both keys are good").resume_ticket;
    assert_ne!(old[..4], new[..4], "made with the newer key");
    let past = tokens::now_s() as i64 * 1_000 - 1;
    house.put(Entity::TicketKey(TicketKey { verify_until_ms: past, ..key(1, 7) })).await;
    assert_eq!(with_ticket(&house, "d", &old).await, Err(CloseCode::TokenExpired));
    assert!(with_ticket(&house, "d", &new).await.is_ok());
}

/// Devices that slept too long are no attackers: their address is not held against the others behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_tickets_do_not_count_against_an_address_and_forged_ones_do() {
    let house = House::start_with(|config| {
        config.failed_logins_max = 2;
        config.failed_login_interval = std::time::Duration::from_mins(10);
    })
    .await;
    house.put(Entity::TicketKey(key(1, 7))).await;
    let unknown = Bytes::from([&9u32.to_be_bytes()[..], &[0; 60]].concat());
    for _ in 0..5 {
        assert_eq!(with_ticket(&house, "d", &unknown).await, Err(CloseCode::TokenExpired));
    }
    let forged = Bytes::from([&1u32.to_be_bytes()[..], &[0; 60]].concat());
    for _ in 0..2 {
        assert_eq!(with_ticket(&house, "d", &forged).await, Err(CloseCode::TokenInvalid));
    }
    assert_eq!(with_ticket(&house, "d", &unknown).await, Err(CloseCode::RateLimited));
}
