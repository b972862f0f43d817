//! What the command line says and refuses.

use crate::process::{Said, hawser, run};
use std::path::Path;

/// Compares with a file of `tests/it/help/`; with HAWSER_WRITE_HELP=1 it writes the file instead.
fn assert_help(name: &str, line: &[&str]) {
    let said = run(line);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/help/{name}.txt"));
    if std::env::var_os("HAWSER_WRITE_HELP").is_some() {
        std::fs::write(&path, &said.out).expect("written");
    }
    let kept = std::fs::read_to_string(&path).expect("there is a file for each help page");
    assert_eq!(
        said.out, kept,
        "{name}: if the change is meant, run again with HAWSER_WRITE_HELP=1"
    );
}

#[test]
fn help_teaches() {
    assert_help("hawser", &["--help"]);
    for command in ["dev", "control", "access", "router"] {
        assert_help(command, &[command, "--help"]);
    }
    for (group, commands) in [
        ("config", &["check", "example"] as &[&str]),
        ("push", &["unicast", "batch", "multicast", "broadcast"]),
        ("group", &["create", "delete", "list", "show", "join", "leave", "kick"]),
        ("inbox", &["describe", "purge"]),
        ("device", &["show", "presence", "disconnect"]),
        ("app", &["create", "list", "show", "update", "delete", "rotate-secret", "owner-key"]),
        ("business", &["create", "list", "show", "update", "delete", "key"]),
        ("token", &["issue", "revoke"]),
        ("node", &["list", "drain", "undrain"]),
        ("signing-key", &["rotate"]),
        ("ticket-key", &["rotate"]),
        ("certificates", &["create", "show"]),
    ] {
        assert_help(group, &[group, "--help"]);
        // The pages of single commands are not kept, but each must be there and say something.
        for command in commands {
            let said = run(&[group, command, "--help"]);
            assert_eq!(said.code, Some(0), "{group} {command}: {}", said.err);
            assert!(said.out.contains("Usage: hawser"), "{group} {command}");
        }
    }
    assert_help("push_unicast", &["push", "unicast", "--help"]);
    assert_help("push_multicast", &["push", "multicast", "--help"]);
    assert_help("group_create", &["group", "create", "--help"]);
    assert_help("business_create", &["business", "create", "--help"]);
    assert_help("inbox_describe", &["inbox", "describe", "--help"]);
    assert_help("node_drain", &["node", "drain", "--help"]);
    assert_help("certificates_create", &["certificates", "create", "--help"]);
    assert_help("router_list", &["router", "list", "--help"]);
}

fn fails(line: &[&str], code: i32, wanted: &str) -> Said {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_str().expect("UTF-8");
    let said = run(&[line, &["--data-dir", data]].concat());
    assert_eq!(said.code, Some(code), "{line:?}: {}{}", said.out, said.err);
    assert!(said.err.contains(wanted), "{line:?}: {}", said.err);
    assert_eq!(said.out, "", "{line:?}");
    said
}

