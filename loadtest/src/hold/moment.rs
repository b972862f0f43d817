//! All parts at one time: memory, CPU, and what the kernel holds; and what lies between two of them.

use super::kernel::Kernel;
use crate::crowd::Told;
use crate::faults::cluster::{Cluster, Service};
use crate::faults::crowds::Crowds;
use crate::process;
use hawser_loadtest::costs::{Parts, Window, Work};
use hawser_loadtest::redis::Redis;
use std::time::Instant;

/// Memory and CPU of one kind of process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) processes: usize,
    /// Bytes of their own: what many processes map of one file is there once.
    pub(super) bytes: f64,
    pub(super) cpu: f64,
}

impl Part {
    fn of(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.processes += 1;
            all.bytes += process::anonymous_bytes(id).unwrap_or_default() as f64;
            all.cpu += process::cpu_seconds(id).unwrap_or_default();
        }
        all
    }
}

/// All parts at one time.
pub(super) struct Moment {
    pub(super) at: Instant,
    pub(super) access: Part,
    pub(super) routers: Part,
    pub(super) control: Part,
    pub(super) crowds: Part,
    /// This process: backends and business.
    pub(super) backends: Part,
    /// Bytes are those of its data.
    pub(super) redis: Part,
    pub(super) kernel: Kernel,
}

impl Moment {
    /// Reads some hundred files of `/proc`: about ten milliseconds for a hundred processes.
    pub(super) fn of(
        cluster: &Cluster,
        redis: &Redis,
        crowds: Option<&Crowds>,
    ) -> anyhow::Result<Self> {
        let ids = |wanted: fn(&Service) -> bool| -> Vec<u32> {
            let of = cluster.services().filter(wanted);
            of.filter_map(|service| Some(cluster.process(service)?.0)).collect()
        };
        let redis = Part { processes: 1, bytes: redis.memory_bytes()?, cpu: redis.cpu_seconds()? };
        Ok(Self {
            at: Instant::now(),
            access: Part::of(ids(|it| matches!(it, Service::Access(_)))),
            routers: Part::of(ids(|it| matches!(it, Service::Router(_)))),
            control: Part::of(ids(|it| matches!(it, Service::Control))),
            crowds: Part::of(crowds.map(Crowds::ids).unwrap_or_default()),
            backends: Part::of([std::process::id()]),
            redis,
            kernel: Kernel::now(),
        })
    }

    fn parts(&self, of: fn(&Part) -> f64) -> Parts {
        Parts {
            access: of(&self.access),
            routers: of(&self.routers),
            control: of(&self.control),
            redis: of(&self.redis),
            devices: of(&self.crowds),
            backends: of(&self.backends),
        }
    }

    /// Bytes by part.
    pub(super) fn bytes(&self) -> Parts {
        self.parts(|part| part.bytes)
    }

    /// From here to a later one.
    pub(super) fn until(&self, later: &Self, name: &str, work: Work) -> Window {
        let (bytes, packets) = self.kernel.wire(&later.kernel);
        Window {
            name: name.to_owned(),
            seconds: later.at.duration_since(self.at).as_secs_f64(),
            cpu: later.parts(|part| part.cpu) - self.parts(|part| part.cpu),
            busy: later.kernel.busy(&self.kernel),
            wire_bytes: bytes,
            wire_packets: packets,
            work,
        }
    }
}

/// What devices saw, as work.
pub(super) fn work(told: &Told, multicasts: u64) -> Work {
    Work {
        logins: told.logins as f64,
        heartbeats: told.pongs as f64,
        requests: told.answers as f64,
        unicasts: told.pushes.saturating_sub(told.stored) as f64,
        stored: told.stored as f64,
        multicasts: multicasts as f64,
        group_deliveries: told.group_pushes as f64,
    }
}
