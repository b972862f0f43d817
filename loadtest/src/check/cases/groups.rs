//! Groups: who is in hears, who is not does not.

use crate::check::place::{Place, until};
use crate::check::said::Found;
use anyhow::ensure;
use bytes::Bytes;
use hawser_proto::rpc::push::{
    Class, MembershipRequest, Message, MulticastRequest, MulticastResponse,
};

/// Pushes to a group.
pub(super) async fn multicast(
    place: &Place,
    group: &str,
    push_id: &str,
    body: &str,
) -> anyhow::Result<MulticastResponse> {
    let request = MulticastRequest {
        group: group.to_owned(),
        message: Some(Message {
            body: Bytes::copy_from_slice(body.as_bytes()),
            ..Message::default()
        }),
        push_id: Bytes::copy_from_slice(push_id.as_bytes()),
        ..MulticastRequest::default()
    };
    Ok(place.push().multicast(place.call(request)).await?.into_inner())
}

pub(super) async fn group(place: &Place) -> anyhow::Result<Found> {
    let group = place.create_group("group").await?;
    let mut one = place.online(&place.name("group-one"), None).await?;
    let mut two = place.online(&place.name("group-two"), None).await?;
    let mut out = place.online(&place.name("group-out"), None).await?;
    one.business.join(&group).await?;
    two.business.join(&group).await?;
    until("two joined, and so many are not described", || async {
        anyhow::Ok(place.members(&group).await? == 2)
    })
    .await?;
    let answer = multicast(place, &group, "", "to two").await?;
    ensure!(
        (answer.members, answer.dropped) == (2, 0),
        "of two members, {} were reached and {} dropped",
        answer.members,
        answer.dropped
    );
    one.hears("to two", Some(&group)).await?;
    two.hears("to two", Some(&group)).await?;
    // The next thing that the third hears is this: it heard nothing of the group.
    place.unicast(&out.id, Class::Volatile, "", "to you").await?;
    out.hears("to you", None).await?;

    // One leaves by itself, the third is taken in by the business.
    one.business.leave(&group).await?;
    let devices = vec![out.id.clone()];
    let request = MembershipRequest { group: group.clone(), devices, ..Default::default() };
    let answer = place.push().join_group(place.call(request)).await?.into_inner();
    let refused = answer.results.iter().find(|result| result.status != 0);
    ensure!(refused.is_none(), "the business cannot take a device in: {refused:?}");
    until("one left and one came, and they are not two", || async {
        anyhow::Ok(place.members(&group).await? == 2)
    })
    .await?;
    let answer = multicast(place, &group, "", "to the others").await?;
    ensure!(answer.members == 2, "{} members were reached, not two", answer.members);
    two.hears("to the others", Some(&group)).await?;
    out.hears("to the others", Some(&group)).await?;
    place.unicast(&one.id, Class::Volatile, "", "to you").await?;
    one.hears("to you", None).await?;
    for device in [one, two, out] {
        device.client.close().await;
    }
    Ok(Found::Fine(String::new()))
}