#[test]
fn mistakes_are_told_in_one_sentence_with_code_2() {
    for (line, wanted) in [
        (&["push", "unicast", "--device", "d", "x"] as &[&str], "--push or HAWSER_PUSH"),
        (&["push", "unicast", "x"], "--device"),
        (&["push", "unicast", "--device", "d", "x", "--body-file", "f"], "cannot be used with"),
        (&["push", "unicast", "--device", "d", "--metadata", "x"], "KEY=VALUE"),
        (&["push", "batch", "x"], "--targets"),
        (&["push", "unicast", "--device", "d", "x", "--ttl", "1h"], "--stored"),
        (&["push", "batch", "--device", "d", "x", "--durability", "disk"], "--stored"),
        (&["push", "unicast", "--device", "d", "x", "--stored", "--ttl", "1"], "span of time"),
        (
            &[
                "push",
                "unicast",
                "--device",
                "d",
                "x",
                "--stored",
                "--wait-ack",
                "16s",
                "--key",
                "k",
            ],
            "--wait-ack is at most 15s",
        ),
        (&["push", "multicast", "--group", "g", "x", "--durability", "tape"], "possible values"),
        (&["inbox", "purge", "d"], "--yes"),
        (&["group", "create", "g", "--history-entries", "5"], "--history"),
        (&["group", "create", "g", "--history", "--history-age", "0s"], "--history-age is 0"),
        (&["business", "create", "b", "--app", "a", "--inbox-ttl", "1500ms"], "whole seconds"),
        (&["business", "create", "b", "--app", "a", "--inbox-overflow", "grow"], "possible values"),
        (&["config", "example", "access", "--store", "redis"], "only a router has a --store"),
        (
            &["push", "multicast", "--group", "g", "x", "--push", "http://h:1"],
            "--key or HAWSER_KEY",
        ),
        (&["app", "list"], "--token or HAWSER_TOKEN"),
        (&["app", "list", "--token", "t"], "--control or HAWSER_CONTROL"),
        (&["app", "list", "--token", "t", "--control", "ftp://h"], "http://host:port"),
        (
            &["app", "list", "--token", "t", "--control", "https://h", "--ca", "/nowhere.pem"],
            "/nowhere.pem",
        ),
        (&["app", "delete", "a"], "--yes"),
        (&["app", "update", "a", "--token", "t"], "nothing to change"),
        (&["business", "list"], "which app"),
        (&["token", "revoke", "--app", "a"], "--device"),
        (&["app", "create", "a", "--proof", "magic"], "possible values"),
        (&["config", "check", "router", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (&["control", "--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (&["access"], "--config FILE, HAWSER_ACCESS_<KEY>"),
        (&["router", "--set", "secret"], "key=value"),
        (&["node", "drain", "a1", "--rate", "fast"], "500/s"),
        (&["node", "drain", "a1", "--timeout", "1m"], "--wait"),
        (&["certificates", "create", "--dir", "/tmp", "--days", "0"], "--days"),
        (&["certificates", "show", "/nowhere.pem"], "/nowhere.pem"),
        (&["router", "list", "--function", "coffee"], "possible values"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        fails(line, 2, wanted);
    }
}

#[test]
fn a_store_is_refused_without_repeating_its_password() {
    let wanted = "an address is not of the form host:port";
    let said = fails(&["dev", "--ports", "random", "--store", "redis://:sesame@redis"], 2, wanted);
    assert!(!said.err.contains("sesame"), "{}", said.err);
    let said = hawser()
        .args(["dev", "--ports", "random"])
        .env("HAWSER_STORE", "rediss://:sesame@redis:1")
        .output()
        .expect("the binary runs");
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(err.contains("rediss:// is not supported yet"), "{err}");
    assert_eq!((said.status.code(), err.contains("sesame")), (Some(2), false));
}

#[test]
fn the_example_of_a_router_is_printed_with_the_store_that_is_asked_for() {
    for (store, wanted) in [
        ("embedded", "#store = \"embedded\""),
        ("redis", "url = \"redis://redis.internal:6379/0\""),
        ("redis-sentinel", "master = \"hawser\""),
        ("redis-cluster", "nodes = ["),
    ] {
        let said = run(&["config", "example", "router", "--store", store]);
        assert!(said.out.contains(wanted), "{store}: {}", said.out);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("router.toml");
        let made =
            run(&["certificates", "create", "--dir", folder.path().to_str().expect("UTF-8")]);
        assert_eq!(made.code, Some(0), "{}", made.err);
        let here = folder.path().display().to_string();
        std::fs::write(&file, said.out.replace("/etc/hawser/internal", &here)).expect("written");
        let file = file.to_str().expect("UTF-8");
        let said = run(&["config", "check", "router", file]);
        assert_eq!(said.code, Some(0), "{store}: {}", said.err);
    }
}

#[test]
fn a_server_that_is_not_there_is_code_3_and_json_errors_are_json() {
    // A port that was free a moment ago, on an address that is only this machine's.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let gone = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    fails(&["app", "list", "--token", "t", "--control", &gone], 3, "cannot reach control");
    let push = ["push", "unicast", "--device", "d", "x", "--key", "k", "--push", &gone];
    fails(&push, 3, "cannot reach the push API");
    let said = fails(&[&push as &[&str], &["--json"]].concat(), 3, "error");
    let told: serde_json::Value = serde_json::from_str(&said.err).expect("one JSON object");
    assert!(told["error"]["message"].as_str().expect("a sentence").contains("cannot reach"));
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let flags = ["control", "push", "admin", "tcp", "tls", "quic", "ws", "wss"];
    let rest = flags.map(|name| [format!("--{name}-port"), "0".to_owned()]).concat();
    let mut line = vec!["dev", "--page-port", &port];
    line.extend(rest.iter().map(String::as_str));
    let said = fails(&line, 3, "the port is in use");
    assert!(said.err.contains(&port) && said.err.contains("--page-port"), "{}", said.err);
}
