//! A router that starts while control is away: it works with the last catalogue it was told.

use crate::kit::control::FakeControl;
use crate::kit::{PATIENCE, by, code, eventually, router, to_one};
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_router::Running;
use prometheus::Registry;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// What becomes of a call with this key.
async fn call(router: &Running, key: &str) -> Result<(), String> {
    let uri = format!("http://{}", router.push_addr());
    let mut client = PushClient::connect(uri).await.unwrap();
    let answer = client.unicast(by(key, to_one("d"))).await;
    if answer.is_ok() { Ok(()) } else { Err(code(answer)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_starts_without_control_once_it_has_heard_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalogue.kept");
    let read = || std::fs::read(&file).ok();
    let control = FakeControl::start().await;
    let start = async || router(&control, folder.path(), &Registry::new(), |_| {}).await.0;
    let first = start().await;
    eventually(async || read()).await;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // A key that is taken away stays away.
    for gone in ["", "live"] {
        let before = read();
        control.change(|all| all.keys.retain(|key| key.business != gone));
        eventually(async || (read() != before).then_some(())).await;
    }
    control.stop();
    assert!(first.shutdown(PATIENCE).await);

    let second = start().await;
    assert_eq!(call(&second, "demo-chat").await, Ok(()));
    assert_eq!(call(&second, "demo-live").await, Err("unauthenticated".into()));
    assert!(second.shutdown(PATIENCE).await);

    // One that cannot be believed is as none: it waits for control.
    let whole = read().unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), start()).await.is_err());
}
