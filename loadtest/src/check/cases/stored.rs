//! Stored pushes: there once the call has answered, until the device's app has handled them.

use crate::check::place::Place;
use crate::check::said::{self, Found};
use anyhow::{bail, ensure};
use hawser_proto::rpc::push::Class;
use hawser_sdk::{FileCursors, FileStorage, Position};

const PUSHES: usize = 5;

pub(super) async fn offline(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("stored");
    let mut last = Position::default();
    for number in 0..PUSHES {
        let stored = place.store(&name, &format!("s{number}"), &format!("push {number}")).await?;
        let position = Position::new(stored.term, stored.seq);
        ensure!(position > last, "a push was stored at {position}, behind {last}");
        last = position;
    }
    let waiting = place.inbox(&name).await?.entries;
    ensure!(waiting == PUSHES as u64, "{waiting} of {PUSHES} stored pushes wait");
    let mut device = place.online(&name, None).await?;
    for number in 0..PUSHES {
        let push = device.hears(&format!("push {number}"), None).await?;
        ensure!(push.position.is_some(), "a stored push came without a position");
    }
    device.pushes.ack();
    place.until_empty(&name).await?;
    device.client.close().await;
    Ok(Found::Fine(format!("{PUSHES} pushes")))
}

pub(super) async fn push_id(place: &Place) -> anyhow::Result<Found> {
    let name = place.name("push-id");
    let first = place.store(&name, "once", "the same").await?;
    let again = place.store(&name, "once", "the same").await?;
    ensure!(again.repeated, "a repeated push is not said to be one");
    ensure!(
        (first.term, first.seq) == (again.term, again.seq),
        "one push id has two positions: {first:?} {again:?}"
    );
    match place.unicast(&name, Class::Stored, "once", "another").await {
        Ok(answer) => bail!("a used push id with another content is answered {answer:?}"),
        Err(status) if said::code(&status) == "push_id_reused" => {}
        Err(status) => return Err(status.into()),
    }
    let waiting = place.inbox(&name).await?.entries;
    ensure!(waiting == 1, "{waiting} entries wait in place of one");
    Ok(Found::Fine(String::new()))
}

pub(super) async fn moves(place: &Place) -> anyhow::Result<Found> {
    let protocols = place.protocols().await?;
    if protocols.len() < 2 {
        return Ok(Found::Unknown("control names one protocol alone".to_owned()));
    }
    let name = place.name("moves");
    let folder = place.folder().join("moves");
    std::fs::create_dir_all(&folder)?;
    let mut number = 0;
    for protocol in protocols {
        // Two while it is away, one while it is there: each comes once, and none of an earlier round.
        for away in 0..2 {
            let text = format!("push {}", number + away);
            place.store(&name, &text, &text).await?;
        }
        let builder = place
            .builder(&name)
            .storage(FileStorage::new(folder.join("installation")))
            .cursors(FileCursors::new(&folder))
            .protocol(*protocol);
        let mut device = place.log_in(&name, builder).await?;
        device.hears(&format!("push {number}"), None).await?;
        device.hears(&format!("push {}", number + 1), None).await?;
        let text = format!("push {}", number + 2);
        place.store(&name, &text, &text).await?;
        device.hears(&text, None).await?;
        device.pushes.ack();
        place.until_empty(&name).await?;
        device.client.close().await;
        number += 3;
    }
    Ok(Found::Fine(format!("{number} pushes over {} protocols", protocols.len())))
}
