//! Logins: a new token each, whose signature is checked, and then the same devices with the tickets they were
//! given; over each transport, beside a bare loop that accepts, reads once and writes once.

use super::Bench;
use super::idle::Bare;
use super::stage::shape;
use crate::fleet::at_once;
use crate::fleet::link::{Dialer, Link, Protocol};
use crate::report::{Beside, Row};
use crate::system::{BUSINESS, Parts, System};
use anyhow::ensure;
use std::path::Path;
use std::time::{Duration, Instant};

/// Devices of one measurement, each with a connection that stays until its end.
const DEVICES: usize = 10_000;
/// What a bare loop is told, as long as a LOGIN.
const WORD: [u8; 512] = [b'x'; 512];
/// A server whose CPU moves by no more than this in such a time has done what it had to do.
const CALM: f64 = 0.02;
const LOOK: Duration = Duration::from_millis(500);
const CALM_PATIENCE: Duration = Duration::from_secs(30);

/// What so many logins came to.
struct Logins {
    cpu: Parts,
    per_second: f64,
}

impl Logins {
    fn all(&self) -> f64 {
        self.cpu.values().sum()
    }
}

#[derive(Default)]
struct Figures {
    cpu: Beside,
    rate: Beside,
}

impl Figures {
    fn add(&mut self, bare: &Logins, hawser: &Logins) {
        self.cpu.add(hawser.all(), bare.all());
        self.cpu.add_parts(&hawser.cpu);
        self.rate.add(hawser.per_second, bare.per_second);
    }

    fn rows(self, what: &str) -> [Row; 2] {
        let rate = format!("{what}: rate, clients on the same cores");
        let cpu = self.cpu.row(what.to_owned(), "CPU-s per 10,000 logins");
        [cpu, self.rate.row(rate, "logins a second")]
    }
}

/// Rows of one transport: with a token CPU and rate, with a ticket CPU and rate.
pub(super) async fn rows(
    wanted: &Bench,
    binary: &Path,
    protocol: Protocol,
) -> anyhow::Result<[Row; 4]> {
    let (mut token, mut ticket) = <(Figures, Figures)>::default();
    for repeat in 1..=wanted.repeats {
        let loops = of_bare(protocol).await?;
        let (first, second) = of_hawser(binary, protocol).await?;
        eprintln!(
            "login, {} {repeat}/{}: token {:.2} {:.2?} CPU-s per 10,000, {:.0}/s; ticket {:.2} {:.2?}, \
             {:.0}/s; bare loop {:.2}, {:.0}/s",
            protocol.name(),
            wanted.repeats,
            first.all(),
            first.cpu,
            first.per_second,
            second.all(),
            second.cpu,
            second.per_second,
            loops.all(),
            loops.per_second
        );
        token.add(&loops, &first);
        ticket.add(&loops, &second);
    }
    let what = |with: &str| format!("login over {}, {with}", protocol.name());
    let [token_cpu, token_rate] = token.rows(&what("a new token each"));
    let [ticket_cpu, ticket_rate] = ticket.rows(&what("resume ticket"));
    Ok([token_cpu, token_rate, ticket_cpu, ticket_rate])
}

async fn of_hawser(binary: &Path, protocol: Protocol) -> anyhow::Result<(Logins, Logins)> {
    let system = System::apart(binary, shape(1)).await?;
    let mut credentials = system.credentials(DEVICES).await?;
    let (dialer, door) =
        (Dialer::new(Some(&system.authority()))?, system.doors(protocol).await?[0]);
    let mut measured = Vec::new();
    for _ in ["token", "ticket"] {
        until_calm(&system).await?;
        let (before, began) = (system.cpu_seconds()?, Instant::now());
        let each = credentials.into_iter().map(|mut credential| {
            let dialer = dialer.clone();
            async move {
                let mut link = dialer.dial(protocol, door).await?;
                let ok = link.log_in(&credential, BUSINESS).await?;
                ensure!(!ok.resume_ticket.is_empty(), "a login without a ticket");
                credential.ticket = ok.resume_ticket;
                credential.attempt += 1;
                anyhow::Ok((credential, link))
            }
        });
        let done = at_once(each, protocol.at_once()).await?;
        let took = began.elapsed();
        let mut cpu = system.cpu_seconds()?;
        for (part, used) in &mut cpu {
            *used = (*used - before[part]) * 1e4 / DEVICES as f64;
        }
        measured.push(Logins { cpu, per_second: DEVICES as f64 / took.as_secs_f64() });
        let links: Vec<Link>;
        (credentials, links) = done.into_iter().unzip();
        drop(links);
    }
    let second = measured.pop().expect("two were measured");
    Ok((measured.pop().expect("two were measured"), second))
}

/// Waits until it has nothing to do: what connections that ended leave behind is done later.
async fn until_calm(system: &System) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let before: f64 = system.cpu_seconds()?.values().sum();
        tokio::time::sleep(LOOK).await;
        if system.cpu_seconds()?.values().sum::<f64>() - before <= CALM {
            return Ok(());
        }
        ensure!(began.elapsed() < CALM_PATIENCE, "hawser does not become calm");
    }
}

async fn of_bare(protocol: Protocol) -> anyhow::Result<Logins> {
    let folder = tempfile::tempdir()?;
    let Bare { process, address, dialer, protocol, publisher } =
        Bare::start(protocol, folder.path()).await?;
    let (before, began) = (process.cpu_seconds()?, Instant::now());
    let each = (0..DEVICES).map(|_| {
        let dialer = dialer.clone();
        async move {
            let mut link = dialer.dial(protocol, address).await?;
            link.exchange(&WORD).await?;
            anyhow::Ok(link)
        }
    });
    let links = at_once(each, protocol.at_once()).await?;
    let took = began.elapsed();
    let used = (process.cpu_seconds()? - before) * 1e4 / DEVICES as f64;
    drop((links, publisher));
    Ok(Logins { cpu: [("bare", used)].into(), per_second: DEVICES as f64 / took.as_secs_f64() })
}
