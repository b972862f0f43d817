//! The small HTTP servers of `hawser dev`: the demo page and the admin port. Spoken to over a plain
//! socket, as a browser would.

use crate::process::Dev;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// The head and the body of an answer.
fn get(base: &str, path: &str) -> (String, String) {
    let host = base.strip_prefix("http://").expect("a plain address");
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.to_lowercase(), body.to_owned())
}

#[test]
fn the_demo_page_is_served_with_its_modules_and_the_admin_port_tells_how_things_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dev = Dev::start(folder.path());
    let page = dev.at("page");
    for (path, kind, wanted) in [
        ("/?device=web-1", "text/html", "id=\"messages\""),
        ("/demo.js", "text/javascript", "import { Client }"),
        ("/hawser.js", "text/javascript", "export class Client"),
        ("/wire.js", "text/javascript", "export function encodeFrame"),
        ("/style.css", "text/css", ".state"),
        ("/config.json", "application/json", dev.at("control")),
    ] {
        let (head, body) = get(page, path);
        assert!(head.starts_with("http/1.1 200"), "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{path}: {head}");
        assert!(body.contains(wanted), "{path}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
        let policy = policy.expect("every answer has a policy");
        for address in [dev.at("control"), dev.at("ws"), dev.at("wss")] {
            assert!(policy.contains(address), "{address} is in {policy}");
        }
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    assert!(get(page, "/../Cargo.toml").0.starts_with("http/1.1 404"));

    let admin = dev.at("admin");
    assert!(get(admin, "/readyz").0.starts_with("http/1.1 200"));
    assert!(get(admin, "/healthz").0.starts_with("http/1.1 200"));
    let (_, metrics) = get(admin, "/metrics");
    for part in
        ["hawser_access_", "hawser_router_", "hawser_control_", "hawser_panics_total 0", "process_"]
    {
        assert!(metrics.contains(part), "{part}");
    }
    assert_eq!(dev.terminate(), (Some(0), String::new()));
}

#[test]
fn silent_connections_on_every_port_do_not_hold_up_the_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dev = Dev::start(folder.path());
    let mut held = Vec::new();
    for name in ["control", "push", "page", "admin", "tcp", "tls", "ws", "wss"] {
        let address = dev.at(name).rsplit('/').next().expect("split gives at least one part");
        held.push(TcpStream::connect(address).expect("it listens"));
    }
    for name in ["push", "page", "admin"] {
        let address = dev.at(name).rsplit('/').next().expect("split gives at least one part");
        let mut half = TcpStream::connect(address).expect("it listens");
        half.write_all(b"GET /ha").expect("sent");
        held.push(half);
    }
    assert_eq!(dev.terminate(), (Some(0), String::new()));
    drop(held);
}
