//! The internal port with certificates: who comes in, and how far.

use crate::harness::{ADMIN, CLUSTER, Server, node};
use hawser_chassis::grpc::channel;
use hawser_chassis::peers::{PeerFiles, Peers, Role, issue};
use hawser_chassis::tls::DevCertificates;
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::control_client::ControlClient;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

const LIFE: Duration = Duration::from_hours(24);

fn files(folder: &Path, role: Role) -> PeerFiles {
    PeerFiles {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{}.pem", role.name())),
        key: folder.join(format!("{}.key", role.name())),
    }
}

/// What each call of the port answers to who has this channel.
async fn tried(client: ControlClient<Channel>) -> [Option<Code>; 5] {
    let code = |outcome: Result<(), Status>| outcome.err().map(|status| status.code());
    let watch = |role: &str| {
        let mut client = client.clone();
        let watcher = wire::WatchRequest { role: role.into(), node: "n".into() };
        async move { client.watch(watcher).await.map(drop) }
    };
    let mut calls = client.clone();
    let router = wire::RouterReport { router: "r".into(), ..Default::default() };
    let refresh = wire::RefreshTokenRequest::default();
    [
        code(watch("access").await),
        code(watch("router").await),
        code(calls.report(node("n")).await.map(drop)),
        code(calls.report_router(router).await.map(drop)),
        code(calls.refresh_token(refresh).await.map(drop)),
    ]
}

async fn secured(folder: &Path) -> (Server, String) {
    issue(folder, LIFE).unwrap();
    let peers = Peers::tls(files(folder, Role::Control)).unwrap();
    let server = Server::start_with(|config| config.peers = peers).await;
    let uri = format!("https://{}", server.running.internal_addr());
    (server, uri)
}

/// A stranger's TLS, made with another library's configuration than ours.
fn stranger(uri: &str, ca: &Path, identity: Option<(PathBuf, PathBuf)>) -> ControlClient<Channel> {
    let read = |path: &Path| std::fs::read(path).unwrap();
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(ca)))
        .domain_name(Role::Control.domain());
    if let Some((chain, key)) = identity {
        tls = tls.identity(Identity::from_pem(read(&chain), read(&key)));
    }
    let endpoint = Endpoint::from_shared(uri.to_owned()).unwrap().tls_config(tls).unwrap();
    ControlClient::new(endpoint.connect_lazy())
}

#[tokio::test]
async fn a_certificate_opens_what_its_role_may_call_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (server, uri) = secured(folder.path()).await;
    let (denied, bad) = (Some(Code::PermissionDenied), Some(Code::InvalidArgument));
    for (role, wanted) in [
        (Role::Access, [None, None, None, denied, bad]),
        (Role::Router, [denied, None, denied, None, denied]),
        (Role::Control, [denied; 5]),
        (Role::Operator, [denied; 5]),
    ] {
        let PeerFiles { ca, certificate, key } = files(folder.path(), role);
        let client = stranger(&uri, &ca, Some((certificate, key)));
        assert_eq!(tried(client).await, wanted, "{role:?}");
    }
    // The same through our own end.
    let peers = Peers::tls(files(folder.path(), Role::Access)).unwrap();
    let mut client = ControlClient::new(peers.channel(&uri, Role::Control).unwrap());
    client.report(node("a1")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn strangers_do_not_get_as_far_as_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let (server, uri) = secured(folder.path()).await;
    let ca = folder.path().join("ca.pem");
    let other = tempfile::tempdir().unwrap();
    issue(other.path(), LIFE).unwrap();
    let device = tempfile::tempdir().unwrap();
    let device = DevCertificates::load_or_make(device.path()).unwrap();
    // With TLS 1.3 a client may hear of it only after it has greeted.
    let is_cut = |code: Code| matches!(code, Code::Unavailable | Code::Unknown);
    let cut = |codes: [Option<Code>; 5]| codes.into_iter().all(|code| code.is_some_and(is_cut));

    // Without a certificate; with one of another CA, in the right role; with the one that devices see.
    assert!(cut(tried(stranger(&uri, &ca, None)).await));
    let PeerFiles { certificate, key, .. } = files(other.path(), Role::Access);
    assert!(cut(tried(stranger(&uri, &ca, Some((certificate, key)))).await));
    let shown = Some((device.chain.clone(), device.key.clone()));
    assert!(cut(tried(stranger(&uri, &ca, shown)).await));

    // A secret, of the cluster or of a person, is no certificate: neither in the clear nor over TLS.
    let plain = uri.replace("https", "http");
    for secret in [CLUSTER, ADMIN, "hbk_0123456789012345678901234567890123456789012"] {
        let mut client = ControlClient::new(channel(&plain).unwrap());
        let mut request = Request::new(wire::WatchRequest::default());
        let bearer = format!("Bearer {secret}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        assert!(client.watch(request).await.is_err());
        let mut client = stranger(&uri, &ca, None);
        let mut request = Request::new(node("n"));
        let bearer = format!("Bearer {secret}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        assert!(is_cut(client.report(request).await.unwrap_err().code()));
    }

    // A node that dials does not talk to a control of another CA, nor to a router that claims to be control.
    for (folder, as_role) in [(other.path(), Role::Control), (folder.path(), Role::Router)] {
        let peers = Peers::tls(files(folder, Role::Access)).unwrap();
        let mut client = ControlClient::new(peers.channel(&uri, as_role).unwrap());
        let status = client.report(node("a1")).await.unwrap_err();
        assert!(is_cut(status.code()), "{as_role:?}: {status}");
    }
    assert!(server.get("/v1/nodes").await.expect(200)["items"].as_array().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn new_certificates_are_taken_up_without_a_restart_and_a_silent_stranger_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    issue(folder.path(), LIFE).unwrap();
    let of_control = Peers::tls(files(folder.path(), Role::Control)).unwrap();
    let peers = of_control.clone();
    let server = Server::start_with(|config| config.peers = peers).await;
    let uri = format!("https://{}", server.running.internal_addr());
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(tokio::net::TcpStream::connect(server.running.internal_addr()).await.unwrap());
    }
    let of_access = Peers::tls(files(folder.path(), Role::Access)).unwrap();
    let client = |peers: &Peers| ControlClient::new(peers.channel(&uri, Role::Control).unwrap());
    let mut live = client(&of_access);
    live.report(node("a1")).await.unwrap();

    // Leaves of the same CA again: the old and the new talk to each other.
    let again = issue(folder.path(), LIFE).unwrap();
    assert!(again.ca_is_old);
    let renewed = Peers::tls(files(folder.path(), Role::Access)).unwrap();
    client(&renewed).report(node("a1")).await.unwrap();
    of_control.reload().unwrap();
    client(&renewed).report(node("a1")).await.unwrap();
    client(&of_access).report(node("a1")).await.unwrap();

    // Another CA, taken up by control: only its own come in; who is there stays.
    std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
    assert!(!issue(folder.path(), LIFE).unwrap().ca_is_old);
    of_control.reload().unwrap();
    live.report(node("a1")).await.unwrap();
    assert!(client(&renewed).report(node("a1")).await.is_err());
    renewed.reload().unwrap();
    client(&renewed).report(node("a1")).await.unwrap();

    std::fs::write(folder.path().join("control.pem"), "nonsense").unwrap();
    of_control.reload().unwrap_err();
    client(&renewed).report(node("a1")).await.unwrap();
    drop(silent);
    server.stop().await;
}
