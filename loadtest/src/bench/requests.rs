//! Requests through a pool to a business on this machine and back, beside a bare echo.

use super::Bench;
use super::idle::Bare;
use super::stage::shape;
use crate::fleet::at_once;
use crate::fleet::link::{Dialer, Link, Protocol};
use crate::office::{Echo, Office};
use crate::report::{Beside, Row};
use crate::system::{BUSINESS, Parts, System};
use anyhow::Context;
use bytes::Bytes;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::params::Request;
use std::path::Path;
use std::time::Instant;

/// Devices, each with one request under way.
const DEVICES: usize = 64;
/// What the business says it expects: its pool has room for all devices.
const EXPECTED: u32 = 20_000;

/// CPU of the access node beside that of the bare echo.
pub(super) async fn row(wanted: &Bench, binary: &Path) -> anyhow::Result<Row> {
    let mut figures = Beside::default();
    for repeat in 1..=wanted.repeats {
        let (echo, echo_rate) = of_bare(wanted).await?;
        let (cpu, rate) = of_hawser(wanted, binary).await?;
        eprintln!(
            "request {repeat}/{}: {cpu:.2?} CPU-s per million, {rate:.0}/s; bare echo {echo:.2}, \
             {echo_rate:.0}/s",
            wanted.repeats
        );
        figures.add(cpu["access"], echo);
        figures.add_parts(&cpu);
    }
    let what = format!("request to a business and back, {DEVICES} under way: the access node");
    Ok(figures.row(what, "CPU-s per million requests"))
}

async fn of_hawser(wanted: &Bench, binary: &Path) -> anyhow::Result<(Parts, f64)> {
    let office = Office::open(None, Echo).await?;
    let mut shape = shape(1);
    shape.endpoints = vec![office.endpoint()];
    let system = System::apart(binary, shape).await?;
    system.expect_requests(EXPECTED).await?;
    let (dialer, door) = (Dialer::new(None)?, system.doors(Protocol::Tcp).await?[0]);
    let devices = system.credentials(DEVICES).await?.into_iter().map(|credential| {
        let dialer = dialer.clone();
        async move {
            let mut link = dialer.dial(Protocol::Tcp, door).await?;
            let ok = link.log_in(&credential, BUSINESS).await?;
            anyhow::Ok((link, ok.businesses.first().context("no business")?.number))
        }
    });
    let mut devices = at_once(devices, DEVICES).await?;
    let body = Bytes::from(vec![b'x'; wanted.payload]);
    for (link, business) in &mut devices {
        ask(link, *business, body.clone()).await?;
    }
    let (before, began) = (system.cpu_seconds()?, Instant::now());
    let lasts = wanted.lasts();
    let each = devices.into_iter().map(|(mut link, business)| {
        let body = body.clone();
        async move {
            let (until, mut count) = (Instant::now() + lasts, 0u64);
            while Instant::now() < until {
                ask(&mut link, business, body.clone()).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    });
    let done = at_once(each, DEVICES).await?.into_iter().sum::<u64>() as f64;
    let took = began.elapsed().as_secs_f64();
    let mut cpu = system.cpu_seconds()?;
    for (part, used) in &mut cpu {
        *used = (*used - before[part]) * 1e6 / done;
    }
    drop(office);
    Ok((cpu, done / took))
}

async fn ask(link: &mut Link, business: u32, body: Bytes) -> anyhow::Result<()> {
    let request = Request {
        request_id: 1,
        business,
        method: "echo".to_owned(),
        deadline_ms: 10_000,
        ..Request::default()
    };
    link.say(&DeviceFrame::Request(request, body).encode()).await?;
    match link.hear().await? {
        NodeFrame::Response(response, _) if response.status == 0 => Ok(()),
        other => anyhow::bail!("no good answer to a request: {other:?}"),
    }
}

async fn of_bare(wanted: &Bench) -> anyhow::Result<(f64, f64)> {
    let folder = tempfile::tempdir()?;
    let Bare { process, address, dialer, protocol, publisher } =
        Bare::start(Protocol::Tcp, folder.path()).await?;
    let mut links = Vec::new();
    for _ in 0..DEVICES {
        links.push(dialer.dial(protocol, address).await?);
    }
    let (before, began) = (process.cpu_seconds()?, Instant::now());
    let (lasts, word) = (wanted.lasts(), Bytes::from(vec![b'x'; wanted.payload]));
    let each = links.into_iter().map(|mut link| {
        let word = word.clone();
        async move {
            let (until, mut count) = (Instant::now() + lasts, 0u64);
            while Instant::now() < until {
                link.exchange(&word).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    });
    let done = at_once(each, DEVICES).await?.into_iter().sum::<u64>() as f64;
    let (used, took) = (process.cpu_seconds()? - before, began.elapsed().as_secs_f64());
    drop(publisher);
    Ok((used * 1e6 / done, done / took))
}
