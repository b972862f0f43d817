use super::*;

fn check(role: Role, text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).expect("written");
    let command = ConfigCommand::Check { role, file };
    config(Output { json: false }, command).map_err(|failure| failure.to_string())
}

/// The example with every commented setting switched on.
fn in_full(example: &str) -> String {
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let lines = example.lines().map(|line| if is_setting(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_example_is_a_good_configuration_as_it_is_and_in_full() {
    for role in Role::value_variants() {
        assert_eq!(check(*role, example(*role)), Ok(()), "{role}");
        assert_eq!(check(*role, &in_full(example(*role))), Ok(()), "{role} in full");
    }
}

#[test]
fn every_example_of_a_store_is_good_as_it_is_and_in_full() {
    let router = example(Role::Router);
    for kind in StoreKind::value_variants() {
        let store = kind.example();
        for text in [format!("{router}{store}"), format!("{router}{}", in_full(store))] {
            assert_eq!(check(Role::Router, &text), Ok(()), "{kind:?}");
        }
    }
}

#[test]
fn mistakes_are_refused_and_named() {
    let spoilt = |role, from: &str, to: &str| {
        let text = example(role);
        assert!(text.contains(from), "{from} is in the example of {role}");
        check(role, &text.replace(from, to)).expect_err(to)
    };
    for (role, from, to, wanted) in [
        (Role::Control, "data_dir", "data_dri", "unknown field `data_dri`"),
        (Role::Control, "0.0.0.0:8080", "0.0.0.0", "line 5, listen: invalid socket address"),
        (Role::Control, "env:HAWSER_ADMIN_TOKEN", "a-secret-in-a-file", "env:NAME"),
        (Role::Control, "#token_ttl = \"1h\"", "token_ttl = 3600", "token_ttl"),
        (Role::Control, "#log_format = \"text\"", "log_format = \"xml\"", "log_format"),
        (Role::Router, "control = ", "#control = ", "missing field `control`"),
        (Role::Router, "[admin]", "[admin]\nport = 1", "unknown field `port`"),
        (Role::Router, "#node_lease = \"10s\"", "node_lease = \"10 s\"", "span of time"),
        (Role::Router, "#store = \"embedded\"", "store = \"reddis://h:1\"", "a store is embedded"),
        (Role::Router, "#store = \"embedded\"", "store = \"rediss://h:1\"", "not supported yet"),
        (Role::Access, "node = \"a1\"", "node = \"A1\"", "a-z"),
        (Role::Access, "[certificate]", "[certificates]", "certificates"),
        (Role::Access, "ws = [", "www = [", "unknown field `www`"),
        (Role::Access, "[\"http://router.internal:9091\"]", "[]", "routers is empty"),
    ] {
        let said = spoilt(role, from, to);
        assert!(said.contains(wanted), "{role}, {to}: {said}");
        assert!(!said.contains("a-secret-in-a-file"), "a secret is not repeated: {said}");
    }
    let without = example(Role::Access)
        .replace("[certificate]\nchain = \"/etc/hawser/tls/fullchain.pem\"\nkey = \"/etc/hawser/tls/key.pem\"", "");
    assert!(check(Role::Access, &without).expect_err("no certificate").contains("[certificate]"));
    assert!(check(Role::Control, "not toml").is_err());
    let command = ConfigCommand::Check { role: Role::Router, file: "/nowhere/at/all.toml".into() };
    assert!(config(Output { json: false }, command).is_err());
}
