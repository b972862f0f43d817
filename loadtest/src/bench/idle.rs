//! Memory of connections that are logged in and do nothing, by transport.

use super::Bench;
use super::stage::{bare, shape};
use crate::faults::certificate;
use crate::fleet::link::{Dialer, Link, Protocol};
use crate::fleet::{Fleet, Framing, Manners, at_once};
use crate::report::{Beside, Row};
use crate::system::{BUSINESS, Parts, System};
use std::path::Path;

/// Connections before the count begins: what is allocated once is not a connection's.
const WARM: usize = 100;
/// What a bare loop is told, as long as a LOGIN.
const WORD: [u8; 256] = [b'x'; 256];

/// Bytes a connection over this transport: of all parts, beside the bare loop over the same.
pub(super) async fn row(wanted: &Bench, binary: &Path, protocol: Protocol) -> anyhow::Result<Row> {
    let count = match protocol {
        Protocol::Tcp | Protocol::Ws => wanted.idle,
        // Their handshakes take their time, and what they hold is large enough to be seen.
        Protocol::Tls | Protocol::Quic => wanted.idle / 3,
    };
    let mut figures = Beside::default();
    for repeat in 1..=wanted.repeats {
        let loops = of_bare(protocol, count).await?;
        let parts = of_hawser(binary, protocol, count).await?;
        let sum: f64 = parts.values().sum();
        eprintln!(
            "idle, {} {repeat}/{}: {sum:.0} bytes a connection {parts:.0?}; bare loop {loops:.0}",
            protocol.name(),
            wanted.repeats
        );
        figures.add(sum, loops);
        figures.add_parts(&parts);
    }
    let what = format!("memory of {count} idle, logged-in connections over {}", protocol.name());
    Ok(figures.row(what, "bytes a connection"))
}

async fn of_hawser(binary: &Path, protocol: Protocol, count: usize) -> anyhow::Result<Parts> {
    let system = System::apart(binary, shape(1)).await?;
    let mut warm = system.credentials(count + WARM).await?;
    let many = warm.split_off(WARM);
    let (dialer, doors) = (Dialer::new(Some(&system.authority()))?, system.doors(protocol).await?);
    let manners = Manners { protocol, business: BUSINESS, groups: &[] };
    let first = Fleet::hawser(&dialer, &doors, warm, manners).await?;
    let before = system.resident_bytes()?;
    let fleet = Fleet::hawser(&dialer, &doors, many, manners).await?;
    let mut parts = system.resident_bytes()?;
    drop((first, fleet));
    for (part, bytes) in &mut parts {
        *bytes = (*bytes - before[part]) / count as f64;
    }
    Ok(parts)
}

async fn of_bare(protocol: Protocol, count: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let Bare { process, address, dialer, protocol, publisher } =
        Bare::start(protocol, folder.path()).await?;
    let connected = async |count: usize| -> anyhow::Result<Fleet> {
        let dialer = dialer.clone();
        let each = (0..count).map(move |_| {
            let dialer = dialer.clone();
            async move {
                let mut link = dialer.dial(protocol, address).await?;
                link.exchange(&WORD).await?;
                anyhow::Ok(link)
            }
        });
        Ok(Fleet::of(at_once(each, protocol.at_once()).await?, Framing::Bare))
    };
    let first = connected(WARM).await?;
    let before = process.resident_bytes()?;
    let fleet = connected(count).await?;
    let after = process.resident_bytes()?;
    drop((first, fleet, publisher));
    Ok((after as f64 - before as f64) / count as f64)
}

/// The bare loop that stands beside a transport, and how it is dialled.
pub(super) struct Bare {
    pub(super) process: crate::process::Guarded,
    pub(super) address: std::net::SocketAddr,
    pub(super) dialer: std::sync::Arc<Dialer>,
    pub(super) protocol: Protocol,
    /// The first connection, which has no echo. Without TLS the loop ends with it.
    pub(super) publisher: Link,
}

impl Bare {
    /// With a certificate of its own in this folder, where there must be one. Beside WebSocket stands TCP.
    pub(super) async fn start(protocol: Protocol, folder: &Path) -> anyhow::Result<Self> {
        let mut arguments = Vec::new();
        let protocol = if protocol == Protocol::Ws { Protocol::Tcp } else { protocol };
        let path = folder.to_string_lossy().into_owned();
        let mut trust = None;
        if protocol != Protocol::Tcp {
            certificate::make(folder)?;
            arguments.extend(["--certificate", &path]);
            trust = Some(certificate::authority(folder));
        }
        if protocol == Protocol::Quic {
            arguments.push("--quic");
        }
        let (process, address) = bare(&arguments)?;
        let dialer = Dialer::new(trust.as_deref())?;
        let publisher = dialer.dial(protocol, address).await?;
        Ok(Self { process, address, dialer, protocol, publisher })
    }
}
