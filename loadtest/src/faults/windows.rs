//! One thing beside another on a machine that is never quiet: windows of calm and of trouble in turn, and
//! each trouble laid beside the calm before it.

use super::history::now;
use super::probe::Probe;
use hawser_loadtest::delays::Delays;
use std::time::Duration;

/// What a clock and a scheduler add and take away on their own, whatever is measured: a bound in percent
/// holds above this.
const SLACK_MS: f64 = 2.0;
/// Nothing is taken of the first moments of a window: what began in the one before it ends there.
const SETTLES: Duration = Duration::from_millis(300);

/// Windows so far.
#[derive(Debug, Default)]
pub(super) struct Windows {
    calm: Vec<(u64, u64)>,
    trouble: Vec<(u64, u64)>,
}

impl Windows {
    /// Lets a window without trouble go by.
    pub(super) async fn calm(&mut self, time: Duration) {
        self.calm.push(window(time).await);
    }

    /// Lets one with trouble go by.
    pub(super) async fn trouble(&mut self, time: Duration) {
        self.trouble.push(window(time).await);
    }

    /// What a probe felt in them.
    pub(super) fn of(&self, probe: &Probe) -> Compared {
        let felt = |windows: &[(u64, u64)]| -> Vec<Delays> {
            windows.iter().map(|(from, to)| probe.between(*from, *to)).collect()
        };
        let lost = |windows: &[(u64, u64)]| -> usize {
            windows.iter().map(|(from, to)| probe.lost_between(*from, *to)).sum()
        };
        let (calm, trouble) = (felt(&self.calm), felt(&self.trouble));
        let p99 = |all: &[Delays]| middle(all.iter().map(Delays::p99_ms).collect());
        let pairs =
            calm.iter().zip(&trouble).map(|(calm, trouble)| trouble.p99_ms() - calm.p99_ms());
        Compared {
            calm_ms: p99(&calm),
            trouble_ms: p99(&trouble),
            apart_ms: middle(pairs.collect()),
            pairs: calm.len().min(trouble.len()),
            lost: lost(&self.trouble),
            count: trouble.iter().map(Delays::count).sum(),
        }
    }
}

async fn window(time: Duration) -> (u64, u64) {
    tokio::time::sleep(SETTLES).await;
    let from = now();
    tokio::time::sleep(time).await;
    let to = now();
    tokio::time::sleep(SETTLES).await;
    (from, to)
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The p99 of calm and of trouble, each the middle one of its windows; and the middle of what each pair
/// differs by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Compared {
    calm_ms: f64,
    trouble_ms: f64,
    apart_ms: f64,
    pairs: usize,
    lost: usize,
    count: u64,
}

impl Compared {
    /// Whether trouble costs no more than this share of the calm, or the slack.
    pub(super) fn within(self, share: f64) -> bool {
        self.apart_ms <= (self.calm_ms * (share - 1.0)).max(SLACK_MS) && self.count > 0
    }

    /// For the table, with what is allowed.
    pub(super) fn shown(self, share: f64) -> String {
        let Self { calm_ms, trouble_ms, apart_ms, pairs, lost, count } = self;
        format!(
            "p99 {calm_ms:.1} ms calm, {trouble_ms:.1} ms in trouble, {apart_ms:+.1} ms in the middle of \
             {pairs} pairs (at most x{share} or +{SLACK_MS} ms), {count} felt, {lost} lost"
        )
    }

    /// What came to nothing in trouble.
    pub(super) fn lost(self) -> usize {
        self.lost
    }
}
