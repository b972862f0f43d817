use super::*;
use tokio::net::TcpListener;

#[derive(Debug, Deserialize)]
struct File {
    callbacks: Callbacks,
}

fn parsed(text: &str) -> Result<Callbacks, String> {
    let file: Result<File, _> = toml::from_str(&format!("callbacks = {text}"));
    file.map(|file| file.callbacks).map_err(|error| error.to_string())
}

#[test]
fn only_addresses_of_the_internet_are_public() {
    let public = Callbacks::public();
    for good in [
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:200::1",
        "2002:101:101::1",
        "64:ff9b::1.1.1.1",
        "::ffff:1.1.1.1",
    ] {
        assert!(public.allow(good.parse().unwrap()), "{good}");
    }
    for bad in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2002:7f00:1::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ] {
        assert!(!public.allow(bad.parse().unwrap()), "{bad}");
        assert!(Callbacks::any().allow(bad.parse().unwrap()), "{bad}");
    }
}

#[test]
fn networks_are_allowed_by_name_and_nothing_beside_them() {
    let some = parsed("[\"10.1.0.0/16\", \"fd00::/8\", \"192.168.7.7/32\"]").unwrap();
    for (address, wanted) in [
        ("10.1.255.1", true),
        ("::ffff:10.1.0.1", true),
        ("10.2.0.1", false),
        ("fd12::1", true),
        ("fc00::1", false),
        ("192.168.7.7", true),
        ("192.168.7.8", false),
        ("1.1.1.1", false),
    ] {
        assert_eq!(some.allow(address.parse().unwrap()), wanted, "{address}");
    }
    let both = parsed("[\"public\", \"10.0.0.0/8\"]").unwrap();
    assert!(both.allow("1.1.1.1".parse().unwrap()) && both.allow("10.9.9.9".parse().unwrap()));
    assert!(!both.allow("127.0.0.1".parse().unwrap()));
    assert_eq!(parsed("\"public\""), Ok(Callbacks::public()));
    assert_eq!(parsed("\"any\""), Ok(Callbacks::any()));
    let all = parsed("[\"0.0.0.0/0\"]").unwrap();
    assert!(all.allow("127.0.0.1".parse().unwrap()) && !all.allow("::1".parse().unwrap()));
    for bad in ["\"privat\"", "[\"10.0.0.0\"]", "[\"10.0.0.0/33\"]", "[\"::/129\"]", "1", "[1]"] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_is_refused_is_never_dialled_by_literal_or_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connector = |callbacks: &Callbacks| Connector {
        endpoint: "test".into(),
        callbacks: callbacks.clone(),
        told: Arc::default(),
    };
    let uris = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"];
    for host in uris {
        let uri: http::Uri = format!("http://{host}:{port}").parse().unwrap();
        let refused = connector(&Callbacks::public()).connect(uri).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}: {refused}");
    }
    let waiting = tokio::time::timeout(Duration::from_millis(1), listener.accept()).await;
    assert!(waiting.is_err(), "nobody dialled");
    let uri: http::Uri = format!("http://localhost:{port}").parse().unwrap();
    connector(&Callbacks::any()).connect(uri).await.unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_logged_once_a_minute() {
    let connector =
        Connector { endpoint: "test".into(), callbacks: Callbacks::public(), told: Arc::default() };
    let address = "127.0.0.1:1".parse().unwrap();
    connector.tell(address);
    let first = *connector.told.lock();
    connector.tell(address);
    assert_eq!(*connector.told.lock(), first);
    assert!(first.is_some());
}
