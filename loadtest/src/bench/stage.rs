//! One side of a comparison: the bare loop or hawser, with its devices, and how either is told to deliver.

use super::Bench;
use crate::bare::{HEADER_BYTES, MULTICAST, UNICAST};
use crate::faults::cluster::{Shape, Timers};
use crate::fleet::link::{Dialer, Protocol};
use crate::fleet::{Fleet, Manners, payload};
use crate::process::Guarded;
use crate::system::{BUSINESS, CALL_PATIENCE, Parts, System};
use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use hawser_loadtest::stamp;
use hawser_proto::rpc::push::{Message, MulticastRequest};
use hdrhistogram::Histogram;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The group that everybody is in.
pub(super) const GROUP: &str = "bench";
pub(super) const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);
/// Devices say nothing by themselves while they are measured, as those of the bare loop.
const QUIET: Timers = Timers {
    lease: Timers::FULL.lease,
    heartbeat: Duration::from_mins(50),
    idle: Duration::from_mins(100),
};

/// Threads of each service that run its tasks. Services, bare loops and devices share the cores, and whoever has
/// several threads there spends time on waking them; the bare loops have one, too.
pub(super) const WORKERS: usize = 1;

/// One router on the embedded store, and so many access nodes.
pub(super) fn shape(access: usize) -> Shape {
    let mut shape = Shape::sized("embedded", QUIET, 1, access);
    shape.secure_doors = true;
    shape.workers = Some(WORKERS);
    shape
}

/// A bare loop in a process of its own, and its address.
pub(super) fn bare(arguments: &[&str]) -> anyhow::Result<(Guarded, SocketAddr)> {
    let program = std::env::current_exe()?;
    let mut process = Guarded::start(Command::new(program).arg("bare").args(arguments))?;
    let mut line = String::new();
    BufReader::new(process.stdout()?).read_line(&mut line)?;
    let address = line.trim().parse().context("the bare loop did not start")?;
    Ok((process, address))
}

/// A frame of the bare loop's.
pub(super) fn frame(kind: u8, payload: &[u8]) -> anyhow::Result<Bytes> {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    frame.put_u16(u16::try_from(payload.len()).context("the payload is above 64 KiB")?);
    frame.put_u8(kind);
    frame.put_slice(payload);
    Ok(frame.freeze())
}

/// Who delivers.
pub(super) enum Under {
    Bare { process: Guarded, publisher: TcpStream },
    Hawser(Box<System>),
}

/// Who delivers, and to whom.
pub(super) struct Stage {
    pub(super) under: Under,
    pub(super) fleet: Fleet,
    pub(super) members: usize,
    payload: usize,
    /// Multicasts that are not answered yet.
    calls: JoinSet<anyhow::Result<()>>,
}

/// What a measurement came to.
pub(super) struct Measured {
    /// CPU-seconds per million deliveries, by part.
    pub(super) cpu: Parts,
    pub(super) per_second: f64,
    /// From when it was due to the device's read, in microseconds.
    pub(super) delays: Histogram<u64>,
}

