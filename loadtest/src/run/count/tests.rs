use super::super::limits::Limits;
use super::*;
use std::time::Duration;

fn scenario(bounds: &[&str]) -> Scenario {
    let mut text = String::from(
        "name = \"s\"\n[[stages]]\nname = \"one\"\nseconds = 2\n[[populations]]\nname = \"p\"\ncount = 10\n",
    );
    for bound in bounds {
        text.extend(["[[bounds]]\n", bound, "\n"]);
    }
    Scenario::parse(&text).expect("it is good")
}

fn seen(protocol: Protocol, change: impl FnOnce(&mut Told)) -> Seen {
    let mut told = Told { t: 1, ..Told::default() };
    change(&mut told);
    Seen { protocol, told }
}

#[test]
fn bounds_are_judged_by_what_was_seen() {
    let scenario = scenario(&[
        "expect = \"multicast.p99 <= 100ms\"",
        "expect = \"multicast.p99 <= 100ms\"\nprotocol = \"tcp\"",
        "expect = \"lost == 0\"",
        "expect = \"deliveries >= 90%\"",
        "expect = \"online == 100%\"",
        "expect = \"request.p99 <= 1s\"",
    ]);
    let mut counts = Counts::new(&scenario);
    let tcp = seen(Protocol::Tcp, |told| {
        (told.online, told.group_pushes) = (5, 50);
        told.group_delay.add(Duration::from_millis(20));
    });
    let other = seen(Protocol::Tls, |told| {
        (told.online, told.group_pushes) = (5, 48);
        told.group_delay.add(Duration::from_millis(200));
    });
    let pushed = Pushed { members: 100, multicasts: 10, ..Pushed::default() };
    counts.add(1.0, &[tcp, other], &pushed, &Parts::default());
    let outcome = counts.outcome(&scenario, "somewhere", 0, Vec::new());
    let kept: Vec<bool> = outcome.bounds.iter().map(|bound| bound.is_kept).collect();
    assert_eq!(kept, [false, true, false, true, true, false], "{:#?}", outcome.bounds);
    assert!(!outcome.has_passed());
    assert_eq!(outcome.totals["lost"], 2);
    assert_eq!(outcome.bounds[5].seen, "nothing was measured");
    assert_eq!(outcome.bounds[1].wanted, "multicast.p99 <= 100ms over tcp");
    assert_eq!(outcome.delays.len(), 2);
}

#[test]
fn a_sample_holds_what_happened_in_its_second_alone() {
    let mut counts = Counts::new(&scenario(&[]));
    for at in [1.0, 2.0] {
        let one = seen(Protocol::Tcp, |told| (told.logins, told.online) = (4, 8));
        counts.add(at, &[one], &Pushed::default(), &Parts::default());
    }
    let newest = counts.newest().expect("two were added");
    assert_eq!((newest.happened["logins"], newest.stands["online"]), (4, 8));
    assert_eq!(counts.totals()["logins"], 8);
}

#[test]
fn a_run_is_settled_when_all_has_come_or_nothing_comes_any_more() {
    let mut counts = Counts::new(&scenario(&[]));
    let pushed = Pushed { written: 2, ..Pushed::default() };
    let one = || seen(Protocol::Tcp, |told| told.pushes = 1);
    counts.add(1.0, &[one()], &pushed, &Parts::default());
    assert!(!counts.is_settled(), "one of two is on its way");
    let mut other = Counts::new(&scenario(&[]));
    other.add(1.0, &[one(), one()], &pushed, &Parts::default());
    assert!(other.is_settled());
    for at in 0..QUIET_LOOKS {
        counts.add(at as f64, &[], &pushed, &Parts::default());
    }
    assert!(counts.is_settled(), "it will not come");
    assert_eq!(counts.totals()["lost"], 1);
}

#[test]
fn what_stood_in_the_way_is_told() {
    let mut counts = Counts::new(&scenario(&[]));
    assert!(Limits::after(100, 2).found(&counts).is_empty());
    assert!(Limits::after(100, 30).found(&counts)[0].contains("30 of 100 seconds"));
    let one = seen(Protocol::Tcp, |told| {
        (told.no_port, told.no_descriptor, told.skipped) = (3, 4, 5);
        told.late_sends.extend([Duration::from_millis(300); 10]);
    });
    counts.add(1.0, &[one], &Pushed::default(), &Parts::default());
    let found = Limits::after(100, 0).found(&counts).join("\n");
    for part in
        ["3 dials found no free port", "4 dials found no descriptor", "5 requests", "left late"]
    {
        assert!(found.contains(part), "{part}: {found}");
    }
}
