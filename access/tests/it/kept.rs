//! A node that starts while control is away: it works with the last catalogue it was told.

use crate::eventually;
use crate::fakes::control::Control;
use crate::fakes::dial::{self, Dial};
use crate::fakes::router::Router;
use crate::fakes::tokens;
use crate::house::{APP, House, config, listeners, snapshot};
use hawser_access::Running;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::DeviceFrame;
use hawser_proto::rpc::control::{self as wire, change::Entity};
use prometheus::Registry;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// A node that has only its folder, and a router.
async fn start_alone(folder: &Path, router: &Router, control: &Control) -> Running {
    let mut settings = config(control, router);
    settings.data_dir = Some(folder.to_owned());
    hawser_access::start(settings, listeners().await, &Registry::new()).await.unwrap()
}

async fn login(node: &Running, name: &str, token: String) -> Result<(), CloseCode> {
    let mut device = dial::dial(Dial::Tcp, node.address("tcp").unwrap(), &[]).await;
    let login = device.login_frame(APP, name, token);
    device.send(&DeviceFrame::Login(login)).await;
    match device.frame().await {
        hawser_proto::frame::NodeFrame::LoginOk(_) => Ok(()),
        hawser_proto::frame::NodeFrame::Close(close) => {
            Err(CloseCode::from_number(close.code).unwrap())
        }
        other => panic!("wanted LOGIN_OK or CLOSE, got {other:?}"),
    }
}

/// Waits until the file holds what the node knows by now: its size is the only thing to see from here.
async fn kept_after(folder: &Path, change: impl Future<Output = ()>) {
    let read = || std::fs::read(folder.join("catalogue.kept")).ok();
    let before = read();
    change.await;
    eventually("the catalogue is kept", || (read() != before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_without_control_once_it_has_heard_it() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("access");
    let at = data_dir.clone();
    let house = House::start_with(|config| config.data_dir = Some(at)).await;
    eventually("the catalogue is kept", || data_dir.join("catalogue.kept").exists().then_some(()))
        .await;
    let mode = std::fs::metadata(data_dir.join("catalogue.kept")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds keys");
    let before = tokens::token(APP, "revoked");
    kept_after(&data_dir, async {
        house.control.revoke(APP, "revoked", tokens::now_s() * 1_000 + 5_000);
    })
    .await;
    let late = wire::SigningKey {
        verify_until_ms: tokens::now_s() as i64 * 1_000 + 1_500,
        ..tokens::published("short", tokens::THEIRS)
    };
    kept_after(&data_dir, async { house.control.put(Entity::SigningKey(late)) }).await;
    house.control.go_away();
    assert!(house.node.clone().shutdown(crate::PATIENCE).await);

    let node = start_alone(&data_dir, &house.router, &house.control).await;
    eventually("it is ready", || node.is_ready().then_some(())).await;
    assert_eq!(login(&node, "d", tokens::token(APP, "d")).await, Ok(()));
    // What was revoked stays revoked, and what ends still ends.
    assert_eq!(login(&node, "revoked", before).await, Err(CloseCode::TokenRevoked));
    let mut expired = tokens::claims(APP, "d");
    (expired.iat, expired.exp) = (expired.iat - 3_700, expired.iat - 100);
    let expired = tokens::sign(&expired);
    assert_eq!(login(&node, "d", expired).await, Err(CloseCode::TokenExpired));
    let key = hawser_proto::token::SigningKey::from_ed25519_pkcs8(
        "short",
        &tokens::pkcs8(tokens::THEIRS),
    );
    let signed = key.sign(&tokens::claims(APP, "d")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_600)).await;
    assert_eq!(login(&node, "d", signed).await, Err(CloseCode::TokenUnknownKey));
    assert!(node.shutdown(crate::PATIENCE).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_or_foreign_file_is_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalogue.kept");
    let at = folder.path().to_owned();
    let house = House::start_with(|config| config.data_dir = Some(at)).await;
    eventually("the catalogue is kept", || path.exists().then_some(())).await;
    assert!(house.node.clone().shutdown(crate::PATIENCE).await);
    house.control.go_away();
    let whole = std::fs::read(&path).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let cases = [
        ("torn", whole[..whole.len() / 2].to_vec()),
        ("changed", changed),
        ("foreign", vec![7; 900]),
    ];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        let node = start_alone(folder.path(), &house.router, &house.control).await;
        assert_eq!(
            login(&node, "d", tokens::token(APP, "d")).await,
            Err(CloseCode::Overloaded),
            "{what}: it waits for control"
        );
        assert!(node.shutdown(crate::PATIENCE).await);
    }
    // And control mends it.
    let control = Control::start(snapshot(&house.business.uri)).await;
    let node = start_alone(folder.path(), &house.router, &control).await;
    eventually("it is ready", || node.is_ready().then_some(())).await;
    eventually("it is kept again", || {
        (std::fs::read(&path).unwrap().len() == whole.len()).then_some(())
    })
    .await;
}
