//! QUIC for a crowd's devices: a thread of its own drives the connections, and each is a pair of sockets for
//! the crowd's loop, which so knows no other kind of link than bytes in and bytes out.

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Dials that the thread has not taken up.
const WAITING_MAX: usize = 1_024;
/// UDP sockets of a process: each has a receive buffer of its own.
const ENDPOINTS: usize = 4;
/// Read at once from one device.
const READ_BYTES: usize = 4 * 1_024;

struct Dial {
    to: SocketAddr,
    name: Arc<str>,
    end: Pair,
}

/// The thread, from outside. It ends with the process.
pub(super) struct Quic {
    dials: mpsc::Sender<Dial>,
}

impl Quic {
    pub(super) fn start(
        tls: Arc<rustls::ClientConfig>,
        source: Option<IpAddr>,
    ) -> anyhow::Result<Self> {
        let (dials, wanted) = mpsc::channel(WAITING_MAX);
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoints = {
            let _inside = runtime.enter();
            let from = SocketAddr::new(source.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0);
            (0..ENDPOINTS).map(|_| Endpoint::client(from)).collect::<Result<Vec<_>, _>>()?
        };
        std::thread::spawn(move || runtime.block_on(drive(endpoints, config, wanted)));
        Ok(Self { dials })
    }

    /// Begins to dial; the loop's end of the pair. What is written to it meanwhile leaves once the connection
    /// stands, and it ends when that does, or cannot be made.
    pub(super) fn dial(&self, to: SocketAddr, name: Arc<str>) -> std::io::Result<Pair> {
        let (ours, end) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        end.set_nonblocking(true)?;
        let dial = Dial { to, name, end };
        self.dials.try_send(dial).map_err(|_| std::io::ErrorKind::ResourceBusy)?;
        Ok(ours)
    }
}

async fn drive(endpoints: Vec<Endpoint>, config: ClientConfig, mut dials: mpsc::Receiver<Dial>) {
    let mut links = JoinSet::new();
    let mut turn = 0;
    loop {
        tokio::select! {
            dial = dials.recv() => {
                let Some(dial) = dial else { return };
                turn = (turn + 1) % endpoints.len();
                // An end of any kind is the end of the pair; the device takes it from there.
                let link = one(endpoints[turn].clone(), config.clone(), dial);
                links.spawn(async move { drop(link.await) });
            }
            Some(_) = links.join_next() => {}
        }
    }
}

async fn one(endpoint: Endpoint, config: ClientConfig, dial: Dial) -> anyhow::Result<()> {
    let connection = endpoint.connect_with(config, dial.to, &dial.name)?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let pair = UnixStream::from_std(dial.end)?;
    let (from_device, mut to_device) = pair.into_split();
    let up = async {
        loop {
            from_device.readable().await?;
            match said(&from_device) {
                Ok(bytes) if bytes.is_empty() => return anyhow::Ok(()),
                Ok(bytes) => send.write_chunk(bytes).await?,
                Err(again) if again.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    let down = async {
        while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
            to_device.write_all(&chunk.bytes).await?;
        }
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = up => ended,
        ended = down => ended,
    };
    // A goodbye that was written just now is still to leave.
    let _ = send.finish();
    connection.close(0u32.into(), b"");
    ended
}

/// What a device has said; empty: it has ended. Nothing is held for one that says nothing.
fn said(device: &OwnedReadHalf) -> std::io::Result<Bytes> {
    let mut scratch = [0; READ_BYTES];
    let read = device.try_read(&mut scratch)?;
    Ok(Bytes::copy_from_slice(&scratch[..read]))
}
