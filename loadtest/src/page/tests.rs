//! Pages of made-up runs: what stands in them is what the outcome says, and nothing else.

use super::pictures::{of_costs, of_delays, of_rates, of_states};
use super::{Page, Run, compare, render, run};
use crate::outcome::{Bound, Measured, Outcome, Sample, Span};
use std::collections::BTreeMap;
use std::time::Duration;

fn one<T>(name: &str, value: T) -> BTreeMap<String, T> {
    BTreeMap::from([(name.to_owned(), value)])
}

fn outcome() -> Outcome {
    let sample = |second: u64| Sample {
        at: second as f64,
        stands: one("online", 100 * second),
        happened: one("logins", 7 * second),
        memory: BTreeMap::from([("hawser".to_owned(), 1 << 20), ("tool".to_owned(), 3 << 20)]),
        cores: one("hawser", 0.25),
    };
    Outcome {
        scenario: "mixed day".to_owned(),
        seed: 4242,
        seconds: 4.0,
        stages: vec![Span { name: "rise".to_owned(), from: 0.0, to: 4.0 }],
        samples: (1..=4).map(sample).collect(),
        totals: one("unicasts_sent", 1_234_567),
        delays: vec![Measured {
            what: "request".to_owned(),
            protocol: "quic".to_owned(),
            delays: (1..=1_000).map(Duration::from_millis).collect(),
        }],
        bounds: vec![Bound {
            wanted: "request p99 <= 2s".to_owned(),
            seen: "990 ms".to_owned(),
            is_kept: true,
        }],
        ..Outcome::default()
    }
}

fn runs(outcomes: &[Outcome]) -> Vec<Run<'_>> {
    let name = |number| if outcomes.len() > 1 { super::letter(number) } else { String::new() };
    let all = outcomes.iter().zip(1..);
    all.map(|(outcome, number)| Run { name: name(number), file: "", outcome }).collect()
}

#[test]
fn figures_verdict_and_facts_are_those_of_the_outcome() {
    let page = render(&outcome()).unwrap();
    for part in [
        "Passed",
        "the one bound was kept",
        "request p99 &lt;= 2s",
        "990 ms · kept",
        "unicasts sent",
        "1,234,567",
        "4242",
        "1. rise, 0:00 to 0:04",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("The load itself was limited"));
}

#[test]
fn a_broken_bound_and_a_limit_stand_out() {
    let mut outcome = outcome();
    outcome.bounds.push(Bound {
        wanted: "lost = 0".to_owned(),
        seen: "3".to_owned(),
        is_kept: false,
    });
    outcome.limits.push("all 28,231 ports were in use".to_owned());
    let page = render(&outcome).unwrap();
    for part in ["Failed", "1 of 2 bounds broken", "✗ 3 · broken", "all 28,231 ports were in use"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("Passed"));
}

#[test]
fn a_run_that_was_interrupted_has_not_passed() {
    let page = render(&Outcome { seconds: 2.0, is_interrupted: true, ..outcome() }).unwrap();
    assert!(page.contains("Interrupted") && page.contains("after 0:02 of 0:04"), "{page}");
    assert!(!page.contains("Passed"));
}

