//! Coming in, and being seen.

use crate::check::place::{Device, PATIENCE, Place, not_named, until};
use crate::check::said::Found;
use crate::wire::Answer;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params::{Login, Ping};
use hawser_proto::rpc::push::PresenceState;
use hawser_sdk::{Client, CloseCode, Protocol, State};
use std::time::Instant;

pub(super) async fn access(place: &Place) -> anyhow::Result<Found> {
    let answer = place.access(&place.name("access")).await?;
    ensure!(answer["token"].as_str().is_some_and(|token| !token.is_empty()), "there is no token");
    ensure!(answer["heartbeat_ms"].as_u64().is_some_and(|it| it > 0), "there is no heartbeat");
    let protocols: Vec<&str> = place.protocols().await?.iter().map(|it| it.name()).collect();
    ensure!(!protocols.is_empty(), "there is no access point");
    Ok(Found::Fine(protocols.join(", ")))
}

pub(super) async fn login(place: &Place, protocol: Protocol) -> anyhow::Result<Found> {
    if !place.protocols().await?.contains(&protocol) {
        return Ok(not_named(protocol.name()));
    }
    let begun = Instant::now();
    let device = place.online(&place.name(&format!("login-{protocol}")), Some(protocol)).await?;
    let took = begun.elapsed();
    let state = device.client.state();
    let is_over_it = matches!(&state, State::Online { protocol: over, .. } if *over == protocol);
    ensure!(is_over_it, "asked for {protocol}, and is {state}");
    device.client.close().await;
    Ok(Found::Fine(format!("{:.0} ms with the access call", took.as_secs_f64() * 1e3)))
}

pub(super) async fn heartbeat(place: &Place) -> anyhow::Result<Found> {
    let Some((mut wire, credential)) = place.bare(&place.name("heartbeat")).await? else {
        return Ok(not_named("tcp or tls"));
    };
    let tries = (rand::random(), 1);
    wire.try_login(&credential, &place.business, tries).await?.welcome()?;
    let (nonce, begun) = (rand::random(), Instant::now());
    wire.say(&DeviceFrame::Ping(Ping { nonce })).await?;
    match wire.hear_within(PATIENCE).await? {
        NodeFrame::Pong(pong) if pong.nonce == nonce => {
            Ok(Found::Fine(format!("{:.1} ms", begun.elapsed().as_secs_f64() * 1e3)))
        }
        other => bail!("a heartbeat is answered with {other:?}"),
    }
}

pub(super) async fn forged_token(place: &Place) -> anyhow::Result<Found> {
    let (mine, other) = (place.name("forged"), place.name("forged-other"));
    let answer = place.access(&mine).await?;
    let token = answer["token"].as_str().context("an answer without a token")?;
    let forged = place.showing(&mine, &changed(token)?, &answer)?;
    refused(&forged, "a changed token", CloseCode::TokenInvalid).await?;
    let borrowed = place.showing(&other, token, &answer)?;
    refused(&borrowed, "a token of another device", CloseCode::TokenMismatch).await?;
    Ok(Found::Fine(String::new()))
}

/// With another signature: its last letter may hold spare bits, one in the middle does not.
fn changed(token: &str) -> anyhow::Result<String> {
    let (signed, signature) = token.rsplit_once('.').context("the token is no JWT")?;
    let middle = signature.len() / 2;
    ensure!(signature.is_ascii() && middle > 0, "the token has no signature");
    let letter = if signature.as_bytes()[middle] == b'A' { 'B' } else { 'A' };
    Ok(format!("{signed}.{}{letter}{}", &signature[..middle], &signature[middle + 1..]))
}

async fn refused(client: &Client, what: &str, expected: CloseCode) -> anyhow::Result<()> {
    client.start();
    let mut states = client.states();
    let settled = |state: &State| {
        matches!(state, State::Online { .. } | State::Offline { .. } | State::Closed { .. })
    };
    let state = tokio::time::timeout(PATIENCE, states.wait_for(settled)).await;
    let state = state.with_context(|| format!("{what} is not answered"))??.clone();
    client.close().await;
    match state {
        State::Offline { reason, .. } | State::Closed { reason, .. } => {
            let code = reason.close_code();
            ensure!(code == Some(expected), "{what} ends with: {reason}");
            Ok(())
        }
        _ => bail!("{what} was taken"),
    }
}

pub(super) async fn supersede(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("twin");
    let first = place.online(&name, None).await?;
    let second = place.online(&name, None).await?;
    let ended = first.until(State::is_closed).await?;
    let State::Closed { code, reason } = &ended else { bail!("the first is {ended}") };
    ensure!(*code == Some(CloseCode::Superseded), "the first ended with: {reason}");
    let epoch = epoch(&second)?;
    until("presence does not name the second login", || async {
        anyhow::Ok(place.presence(&name).await? == (PresenceState::Online, epoch))
    })
    .await?;
    second.client.close().await;
    Ok(Found::Fine(String::new()))
}

fn epoch(device: &Device) -> anyhow::Result<u64> {
    match device.client.state() {
        State::Online { epoch, .. } => Ok(epoch),
        state => bail!("{} is {state}", device.id),
    }
}

pub(super) async fn resume_ticket(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("ticket");
    let instance: [u8; 16] = rand::random();
    let login = |attempt| Login {
        app: place.app.clone(),
        device: name.clone(),
        instance: Bytes::copy_from_slice(&instance),
        attempt,
        businesses: vec![place.business.clone()],
        abilities: ability::RESUME,
        ..Login::default()
    };
    let Some((mut wire, credential)) = place.bare(&name).await? else {
        return Ok(not_named("tcp or tls"));
    };
    wire.say(&DeviceFrame::Login(Login { token: credential.token, ..login(1) })).await?;
    let first = wire.login_answer().await?.welcome()?;
    if first.resume_ticket.is_empty() {
        return Ok(Found::Unknown("the deployment gives no tickets".to_owned()));
    }
    drop(wire);
    let Some((mut wire, _)) = place.bare(&name).await? else { return Ok(not_named("tcp or tls")) };
    let ticket = first.resume_ticket;
    wire.say(&DeviceFrame::Login(Login { resume_ticket: ticket, ..login(2) })).await?;
    match wire.login_answer().await? {
        Answer::In(ok) => {
            ensure!(ok.epoch > first.epoch, "the epoch did not grow: {} {}", first.epoch, ok.epoch);
            Ok(Found::Fine(String::new()))
        }
        Answer::Refused(close) => bail!("the ticket is refused: {} {}", close.code, close.reason),
    }
}

pub(super) async fn presence(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("present");
    let is = |state| {
        let name = name.clone();
        move || {
            let name = name.clone();
            async move { anyhow::Ok(place.presence(&name).await?.0 == state) }
        }
    };
    let before = place.presence(&name).await?.0;
    ensure!(before == PresenceState::Offline, "before its first login it is {before:?}");
    let device = place.online(&name, None).await?;
    until("it is not seen online", is(PresenceState::Online)).await?;
    device.client.close().await;
    let closed = Instant::now();
    until("it is not seen to go", is(PresenceState::Offline)).await?;
    Ok(Found::Fine(format!("gone within {:.0} ms", closed.elapsed().as_secs_f64() * 1e3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_token_differs_in_its_signature_alone() {
        for token in ["a.b.AAAAAAAA", "a.b.CDEFGHIJ"] {
            let forged = changed(token).unwrap();
            assert_ne!(forged, token);
            assert_eq!((forged.len(), &forged[..4]), (token.len(), "a.b."));
        }
        assert!(changed("opaque").is_err());
    }
}
