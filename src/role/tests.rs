use super::*;
use hawser_chassis::peers::issue;
use hawser_chassis::tls::DevCertificates;

/// Where the examples have their certificates.
const FOLDER: &str = "/etc/hawser/";

/// Checks a configuration whose certificates of the examples are there.
fn check(role: Role, text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = folder.path();
    issue(&at.join("internal"), Duration::from_hours(1)).expect("certificates");
    let made = DevCertificates::load_or_make(&at.join("tls")).expect("certificates");
    std::fs::rename(made.chain, at.join("tls/fullchain.pem")).expect("renamed");
    std::fs::rename(made.key, at.join("tls/key.pem")).expect("renamed");
    let text = text.replace(FOLDER, &format!("{}/", at.display()));
    let file = at.join("config.toml");
    std::fs::write(&file, text).expect("written");
    let command = ConfigCommand::Check { role, file, settings: SetArgs { set: Vec::new() } };
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
        (Role::Control, "0.0.0.0:8080", "0.0.0.0", "line 8, listen: invalid socket address"),
        (Role::Control, "env:HAWSER_ADMIN_TOKEN", "a-secret-in-a-file", "env:NAME"),
        (Role::Control, "#token_ttl = \"1h\"", "token_ttl = 3600", "token_ttl"),
        (Role::Control, "#token_ttl = \"1h\"", "token_ttl = 3600", "a span of time with its unit"),
        (Role::Access, "node = \"a1\"", "node = \"a1\"\ndrain = 5", "a [drain] table"),
        (
            Role::Control,
            "#node_report_interval = \"3s\"",
            "node_report_interval = \"1h\"",
            "reports grow old",
        ),
        (Role::Control, "internal/control.key", "internal/nowhere.key", "nowhere.key"),
        (Role::Router, "name = \"r1\"", "name = \"\"", "name is empty"),
        (Role::Router, "internal/ca.pem", "internal/nowhere.pem", "nowhere.pem"),
        (Role::Access, "#connections_max = 200000", "connections_max = 0", "handed out"),
        (Role::Access, "tls/key.pem", "tls/nowhere.pem", "nowhere.pem"),
        (Role::Access, "internal/access.pem", "internal/nowhere.pem", "nowhere.pem"),
        (Role::Control, "#log_format = \"text\"", "log_format = \"xml\"", "log_format"),
        (Role::Router, "control = ", "#control = ", "missing field `control`"),
        (Role::Router, "[admin]", "[admin]\nport = 1", "unknown field `port`"),
        (Role::Router, "#node_lease = \"10s\"", "node_lease = \"10 s\"", "span of time"),
        (Role::Router, "#store = \"embedded\"", "store = \"reddis://h:1\"", "a store is embedded"),
        (Role::Router, "#store = \"embedded\"", "store = \"rediss://h:1\"", "not supported yet"),
        (
            Role::Router,
            "#functions = [\"logins\", ",
            "functions = [\"coffee\", ",
            "there is no coffee",
        ),
        (Role::Router, "#push_advertised = \"http://", "push_advertised = \"", "push_advertised"),
        (
            Role::Router,
            "[\"public\", \"10.20.0.0/16\"]",
            "\"x\"\ncallbacks = \"privat\"",
            "callbacks",
        ),
        (Role::Router, "https://control", "http://control", "must begin with https://"),
        (Role::Router, "ca = ", "cca = ", "unknown field `cca`"),
        (Role::Access, "https://r2.", "http://r2.", "must begin with https://"),
        (Role::Access, "#[drain]\n#per_second = 500", "[drain]\nper_second = 0", "never be empty"),
        (Role::Access, "node = \"a1\"", "node = \"A1\"", "a-z"),
        (Role::Access, "[certificate]", "[certificates]", "certificates"),
        (Role::Access, "ws = [", "www = [", "unknown field `www`"),
        (
            Role::Access,
            "[\"https://r1.internal:9091\", \"https://r2.internal:9091\"]",
            "[]",
            "routers is empty",
        ),
    ] {
        let said = spoilt(role, from, to);
        assert!(said.contains(wanted), "{role}, {to}: {said}");
        assert!(!said.contains("a-secret-in-a-file"), "a secret is not repeated: {said}");
    }
    let without = example(Role::Access)
        .replace("[certificate]\nchain = \"/etc/hawser/tls/fullchain.pem\"\nkey = \"/etc/hawser/tls/key.pem\"", "");
    assert!(check(Role::Access, &without).expect_err("no certificate").contains("[certificate]"));
    assert!(check(Role::Control, "not toml").is_err());
    let command = ConfigCommand::Check {
        role: Role::Router,
        file: "/nowhere/at/all.toml".into(),
        settings: SetArgs { set: Vec::new() },
    };
    assert!(config(Output { json: false }, command).is_err());
}

