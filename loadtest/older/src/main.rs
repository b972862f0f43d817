//! Devices on the SDK of an earlier release: they connect through control, join a group, ask a business
//! every second, and write each thing that happens as a line of JSON.
//!
//! Arguments: control, app, business, group, then the names of the devices.

use hawser_sdk::{Client, Incoming, State};
use serde_json::{Value, json};
use std::time::Duration;

fn say(device: &str, what: &str, value: Value) {
    println!("{}", json!({"device": device, "what": what, "value": value}));
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next =
        || arguments.next().expect("control, app, business, group and devices are given");
    let [control, app, business, group] = [next(), next(), next(), next()];
    let devices: Vec<_> = arguments
        .map(|device| live(control.clone(), app.clone(), business.clone(), group.clone(), device))
        .map(tokio::spawn)
        .collect();
    for device in devices {
        device.await.expect("a device does not panic");
    }
}

async fn live(control: String, app: String, business: String, group: String, device: String) {
    let name = device.clone();
    let client = Client::builder(&control, &app, &device)
        .business(&business)
        .on_state(move |state| match state {
            State::Online { connection, .. } => say(&name, "online", json!(connection)),
            State::Offline { reason, .. } => say(&name, "offline", json!(reason.to_string())),
            State::Closed { reason, .. } => say(&name, "closed", json!(reason.to_string())),
            _ => {}
        })
        .build()
        .expect("the client can be built");
    let handle = client.business(&business);
    let mut incoming = handle.listen();
    client.connect().await.expect("the client connects");
    let asks = handle.clone();
    let asker = device.clone();
    let asking = tokio::spawn(async move {
        let mut number = 0_u64;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            number += 1;
            let body = format!("{asker} {number}");
            match asks.request("echo", body.clone()).await {
                Ok(answer) if answer.body == body => say(&asker, "answered", json!(number)),
                Ok(_) => say(&asker, "wrong", json!(number)),
                Err(failure) => say(&asker, "failed", json!(failure.to_string())),
            }
        }
    });
    while handle.join(&group).await.is_err() {}
    say(&device, "joined", json!(group));
    while let Some(item) = incoming.next_item().await {
        if let Incoming::Push(push) = item {
            let what = if push.group.is_some() { "group" } else { "push" };
            say(&device, what, json!(String::from_utf8_lossy(&push.body)));
        }
    }
    asking.abort();
}
