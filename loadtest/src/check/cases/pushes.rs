//! Requests and volatile pushes.

use crate::check::place::Place;
use crate::check::said::Found;
use anyhow::{Context, ensure};
use bytes::Bytes;
use hawser_proto::rpc::push::{BatchUnicastRequest, Class, Message, Outcome};
use hawser_sdk::RequestError;
use std::time::Instant;

pub(super) async fn request(place: &Place) -> anyhow::Result<Found> {
    let device = place.online(&place.name("asks"), None).await?;
    let begun = Instant::now();
    let answer = device.business.request(&place.method, "is anyone there?").await;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    device.client.close().await;
    match answer {
        Ok(answer) => {
            ensure!(
                answer.body == "is anyone there?",
                "{:?} was answered, {} bytes, but not with what it was asked",
                place.method,
                answer.body.len()
            );
            Ok(Found::Fine(format!("{took:.1} ms")))
        }
        // That its business is away, or knows no such method, is not hawser's doing.
        Err(error @ (RequestError::Refused { .. } | RequestError::DeadlineExceeded)) => {
            Ok(Found::Unknown(format!("the business does not answer {:?}: {error}", place.method)))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn online(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("online");
    let mut device = place.online(&name, None).await?;
    let begun = Instant::now();
    let answer = place.unicast(&name, Class::Volatile, "one", "hello").await?;
    let outcome = answer.outcome();
    ensure!(outcome == Outcome::Written, "the outcome is {}", outcome.as_str_name());
    device.hears("hello", None).await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    // Whatever came twice would stand before this one.
    place.unicast(&name, Class::Volatile, "two", "goodbye").await?;
    device.hears("goodbye", None).await?;
    device.client.close().await;
    Ok(Found::Fine(format!("{took:.1} ms")))
}

pub(super) async fn offline(place: &Place) -> anyhow::Result<Found> {
    let answer = place.unicast(&place.name("away"), Class::Volatile, "", "hello").await?;
    let outcome = answer.outcome();
    ensure!(outcome == Outcome::Offline, "the outcome is {}", outcome.as_str_name());
    Ok(Found::Fine(String::new()))
}

pub(super) async fn batch(place: &Place) -> anyhow::Result<Found> {
    let mut here = Vec::new();
    for protocol in place.protocols().await? {
        let name = place.name(&format!("batch-{protocol}"));
        here.push(place.online(&name, Some(*protocol)).await?);
    }
    // In turns, so that a mix-up of their order is seen.
    let mut devices = Vec::new();
    for device in &here {
        devices.extend([device.id.clone(), format!("{}-away", device.id)]);
    }
    let request = BatchUnicastRequest {
        message: Some(Message { body: Bytes::from_static(b"to all"), ..Message::default() }),
        devices,
        ..BatchUnicastRequest::default()
    };
    let answer = place.push().batch_unicast(place.call(request)).await?.into_inner();
    let expected: Vec<i32> =
        here.iter().flat_map(|_| [Outcome::Written, Outcome::Offline].map(i32::from)).collect();
    ensure!(
        answer.outcomes == expected,
        "the outcomes are {:?} in place of {expected:?}",
        answer.outcomes
    );
    let total = |outcome: Outcome| {
        let found = answer.totals.iter().find(|total| total.outcome() == outcome);
        found.map_or(0, |total| total.count)
    };
    let (written, offline) = (total(Outcome::Written), total(Outcome::Offline));
    let count = here.len() as u64;
    let sum: u64 = answer.totals.iter().map(|total| total.count).sum();
    ensure!(
        (written, offline, sum) == (count, count, 2 * count),
        "of {count} devices here and as many away, {written} were written and {offline} offline of {sum}"
    );
    for device in &mut here {
        device.hears("to all", None).await.context("one that was written")?;
    }
    futures_util::future::join_all(here.iter().map(|device| device.client.close())).await;
    Ok(Found::Fine(format!("{count} online, {count} away")))
}
