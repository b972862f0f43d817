//! The operator's commands over TLS, which a proxy in front of the public ports ends.

use crate::process::{Dev, meanwhile};
use hawser_chassis::tls::{Certificate, DevCertificates};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Ends TLS for what listens at `target`, and returns its own address.
async fn proxy(
    tasks: &mut JoinSet<()>,
    files: &DevCertificates,
    alpn: &[u8],
    target: &str,
) -> String {
    let certificate = Certificate::load(&files.chain, &files.key).expect("a pair");
    let config = certificate.server_config(&[alpn]).expect("usable");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let target = target.strip_prefix("http://").expect("a plain address").to_owned();
    tasks.spawn(async move {
        let mut links = JoinSet::new();
        while let Ok((link, _)) = listener.accept().await {
            let (acceptor, target) = (acceptor.clone(), target.clone());
            links.spawn(async move {
                // A client that does not trust the certificate goes.
                let Ok(mut outer) = acceptor.accept(link).await else { return };
                let mut inner = TcpStream::connect(target).await.expect("it listens");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_and_the_push_api_are_reached_over_tls_by_whoever_trusts_the_proxy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dev = Dev::start(folder.path());
    let files = DevCertificates::load_or_make(&folder.path().join("proxy")).expect("certificates");
    let mut tasks = JoinSet::new();
    let control = proxy(&mut tasks, &files, b"http/1.1", dev.at("control")).await;
    let push = proxy(&mut tasks, &files, b"h2", dev.at("push")).await;
    let ca = files.ca.to_str().expect("UTF-8");

    let nodes = ["node", "list", "--control", &control];
    let said = meanwhile(folder.path(), &[&nodes as &[_], &["--ca", ca]].concat()).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.json().as_array().expect("a list").len(), 1);
    let show = ["device", "presence", "nobody", "--push", &push];
    let said = meanwhile(folder.path(), &[&show as &[_], &["--ca", ca]].concat()).await;
    assert_eq!(said.code, Some(0), "{}", said.err);

    for line in [&nodes as &[_], &show] {
        let said = meanwhile(folder.path(), line).await;
        assert_eq!(said.code, Some(3), "{}", said.err);
        assert!(said.err.contains("--ca or HAWSER_CA"), "{}", said.err);
    }
    // A name that the certificate is not for, though the CA is trusted.
    let other = control.replace("localhost", "127.0.0.2");
    let said = meanwhile(folder.path(), &["node", "list", "--control", &other, "--ca", ca]).await;
    assert_eq!(said.code, Some(3), "{}", said.err);
    tasks.shutdown().await;
    let (code, said) = dev.terminate();
    assert_eq!(code, Some(0), "{said}");
}
