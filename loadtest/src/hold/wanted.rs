//! What to hold: how many, how they behave, and what is done meanwhile.

use super::load::Rates;
use hawser_loadtest::costs;
use std::path::PathBuf;
use std::time::Duration;

/// What to hold.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hold {
    /// A million, a heartbeat a minute with a time-out of 75 s, 5,000 requests and 50,000 deliveries a second;
    /// each of these can still be given.
    #[arg(long)]
    pub(super) million: bool,
    /// Devices, over all processes.
    #[arg(long, default_value_t = 200_000, default_value_if("million", "true", "1000000"))]
    pub(super) devices: usize,
    /// Devices of one process, access node or crowd, at the most; default: what its descriptors allow.
    #[arg(long)]
    pub(super) per_process: Option<usize>,
    #[arg(long, default_value_t = 2)]
    pub(super) routers: usize,
    /// Threads of each service that run its tasks; default: one per core. Where dozens of services share few
    /// cores, one each spares them to wake each other.
    #[arg(long, default_value_if("million", "true", "1"))]
    pub(super) workers: Option<usize>,
    /// What came due of a process's devices is done at this interval and in one go; default: each at its time.
    #[arg(long, default_value_if("million", "true", "50"))]
    pub(super) tick_ms: Option<u64>,
    #[arg(long, default_value_t = 1_500, default_value_if("million", "true", "2000"))]
    pub(super) logins_per_second: u32,
    /// Seconds after which no more are awaited; default: twice what they take at that rate, and two minutes.
    #[arg(long)]
    pub(super) fill_seconds: Option<u64>,
    #[arg(long, default_value_t = 25_000, default_value_if("million", "true", "60000"))]
    pub(super) heartbeat_ms: u64,
    /// Silence after which a node closes; default: two fifths more than a heartbeat.
    #[arg(long, default_value_if("million", "true", "75000"))]
    pub(super) idle_ms: Option<u64>,
    /// Targets of unicasts a second, volatile, over streams of batches.
    #[arg(long, default_value_t = 500, default_value_if("million", "true", "10000"))]
    pub(super) unicasts: u32,
    /// Targets of one message of such a stream; at most 1,000.
    #[arg(long, default_value_t = 100, default_value_if("million", "true", "500"))]
    pub(super) batch: usize,
    /// Stored pushes a second.
    #[arg(long, default_value_t = 200, default_value_if("million", "true", "100"))]
    pub(super) stored: u32,
    /// Multicasts a second, to the group.
    #[arg(long, default_value_t = 1, default_value_if("million", "true", "4"))]
    pub(super) multicasts: u32,
    /// Every so many-th device is in the group.
    #[arg(long, default_value_t = 100)]
    pub(super) group_every: usize,
    /// Requests a second, over all devices.
    #[arg(long, default_value_t = 200, default_value_if("million", "true", "5000"))]
    pub(super) requests: u32,
    /// Seconds for which they are held with everything at work.
    #[arg(long, default_value_t = 120, default_value_if("million", "true", "90"))]
    pub(super) seconds: u64,
    /// Seconds for which each kind of work is done by itself before that, to tell what it costs; 0: not at all.
    #[arg(long, default_value_t = 0)]
    pub(super) apart: u64,
    /// Folder for the result file; none: only the table is printed.
    #[arg(long)]
    pub(super) results: Option<PathBuf>,
    /// The hawser binary; default: the one beside this program.
    #[arg(long, env = "HAWSER_BIN")]
    pub(super) hawser: Option<PathBuf>,
    /// Folder for logs.
    #[arg(long)]
    pub(super) keep: Option<PathBuf>,
    /// Do not touch the kernel's settings, also where they are too small.
    #[arg(long)]
    pub(super) leave_kernel: bool,
}

impl Hold {
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    pub(super) fn idle(&self) -> Duration {
        self.idle_ms.map_or(self.heartbeat() * 7 / 5, Duration::from_millis)
    }

    pub(super) fn rates(&self) -> Rates {
        Rates {
            unicasts: self.unicasts,
            batch: self.batch,
            stored: self.stored,
            multicasts: self.multicasts,
            requests: self.requests,
        }
    }

    /// Each kind of work by itself, and what it is called.
    pub(super) fn apart(&self) -> Vec<(&'static str, Rates)> {
        let all = self.rates();
        let none = Rates { batch: self.batch, ..Rates::default() };
        let kinds = [
            (costs::REQUESTS, self.requests, Rates { requests: all.requests, ..none }),
            (costs::UNICASTS, self.unicasts, Rates { unicasts: all.unicasts, ..none }),
            (costs::MULTICASTS, self.multicasts, Rates { multicasts: all.multicasts, ..none }),
            (costs::STORED, self.stored, Rates { stored: all.stored, ..none }),
        ];
        let is_wanted = |rate: u32| self.apart > 0 && rate > 0;
        kinds.into_iter().filter(|it| is_wanted(it.1)).map(|it| (it.0, it.2)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        hold: Hold,
    }

    fn parsed(arguments: &str) -> Hold {
        Arguments::parse_from(["hold"].into_iter().chain(arguments.split_whitespace())).hold
    }

    #[test]
    fn a_million_is_what_the_target_says_unless_something_else_is_said() {
        let million = parsed("--million");
        let rates = million.rates();
        let members = million.devices.div_ceil(million.group_every);
        let deliveries =
            u64::from(rates.unicasts + rates.stored) + u64::from(rates.multicasts) * members as u64;
        assert_eq!((million.devices, rates.requests), (1_000_000, 5_000));
        assert!(deliveries >= 50_000, "{deliveries}");
        assert_eq!(million.heartbeat(), Duration::from_mins(1));
        assert_eq!(million.idle(), Duration::from_secs(75));
        assert_eq!(parsed("--million --devices 400000").devices, 400_000);
        assert_eq!(parsed("--heartbeat-ms 25000").idle(), Duration::from_secs(35));
    }

    #[test]
    fn each_kind_of_work_has_a_window_of_its_own_only_when_asked_for() {
        assert!(parsed("--million").apart().is_empty());
        let apart = parsed("--apart 10 --stored 0").apart();
        let names: Vec<&str> = apart.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [costs::REQUESTS, costs::UNICASTS, costs::MULTICASTS]);
        for (name, rates) in &apart {
            let all = [rates.requests, rates.unicasts, rates.multicasts, rates.stored];
            assert_eq!(all.iter().filter(|rate| **rate > 0).count(), 1, "{name}: {rates:?}");
        }
    }
}
