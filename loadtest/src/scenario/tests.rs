use super::*;
use crate::crowd::plan::Protocol;

const SMALL: &str = r#"
name = "small"
about = "A few devices."

[[stages]]
name = "fill"
seconds = 10
ramp = true
pushes = 0

[[stages]]
name = "steady"
seconds = 30
rates = { hello = 8, "few.requests" = 3 }

[[populations]]
name = "few"
count = 10
logins_per_second = 4
requests_per_second = 1
protocols = { tcp = 3, tls = 2 }
groups = [{ name = "room" }]

[[pushes]]
name = "hello"
kind = "multicast"
group = "room"
per_second = 2

[[bounds]]
expect = "multicast.p99 <= 250ms"
"#;

fn refused(change: impl Fn(&str) -> String) -> String {
    let text = change(SMALL);
    assert_ne!(text, SMALL, "nothing was changed");
    format!("{:#}", Scenario::parse(&text).expect_err("it must be refused"))
}

#[test]
fn a_scenario_says_what_is_due_when() {
    let small = Scenario::parse(SMALL).expect("it is good");
    let few = &small.populations[0];
    assert!((small.logins(few).due_by(10.0) - 20.0).abs() < 1e-9, "ramped from none");
    assert!((small.requests(few).due_by(40.0) - (5.0 + 90.0)).abs() < 1e-9, "replaced in the end");
    assert!(
        (small.calls(&small.pushes[0]).due_by(40.0) - 240.0).abs() < 1e-9,
        "none while it fills"
    );
    assert_eq!(few.by_protocol(), [(Protocol::Tcp, 6), (Protocol::Tls, 4)]);
    assert!((small.seconds() - 40.0).abs() < 1e-9);
}

#[test]
fn an_error_names_line_column_and_key() {
    let error = refused(|text| text.replace("count = 10", "count = 10\ncuont = 10"));
    assert!(error.contains("line 19, column 1") && error.contains("`cuont`"), "{error}");
    let error = refused(|text| text.replace("count = 10", "count = \"ten\""));
    assert!(error.contains("line 18, column 9") && error.contains("count"), "{error}");
    let error = refused(|text| text.replace("<= 250ms", "<= fast"));
    assert!(error.contains("line 31") && error.contains("`fast` is no duration"), "{error}");
    let error = refused(|text| text.replace("multicast.p99", "multycast.p99"));
    assert!(error.contains("line 31") && error.contains("nothing that is measured"), "{error}");
    let error = refused(|text| text.replace("tls = 2", "pigeon = 2"));
    assert!(error.contains("line 21") && error.contains("pigeon"), "{error}");
}

#[test]
fn what_does_not_fit_together_is_refused_by_its_key() {
    let error = refused(|text| text.replace("group = \"room\"", "group = \"hall\""));
    assert!(error.starts_with("pushes.0.group"), "{error}");
    let error = refused(|text| text.replace("hello = 8", "hullo = 8"));
    assert!(error.starts_with("stages.1.rates.hullo"), "{error}");
    let error = refused(|text| text.replace("count = 10", "count = 10\nbusiness = \"mail\""));
    assert!(error.starts_with("populations.0.business"), "{error}");
    let error = refused(|text| {
        text.replace(
            "[[stages]]\nname = \"fill\"",
            "[target]\ncontrol = \"http://h:1\"\n[[stages]]\nname = \"fill\"",
        )
    });
    assert!(error.starts_with("target.app"), "{error}");
}

#[test]
fn single_values_sizes_and_the_length_can_be_changed() {
    let set = ["populations.0.count=30", "pushes.0.per_second=5", "name=other"];
    let set = set.iter().map(|one| one.parse().expect("a setting")).collect();
    let all = Changes { set, scale: Some(0.5), seconds: Some(20.0) };
    let changed = all.apply(SMALL).expect("it is good");
    assert_eq!(changed.name, "other");
    assert_eq!(changed.populations[0].count, 15);
    let logins = changed.populations[0].logins_per_second;
    assert!((logins - 4.0).abs() < 1e-9, "half as many, in half the time");
    assert!((changed.pushes[0].per_second - 5.0).abs() < 1e-9, "a multicast is smaller by itself");
    assert!((changed.seconds() - 20.0).abs() < 1e-9);
    assert!((changed.stages[0].seconds - 5.0).abs() < 1e-9);
    for (bad, why) in [
        ("populations.7.count=1", "there is no 7 in the list"),
        ("populations.0.cuont=1", "cuont"),
        ("population.0.count=1", "there is no population"),
    ] {
        let set = vec![bad.parse().expect("a setting")];
        let one = Changes { set, ..Changes::default() };
        let error = format!("{:#}", one.apply(SMALL).expect_err(bad));
        assert!(error.contains("--set") && error.contains(why), "{error}");
    }
}

#[test]
fn every_shipped_scenario_can_be_read_and_says_what_it_is_for() {
    for shipped in Shipped::ALL {
        let scenario = Scenario::parse(shipped.text);
        let scenario = scenario.unwrap_or_else(|error| panic!("{}: {error:#}", shipped.name));
        assert_eq!(scenario.name, shipped.name);
        assert!(!scenario.about.is_empty() && !scenario.bounds.is_empty(), "{}", shipped.name);
    }
}

#[test]
fn bounds_hold_or_not() {
    let holds = |text: &str, seen: f64| -> bool {
        text.parse::<bound::Expectation>().expect(text).holds(seen)
    };
    assert!(holds("multicast.p99 <= 500ms", 0.5) && !holds("multicast.p99 <= 500ms", 0.501));
    assert!(holds("logins.p99 < 1s", 0.99) && !holds("login.p99 < 1s", 1.0));
    assert!(holds("lost == 0", 0.0) && !holds("lost == 0", 1.0));
    assert!(holds("deliveries >= 99.9%", 0.999) && !holds("deliveries >= 99.9%", 0.998));
    assert!(holds("logins > 1_000", 1_001.0) && !holds("logins > 1000", 1_000.0));
    assert!(holds("deliveries >= 10", 10.0) && !holds("deliveries >= 10", 9.0), "a count, too");
    assert!(!holds("back online.max <= 2m", f64::NAN), "what is no number keeps nothing");
}
