//! Never the wrong device. Connections come and go at full speed on few slots, while a router that
//! lags and lies pushes at full speed: to where devices are and to where they were, in this life of
//! the node and in the one before, with wrong names and with old epochs.
//!
//! Each payload carries a keyed hash of its target, so that a device finds a wrong delivery from the
//! payload alone. A run with one guard off shows what that guard alone holds back.
//!
//! `HAWSER_CHURN_REUSES=1000000 cargo test --release -p hawser-access --test it churn -- --nocapture`
//! is the long form: that many slot reuses with all guards on, a tenth of it for each other run.
//! `HAWSER_SEED` repeats the choices of a run; what the scheduler does stays its own.

mod crowd;
mod liar;
mod run;
mod sealed;

use hawser_access::Guards;
use run::{Outcome, churn};

/// Slot reuses of one run in the short form.
const REUSES: u64 = 2_000;

const NO_GUARDS: Guards = Guards { boot: false, generation: false, identity: false, epoch: false };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_push_ever_reaches_the_wrong_device_and_each_guard_does_its_part() {
    let long: Option<u64> =
        std::env::var("HAWSER_CHURN_REUSES").ok().map(|text| text.parse().unwrap());
    let seed: u64 = std::env::var("HAWSER_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("HAWSER_SEED={seed}");
    println!("{}", Outcome::HEADER);
    let reuses = long.unwrap_or(REUSES);
    let fewer = long.map_or(REUSES, |reuses| (reuses / 10).max(REUSES));
    let run = async |name: &'static str, guards: Guards, reuses: u64| {
        let outcome = churn(name, guards, reuses, seed).await;
        println!("{outcome}");
        assert!(outcome.delivered > 0, "{name}: nothing was delivered, so nothing was proved");
        assert!(outcome.reused >= reuses, "{name}: too few slots were used again");
        outcome
    };

    let all = run("all guards", Guards::ALL, reuses).await;
    assert_eq!((all.wrong_device, all.wrong_session), (0, 0), "all guards: a wrong delivery");
    for reason in ["boot", "generation", "identity", "epoch"] {
        assert!(all.blocked(reason) > 0, "all guards: {reason} blocked nothing");
    }

    // What another boot left behind names slots and generations of long ago.
    let without = run("boot off", Guards { boot: false, ..Guards::ALL }, fewer).await;
    assert_eq!((without.wrong_device, without.wrong_session), (0, 0), "boot off");
    assert_eq!(without.blocked("boot"), 0);
    assert!(without.share("generation") > all.share("generation"), "generation takes its place");

    // The next ones see what passed: another device in the slot, another session of the same one.
    let without = run("generation off", Guards { generation: false, ..Guards::ALL }, fewer).await;
    assert_eq!((without.wrong_device, without.wrong_session), (0, 0), "generation off");
    assert_eq!(without.blocked("generation"), 0);
    assert!(without.share("identity") > all.share("identity"), "identity takes its place");
    assert!(without.share("free") > all.share("free"), "an empty slot is seen later");

    // Right connection, wrong name: nothing stands behind this one.
    let without = run("identity off", Guards { identity: false, ..Guards::ALL }, fewer).await;
    assert_eq!(without.blocked("identity"), 0);
    assert!(without.wrong_device > 0, "identity off: the misnamed ones were not seen");
    assert_eq!(without.wrong_session, 0, "identity off");
    for reason in ["boot", "generation", "epoch"] {
        assert!(without.blocked(reason) > 0, "identity off: {reason}");
    }

    // Right connection, right name, an older session.
    let without = run("epoch off", Guards { epoch: false, ..Guards::ALL }, fewer).await;
    assert_eq!(without.blocked("epoch"), 0);
    assert!(without.wrong_session > 0, "epoch off: the old ones were not seen");
    assert_eq!(without.wrong_device, 0, "epoch off");
    for reason in ["boot", "generation", "identity"] {
        assert!(without.blocked(reason) > 0, "epoch off: {reason}");
    }

    let without = run("no guard", NO_GUARDS, fewer).await;
    for reason in ["boot", "generation", "identity", "epoch"] {
        assert_eq!(without.blocked(reason), 0, "no guard: {reason}");
    }
    let wrong = without.wrong_device + without.wrong_session;
    assert!(wrong * 10 > without.delivered, "no guard: only {wrong} wrong deliveries were seen");
    assert!(without.wrong_device > 0 && without.wrong_session > 0);
}