#[test]
fn a_run_without_anything_still_makes_a_page() {
    let page = render(&Outcome::default()).unwrap();
    for part in
        ["Not judged", "No delay was measured", "Nothing was sampled", "Nothing was counted"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<figure>"), "there is nothing to draw");
}

#[test]
fn texts_of_others_stay_texts() {
    let evil = "</title><script>alert('x\"y')</script>&amp;";
    let text = || evil.to_owned();
    let outcome = Outcome {
        scenario: text(),
        about: text(),
        target: text(),
        limits: vec![text()],
        stages: vec![Span { name: text(), from: 0.0, to: 9.0 }],
        samples: vec![Sample {
            at: 1.0,
            stands: one(evil, 1),
            happened: one(evil, 1),
            memory: BTreeMap::from([(text(), 1), ("b".to_owned(), 1)]),
            cores: one(evil, 1.0),
        }],
        totals: one(evil, 1),
        delays: ["a", "b"]
            .map(|end| Measured {
                what: text(),
                protocol: text() + end,
                delays: [Duration::from_millis(3)].into_iter().collect(),
            })
            .to_vec(),
        bounds: vec![Bound { wanted: text(), seen: text(), is_kept: false }],
        machine: crate::report::Machine { cores: 1, kernel: text(), cpu: text() },
        ..Outcome::default()
    };
    let pages = [
        render(&outcome).unwrap(),
        compare(&[(text(), outcome.clone()), (text(), outcome)]).unwrap(),
    ];
    for page in pages {
        assert!(!page.contains("<script"), "a script got in");
        assert!(!page.contains("alert('x\"y')"), "a quote could end an attribute");
        assert_eq!(page.matches("</title>").count(), page.matches("<title>").count());
        assert!(page.contains("&lt;script&gt;alert"), "the text itself is shown");
    }
}

#[test]
fn nothing_is_asked_of_anyone_else() {
    let page = render(&outcome()).unwrap();
    for part in ["http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("default-src 'none'"), "and the browser is told so");
}

#[test]
fn lines_over_time_go_through_the_samples() {
    let outcomes = [outcome()];
    let runs = runs(&outcomes);
    let rates = of_rates(&runs);
    assert_eq!(rates.len(), 1);
    assert_eq!(rates[0].lines[0].points, [(1.0, 7.0), (2.0, 14.0), (3.0, 21.0), (4.0, 28.0)]);
    assert_eq!(rates[0].about, "highest 28 at 0:04");
    assert_eq!(rates[0].bands[0].name, "rise");
    assert_eq!(of_states(&runs)[0].lines[0].points.last(), Some(&(4.0, 400.0)));
    let costs = of_costs(&runs);
    let names: Vec<_> = costs[0].lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["hawser", "tool"]);
    assert_eq!(costs[0].lines[1].points[0], (1.0, f64::from(3 << 20)));
    assert_eq!(costs[1].lines[0].points[0], (1.0, 0.25));
}

#[test]
fn a_line_of_delays_goes_through_all_that_were_counted() {
    let outcomes = [outcome()];
    let pictures = of_delays(&runs(&outcomes));
    let line = &pictures[0].lines[0];
    let delays = &outcomes[0].delays[0].delays;
    assert_eq!(line.points.len() as u64, delays.shares().count() as u64 + 1);
    for ((share, delay), _) in line.dots.iter().take(4) {
        let seen = delays.at(*share).as_secs_f64() * 1e6;
        assert!((delay - seen).abs() < 1e-6, "{delay} {seen}");
    }
    // Of a thousand, one lies above the 99.9th; of nothing above that is there word.
    let said: Vec<_> = line.dots.iter().map(|(_, says)| says.split(':').next().unwrap()).collect();
    assert_eq!(said, ["50 %", "90 %", "99 %", "99.9 %", "longest"]);
    assert!(line.points.iter().all(|(share, _)| *share < 1.0), "the longest has a place");
}

#[test]
fn a_long_run_is_drawn_by_means_and_says_so() {
    let mut outcome = outcome();
    let sample = |second: u32| Sample {
        at: f64::from(second),
        happened: one("logins", u64::from(second % 2)),
        ..Sample::default()
    };
    outcome.samples = (0..1_200).map(sample).collect();
    let outcomes = [outcome];
    let rates = of_rates(&runs(&outcomes));
    assert_eq!(rates[0].lines[0].points.len(), 400);
    assert!(rates[0].about.ends_with("each point is the mean of 3 s"), "{}", rates[0].about);
    let mean = rates[0].lines[0].points.iter().map(|it| it.1).sum::<f64>() / 400.0;
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
}

#[test]
fn runs_are_compared_in_one_picture_for_each_kind_of_work() {
    let (first, mut second) = (outcome(), outcome());
    second.delays[0].delays = (1..=10).map(Duration::from_millis).collect();
    second.samples.iter_mut().for_each(|it| it.happened = one("logins", 1));
    second.totals = one("lost", 5);
    let outcomes = [first.clone(), second.clone()];
    let runs = runs(&outcomes);
    let delays = of_delays(&runs);
    let names: Vec<_> = delays[0].lines.iter().map(|line| line.name.as_str()).collect();
    assert_eq!((delays.len(), names), (1, vec!["A quic", "B quic"]));
    let rates = of_rates(&runs);
    assert_eq!(rates[0].lines[1].points[3], (4.0, 1.0));
    assert_ne!(rates[0].lines[0].dash, rates[0].lines[1].dash, "also without colours");
    assert_eq!(of_costs(&runs).len(), 3, "memory of two parts, CPU of one");
    let page = compare(&[("a.json".to_owned(), first), ("b.json".to_owned(), second)]).unwrap();
    for part in ["a.json", "b.json", "A count", "B count", "1,234,567"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn stages_are_only_shaded_where_all_runs_had_them() {
    let (first, mut second) = (outcome(), outcome());
    second.stages[0].to = 2.0;
    assert_eq!(of_rates(&runs(&[first, second]))[0].bands, []);
}

#[test]
fn the_page_is_written_beside_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("run.json");
    std::fs::write(&result, serde_json::to_string(&outcome()).unwrap()).unwrap();
    run(&Page { results: vec![result.clone()], out: None }).unwrap();
    let page = std::fs::read_to_string(folder.path().join("run.html")).unwrap();
    assert_eq!(page, render(&outcome()).unwrap());
    std::fs::write(&result, "{}").unwrap();
    let error = run(&Page { results: vec![result], out: None }).unwrap_err();
    assert!(error.to_string().contains("is not the result of a run"), "{error}");
}