impl Measured {
    /// CPU-seconds per million deliveries.
    pub(super) fn all(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// How things were when a measurement began.
pub(super) struct Begun {
    received: u64,
    cpu: Parts,
    at: Instant,
}

impl Stage {
    /// The bare loop with this many members.
    pub(super) async fn bare(wanted: &Bench, members: usize) -> anyhow::Result<Self> {
        let (process, address) = bare(&[])?;
        let publisher = TcpStream::connect(address)?;
        publisher.set_nodelay(true)?;
        let fleet = Fleet::bare(address, members).await?;
        Ok(Self::of(Under::Bare { process, publisher }, fleet, wanted, members))
    }

    /// hawser with this many members of [`GROUP`].
    pub(super) async fn hawser(
        wanted: &Bench,
        binary: &Path,
        members: usize,
        protocol: Protocol,
    ) -> anyhow::Result<Self> {
        let system = System::apart(binary, shape(1)).await?;
        system.create_group(GROUP).await?;
        let credentials = system.credentials(members).await?;
        let manners = Manners { protocol, business: BUSINESS, groups: &[(GROUP, members)] };
        let dialer = Dialer::new(None)?;
        let doors = system.doors(protocol).await?;
        let fleet = Fleet::hawser(&dialer, &doors, credentials, manners).await?;
        Ok(Self::of(Under::Hawser(Box::new(system)), fleet, wanted, members))
    }

    fn of(under: Under, fleet: Fleet, wanted: &Bench, members: usize) -> Self {
        Self { under, fleet, members, payload: wanted.payload, calls: JoinSet::new() }
    }

    /// As people call it.
    pub(super) fn name(&self) -> &'static str {
        match self.under {
            Under::Bare { .. } => "bare",
            Under::Hawser(_) => "hawser",
        }
    }

    pub(super) fn cpu_seconds(&self) -> anyhow::Result<Parts> {
        match &self.under {
            Under::Bare { process, .. } => Ok([("bare", process.cpu_seconds()?)].into()),
            Under::Hawser(system) => system.cpu_seconds(),
        }
    }

    /// From here on it counts.
    pub(super) fn begin(&self) -> anyhow::Result<Begun> {
        self.fleet.forget_delays();
        Ok(Begun { received: self.fleet.received(), cpu: self.cpu_seconds()?, at: Instant::now() })
    }

    /// Waits for what must still come of so many deliveries, and tells what they cost.
    pub(super) async fn end(&mut self, begun: Begun, deliveries: u64) -> anyhow::Result<Measured> {
        self.settle().await?;
        let took = begun.at.elapsed().as_secs_f64();
        self.fleet.wait_for(begun.received + deliveries, DELIVERY_PATIENCE).await?;
        let mut cpu = self.cpu_seconds()?;
        let count = deliveries as f64;
        for (part, used) in &mut cpu {
            *used = (*used - begun.cpu[part]) * 1e6 / count;
        }
        ensure!(cpu.values().sum::<f64>() > 0.0, "the load was too small to measure");
        Ok(Measured { cpu, per_second: count / took, delays: self.fleet.delays() })
    }

    /// Sends everybody a payload that was due at this time.
    pub(super) fn multicast(&mut self, due: u64) -> anyhow::Result<()> {
        let body = payload(self.payload, due, 0);
        match &mut self.under {
            Under::Bare { publisher, .. } => publisher.write_all(&frame(MULTICAST, &body)?)?,
            Under::Hawser(system) => {
                let request = MulticastRequest {
                    group: GROUP.to_owned(),
                    message: Some(Message { body, ..Message::default() }),
                    ..MulticastRequest::default()
                };
                let (mut push, call) = (system.push(), system.call(request, CALL_PATIENCE));
                let members = self.members as u64;
                self.calls.spawn(async move {
                    let answer = push.multicast(call).await?.into_inner();
                    ensure!(
                        answer.members == members && answer.dropped == 0,
                        "a multicast reached {} of {members} members and dropped {}",
                        answer.members,
                        answer.dropped
                    );
                    Ok(())
                });
            }
        }
        Ok(())
    }

    /// Waits until all calls are answered.
    async fn settle(&mut self) -> anyhow::Result<()> {
        while let Some(call) = self.calls.join_next().await {
            call??;
        }
        Ok(())
    }

    /// A multicast at a time until everything is warm.
    pub(super) async fn warm_up(&mut self) -> anyhow::Result<()> {
        for _ in 0..5 {
            let expected = self.fleet.received() + self.members as u64;
            self.multicast(stamp::now())?;
            self.fleet.wait_for(expected, DELIVERY_PATIENCE).await?;
        }
        self.settle().await
    }
}

/// So many frames of the bare loop's to single devices, in turn from this one on.
pub(super) fn unicasts(
    from: u64,
    count: u64,
    members: usize,
    bytes: usize,
) -> anyhow::Result<Vec<u8>> {
    let mut frames = Vec::new();
    for number in from..from + count {
        let device = u32::try_from(number % members as u64)?;
        frames.extend_from_slice(&frame(UNICAST, &payload(bytes, stamp::now(), device))?);
    }
    Ok(frames)
}
