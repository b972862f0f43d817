use super::*;

#[test]
fn a_secret_dials_plain_addresses_and_stays_hidden() {
    let peers = Peers::secret(&Secret::new("open sesame")).expect("a header value");
    assert!(!format!("{peers:?}").contains("sesame"));
    peers.check_address("http://127.0.0.1:1").expect("an address");
    peers.check_address("http://[::1]:1").expect("an address");
    for wrong in ["127.0.0.1:1", "http://", "http://host", "http://a b:1", ""] {
        assert!(matches!(peers.check_address(wrong), Err(PeersError::Address { .. })), "{wrong}");
    }
    let tls = peers.check_address("https://127.0.0.1:1");
    assert!(matches!(tls, Err(PeersError::Scheme { expected: "http", .. })));
    assert!(matches!(Peers::secret(&Secret::new("new\nline")), Err(PeersError::Secret)));
}

#[test]
fn a_guard_asks_for_the_secret_and_says_who_calls() {
    let peers = Peers::secret(&Secret::new("open sesame")).expect("a header value");
    let mut guard = peers.guard(&[Role::Access]);
    assert_eq!(
        guard.call(Request::new(())).map(drop).map_err(|it| it.code()),
        Err(tonic::Code::Unauthenticated)
    );
    let Form::Secret { shown, .. } = &peers.0 else { unreachable!("made so above") };
    let shown = Show(Some(shown.clone())).call(Request::new(())).expect("shown");
    let let_through = guard.call(shown).expect("let through");
    assert!(Caller::of(&let_through).is(Role::Access));
    assert!(!Caller::of(&Request::new(())).is(Role::Access));
}

mod with_tls {
    #![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]

    use super::*;
    use crate::shutdown::Tasks;
    use prometheus::Registry;
    use std::path::Path;
    use std::time::Duration;
    use tokio::net::{TcpSocket, TcpStream};
    use tokio_rustls::TlsConnector;
    use tokio_stream::StreamExt as _;

    const DAY: Duration = Duration::from_hours(24);

    fn files(folder: &Path, life: Duration) -> PeerFiles {
        let issued = issue(folder, life).expect("issued");
        let (_, certificate, key) = issued.leaves[2].clone();
        PeerFiles { ca: issued.ca, certificate, key }
    }

    fn end_of(path: &Path) -> u64 {
        let chain = crate::tls::read_chain(path).expect("a chain");
        look_at(&chain[0]).expect("a certificate").not_after
    }

    async fn dial(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("bound");
        socket.connect(to).await.expect("connected")
    }

    /// Silent links fill the place; one that was there first, from elsewhere, still greets, and so does one that
    /// comes after all of them, from where they are.
    #[tokio::test]
    async fn silent_links_hold_up_no_service() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let peers = Peers::tls(files(folder.path(), DAY)).expect("certificates");
        let Form::Tls(material) = &peers.0 else { unreachable!("made so above") };
        let listener = crate::listen::tcp(([127, 0, 0, 1], 0).into()).expect("bound");
        let at = listener.local_addr().expect("an address");
        let mut incoming = Box::pin(peers.incoming(listener));
        let (met, mut all_met) = tokio::sync::mpsc::channel(8);
        let serving = tokio::spawn(async move {
            while let Some(Ok(peer)) = incoming.next().await {
                met.send(peer).await.expect("the test waits");
            }
        });
        let first = dial([127, 0, 0, 2], at).await;
        let mut silent = Vec::new();
        for _ in 0..400 {
            silent.push(dial([127, 0, 0, 1], at).await);
        }
        let last = dial([127, 0, 0, 1], at).await;
        for link in [first, last] {
            let tls = TlsConnector::from(material.client());
            let name = Role::Access.server_name();
            // Well before any of the silent ones is given up.
            let greeted = tokio::time::timeout(Duration::from_secs(3), async {
                let link = tls.connect(name, link).await.expect("greeted");
                (link, all_met.recv().await.expect("served"))
            });
            let (_link, _peer) = greeted.await.expect("not held up");
        }
        serving.abort();
    }

    fn shown(registry: &Registry) -> u64 {
        let all = registry.gather();
        let name = "hawser_internal_certificate_expires_seconds";
        let family = all.iter().find(|family| family.name() == name).expect("a metric");
        family.get_metric()[0].get_gauge().get_value() as u64
    }

    #[derive(Clone, Default)]
    struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_shown_and_told_of_each_day() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _here = tracing::subscriber::set_default(subscriber);
        let warnings = || {
            let said = log.0.lock();
            String::from_utf8_lossy(&said).matches("ends soon").count()
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let access = files(folder.path(), 100 * DAY);
        let certificate = access.certificate.clone();
        let peers = Peers::tls(access).expect("certificates");
        let (tasks, registry) = (Tasks::new(), Registry::new());
        peers.watch(&tasks, &registry);
        assert_eq!(shown(&registry), end_of(&certificate));
        tokio::time::sleep(DAY * 3 / 2).await;
        assert_eq!(warnings(), 0);

        files(folder.path(), 10 * DAY);
        peers.reload().expect("read again");
        assert_eq!(shown(&registry), end_of(&certificate));
        assert_eq!(warnings(), 1);
        tokio::time::sleep(2 * DAY).await;
        assert_eq!(warnings(), 3);
        assert!(tasks.shutdown(DAY).await);
    }

    #[test]
    fn no_leaf_outlives_its_ca() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ten_years = Duration::from_hours(10 * 365 * 24);
        let issued = issue(folder.path(), 2 * ten_years).expect("issued");
        let ca_end = end_of(&issued.ca);
        assert!(issued.life <= ten_years);
        assert_eq!(end_of(&issued.leaves[0].1), ca_end);
        let again = issue(folder.path(), DAY).expect("issued");
        assert_eq!(again.life, DAY);
        assert!(again.ca_is_old && end_of(&again.leaves[0].1) < ca_end);
    }
}
