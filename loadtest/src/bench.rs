//! The standing comparison: the same load on hawser and on the bare loop, in turn, in one run.

use crate::bare::HEADER_BYTES;
use crate::fleet::Fleet;
use crate::process::Guarded;
use crate::report::{self, Repeats, Row};
use crate::stored;
use crate::system::{self, BUSINESS, System};
use crate::{Bench, Part};
use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

const GROUP: &str = "bench";
/// Multicasts before the measurement begins.
const WARM_UP: u64 = 5;
const DELIVERY_PATIENCE: Duration = Duration::from_secs(30);

/// Measures everything, prints the table and keeps the result.
pub(crate) async fn run(wanted: Bench) -> anyhow::Result<()> {
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the descriptor limit")?;
    let binary = system::binary(wanted.hawser.as_deref())?;
    let mut rows = Vec::new();
    if wanted.wants(Part::Idle) {
        rows.push(idle(&wanted, &binary).await?);
        report::print(&rows);
    }
    if wanted.wants(Part::FanOut) {
        rows.push(fan_out(&wanted, &binary).await?);
        report::print(&rows);
    }
    if wanted.wants(Part::Stored) {
        rows.extend(stored::rows(&wanted, &binary).await?);
        report::print(&rows);
    }
    if let Some(folder) = &wanted.results {
        report::keep(&rows, folder)?;
    }
    Ok(())
}

/// Resident memory of a logged-in TCP connection that does nothing: of the whole process, control,
/// router and access node together.
async fn idle(wanted: &Bench, binary: &Path) -> anyhow::Result<Row> {
    let mut bytes = Repeats::default();
    for repeat in 1..=wanted.repeats {
        let system = System::start(binary).await?;
        // Tokens first, and a few connections: what is allocated once is not a connection's.
        let credentials = system.credentials(wanted.idle + 100).await?;
        let (few, many) = credentials.split_at(100);
        let warm = Fleet::hawser(system.tcp, few.to_vec(), BUSINESS, None).await?;
        let before = system.process.resident_bytes()?;
        let fleet = Fleet::hawser(system.tcp, many.to_vec(), BUSINESS, None).await?;
        let after = system.process.resident_bytes()?;
        drop((warm, fleet));
        let each = (after.saturating_sub(before)) as f64 / wanted.idle as f64;
        eprintln!("idle {repeat}/{}: {each:.0} bytes a connection", wanted.repeats);
        bytes.add(each);
    }
    Ok(Row {
        what: format!("resident memory, {} idle logged-in TCP connections, all parts", wanted.idle),
        unit: "bytes a connection",
        hawser: bytes,
        bare: None,
        ratio: None,
    })
}

/// CPU of multicasts at a fixed rate, beside the bare loop.
async fn fan_out(wanted: &Bench, binary: &Path) -> anyhow::Result<Row> {
    let (mut hawser, mut bare, mut ratio) = <(Repeats, Repeats, Repeats)>::default();
    for repeat in 1..=wanted.repeats {
        let theirs = bare_fan_out(wanted).await?;
        let ours = hawser_fan_out(wanted, binary).await?;
        eprintln!(
            "fan-out {repeat}/{}: hawser {ours:.2}, bare {theirs:.2} CPU-s per million",
            wanted.repeats
        );
        hawser.add(ours);
        bare.add(theirs);
        ratio.add(ours / theirs);
    }
    Ok(Row {
        what: format!(
            "multicast to {} over TCP at {}/s, {} bytes",
            wanted.members, wanted.rate, wanted.payload
        ),
        unit: "CPU-s per million deliveries",
        hawser,
        bare: Some(bare),
        ratio: Some(ratio),
    })
}

async fn hawser_fan_out(wanted: &Bench, binary: &Path) -> anyhow::Result<f64> {
    let system = System::start(binary).await?;
    system.create_group(GROUP).await?;
    let credentials = system.credentials(wanted.members).await?;
    let mut fleet = Fleet::hawser(system.tcp, credentials, BUSINESS, Some(GROUP)).await?;
    let body = Bytes::from(vec![b'x'; wanted.payload]);
    measure(wanted, &mut fleet, &system.process, async || {
        let answer = system.multicast(GROUP, body.clone()).await?;
        ensure!(
            answer.members == wanted.members as u64 && answer.dropped == 0,
            "a multicast reached {} of {} members and dropped {}",
            answer.members,
            wanted.members,
            answer.dropped
        );
        Ok(())
    })
    .await
}

async fn bare_fan_out(wanted: &Bench) -> anyhow::Result<f64> {
    let mut process = Guarded::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    let mut line = String::new();
    BufReader::new(process.stdout()?).read_line(&mut line)?;
    let address: SocketAddr = line.split_whitespace().next().context("no address")?.parse()?;
    // The first connection is the publisher.
    let publisher = TcpStream::connect(address).await?;
    publisher.set_nodelay(true)?;
    let publisher = tokio::sync::Mutex::new(publisher);
    let mut fleet = Fleet::bare(address, wanted.members).await?;
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + wanted.payload);
    frame.put_u16(u16::try_from(wanted.payload).context("the payload is above 64 KiB")?);
    frame.put_u8(1);
    frame.put_bytes(b'x', wanted.payload);
    let frame = frame.freeze();
    measure(wanted, &mut fleet, &process, async || {
        Ok(publisher.lock().await.write_all(&frame).await?)
    })
    .await
}

/// Publishes at the rate, checks that everything arrives, and returns CPU-seconds per million
/// deliveries of the server process.
async fn measure(
    wanted: &Bench,
    fleet: &mut Fleet,
    server: &Guarded,
    mut publish: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let members = wanted.members as u64;
    for _ in 0..WARM_UP {
        let before = fleet.received();
        publish().await?;
        fleet.wait_for(before + members, DELIVERY_PATIENCE).await?;
    }
    let rounds = u64::from(wanted.rate) * u64::from(wanted.seconds);
    let mut pace =
        tokio::time::interval_at(Instant::now(), Duration::from_secs(1) / wanted.rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (before, cpu) = (fleet.received(), server.cpu_seconds()?);
    for _ in 0..rounds {
        pace.tick().await;
        publish().await?;
    }
    fleet.wait_for(before + rounds * members, DELIVERY_PATIENCE).await?;
    let used = server.cpu_seconds()? - cpu;
    ensure!(used > 0.0, "the load was too small to measure");
    Ok(used * 1e6 / (rounds * members) as f64)
}