/// The example with a secret in place of certificates.
fn with_secret(role: Role) -> String {
    let example = example(role);
    let begin = example.find("[internal_tls]").expect("a table");
    let end = begin + example[begin..].find("\n\n").expect("an end");
    let text = format!("{}{}", &example[..begin], &example[end..]);
    let text = text.replace("https://", "http://");
    let first = text.find("\n\n").expect("a header");
    format!("{}\ncluster_secret = \"env:SECRET\"{}", &text[..first], &text[first..])
}

#[test]
fn without_certificates_an_internal_port_stays_on_this_machine_unless_that_is_meant() {
    assert_eq!(check(Role::Access, &with_secret(Role::Access)), Ok(()), "it has no such port");
    for (role, listen) in [(Role::Control, "0.0.0.0:8090"), (Role::Router, "0.0.0.0:9091")] {
        let text = with_secret(role);
        let said = check(role, &text).expect_err("others could listen");
        assert!(said.contains("can be read and changed on its way"), "{said}");
        for fine in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1"] {
            assert_eq!(check(role, &text.replace(listen, fine)), Ok(()), "{fine}");
        }
        for open in ["10.0.0.1:1", "[::]:1"] {
            assert!(check(role, &text.replace(listen, open)).is_err(), "{open}");
        }
        let meant = text.replace("#allow_plain_internal = false", "allow_plain_internal = true");
        assert_eq!(check(role, &meant), Ok(()), "{role}");
        let neither = text.replace("cluster_secret", "#cluster_secret");
        assert!(check(role, &neither).expect_err("neither").contains("how services know"));
        let both = example(role).replacen("\n\n", "\ncluster_secret = \"env:S\"\n\n", 1);
        assert!(check(role, &both).expect_err("both").contains("leave the secret out"));
    }
    let tls = with_secret(Role::Access).replace("http://r1", "https://r1");
    assert!(check(Role::Access, &tls).expect_err("no certificates").contains("http://"));
}

#[test]
fn a_service_is_run_from_somewhere() {
    let nothing = RoleArgs { config: None, settings: SetArgs { set: Vec::new() } };
    let said = nothing.load::<control::File>(Role::Control).map(drop).expect_err("nothing given");
    assert!(said.to_string().contains("--config FILE"), "{said}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("control.toml");
    let text = with_secret(Role::Control).replace("0.0.0.0:8090", "127.0.0.1:8090");
    std::fs::write(&file, text).expect("written");
    let set = |text: &str| SetArgs { set: vec![text.to_owned()] };
    let checked = |text: &str| {
        let (file, settings) = (file.clone(), set(text));
        config(Output { json: false }, ConfigCommand::Check { role: Role::Control, file, settings })
            .map_err(|failure| failure.to_string())
    };
    assert_eq!(checked("token_ttl=2h"), Ok(()));
    let said = checked("token_ttl=two").expect_err("no span");
    assert!(said.contains("--set token_ttl: a span of time"), "{said}");
    let said = checked("admin_token=a-secret-on-the-command-line").expect_err("no place");
    assert!(said.contains("env:NAME") && !said.contains("a-secret-on"), "{said}");
    assert!(checked("nothing").expect_err("no value").contains("key=value"));
}

#[test]
fn a_public_port_that_others_can_reach_is_warned_of() {
    for fine in ["127.0.0.1:8080", "[::1]:8080"] {
        let listen = fine.parse().expect("an address");
        assert_eq!(open_to_others(listen, "listen", "admin tokens"), None, "{fine}");
    }
    for open in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080"] {
        let listen = open.parse().expect("an address");
        let warning = open_to_others(listen, "push_listen", "business keys").expect(open);
        assert!(warning.contains("business keys") && warning.contains("let push_listen"));
    }
}
