//! One thing beside another on a machine that is never quiet: windows of calm and of trouble in turn, and
//! each trouble laid beside the calm before it.

use super::history::now;
use super::probe::Probe;
use hawser_loadtest::delays::Delays;
use std::time::Duration;

/// What a clock and a scheduler add and take away on their own, whatever is measured. Where the share that
/// is allowed is less than this, this is what is asked, and the line says so.
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

    /// What a probe felt in them, once nothing of it is under way.
    pub(super) async fn of(&self, probe: &Probe) -> Compared {
        let end = self.calm.iter().chain(&self.trouble).map(|(_, to)| *to).max();
        probe.settled(end.unwrap_or_default()).await;
        let felt = |windows: &[(u64, u64)]| -> Vec<Delays> {
            windows.iter().map(|(from, to)| probe.between(*from, *to)).collect()
        };
        let all = self.calm.iter().chain(&self.trouble);
        let lost = all.map(|(from, to)| probe.lost_between(*from, *to)).sum();
        let (calm, trouble) = (felt(&self.calm), felt(&self.trouble));
        let p99 = |all: &[Delays]| middle(all.iter().map(Delays::p99_ms).collect());
        let pairs =
            calm.iter().zip(&trouble).map(|(calm, trouble)| trouble.p99_ms() - calm.p99_ms());
        Compared {
            calm_ms: p99(&calm),
            trouble_ms: p99(&trouble),
            apart_ms: middle(pairs.collect()),
            pairs: calm.len().min(trouble.len()),
            lost,
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
        self.apart_ms <= self.allowed_ms(share) && self.count > 0
    }

    fn share_ms(self, share: f64) -> f64 {
        self.calm_ms * (share - 1.0)
    }

    fn allowed_ms(self, share: f64) -> f64 {
        self.share_ms(share).max(SLACK_MS)
    }

    /// For the table, with what is allowed.
    pub(super) fn shown(self, share: f64) -> String {
        let Self { calm_ms, trouble_ms, apart_ms, pairs, lost, count } = self;
        let named = if share < 1.2 {
            format!("+{:.0} %", (share - 1.0) * 100.0)
        } else {
            format!("x{share}")
        };
        let mut bound = format!("{named} is {:+.1} ms", self.share_ms(share));
        if self.allowed_ms(share) > self.share_ms(share) {
            let percent = self.allowed_ms(share) / calm_ms * 100.0;
            bound = format!(
                "{bound}, less than a scheduler adds: asked are +{SLACK_MS:.0} ms, which is +{percent:.0} %"
            );
        }
        format!(
            "p99 {calm_ms:.1} ms calm, {trouble_ms:.1} ms in trouble, {apart_ms:+.1} ms in the middle of \
             {pairs} pairs (at most {bound}), {count} felt, {lost} lost (0)"
        )
    }

    /// What left in a window and was never felt.
    pub(super) fn lost(self) -> usize {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(calm_ms: f64, apart_ms: f64) -> Compared {
        let trouble_ms = calm_ms + apart_ms;
        Compared { calm_ms, trouble_ms, apart_ms, pairs: 5, lost: 0, count: 1 }
    }

    #[test]
    fn a_share_below_the_slack_is_said_to_be_the_slack() {
        assert!(compared(3.0, 1.9).within(1.1) && !compared(3.0, 2.1).within(1.1));
        let shown = compared(3.0, 1.9).shown(1.1);
        assert!(shown.contains("+10 % is +0.3 ms") && shown.contains("+67 %"), "{shown}");
    }

    #[test]
    fn a_share_above_it_is_what_is_asked() {
        assert!(compared(40.0, 3.9).within(1.1) && !compared(40.0, 4.1).within(1.1));
        let shown = compared(40.0, 3.9).shown(1.1);
        assert!(!shown.contains("scheduler"), "{shown}");
    }

    #[test]
    fn what_felt_nothing_is_not_within_anything() {
        assert!(!Compared { count: 0, ..compared(3.0, 0.0) }.within(2.0));
    }
}
