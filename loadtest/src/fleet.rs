//! Devices by the thousand, lean enough that the tool is not the limit: a socket and a small task
//! each, and one buffer per thread.

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use hawser_proto::codec;
use hawser_proto::frame::{DeviceFrame, Kind, NodeFrame};
use hawser_proto::limits::{FRAME_BYTES_MAX, HEADER_BYTES};
use hawser_proto::params::{BusinessNumber, Join, Login, Ping};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections being set up at once.
const SETTING_UP_MAX: usize = 64;
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// How the deliveries of a stream are told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Framing {
    /// The bare loop's: two bytes of length, one of kind.
    Bare,
    /// hawser's.
    Hawser,
}

/// Who logs in as what.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) app: String,
    pub(crate) device: String,
    pub(crate) token: String,
}

/// A fleet of connected devices. Dropping it cuts all links.
pub(crate) struct Fleet {
    tasks: JoinSet<()>,
    received: Arc<AtomicU64>,
}

impl Fleet {
    /// Connects to the bare loop, without a word.
    pub(crate) async fn bare(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        Self::gather((0..count).map(|_| async move { connect(address).await }), Framing::Bare).await
    }

    /// Logs in, and joins a group if one is named.
    pub(crate) async fn hawser(
        address: SocketAddr,
        credentials: Vec<Credential>,
        business: &str,
        group: Option<&str>,
    ) -> anyhow::Result<Self> {
        let devices = credentials.into_iter().map(|credential| async move {
            let mut stream = connect(address).await?;
            log_in(&mut stream, &credential, business).await?;
            if let Some(group) = group {
                join(&mut stream, group).await?;
            }
            Ok(stream)
        });
        Self::gather(devices, Framing::Hawser).await
    }

    async fn gather<F>(devices: impl Iterator<Item = F>, framing: Framing) -> anyhow::Result<Self>
    where
        F: Future<Output = anyhow::Result<TcpStream>>,
    {
        use futures_util::StreamExt;
        let received = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let mut setting_up = futures_util::stream::iter(devices).buffer_unordered(SETTING_UP_MAX);
        while let Some(stream) = setting_up.next().await {
            tasks.spawn(listen(stream?, framing, received.clone()));
        }
        Ok(Self { tasks, received })
    }

    /// Deliveries so far, over all devices.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until this many were delivered in all.
    pub(crate) async fn wait_for(
        &mut self,
        received: u64,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        while self.received() < received {
            if tokio::time::Instant::now() > deadline {
                bail!("only {} of {received} deliveries arrived in {patience:?}", self.received());
            }
            if self.tasks.try_join_next().is_some() {
                bail!("a device lost its link");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = tokio::time::timeout(STEP_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn log_in(
    stream: &mut TcpStream,
    credential: &Credential,
    business: &str,
) -> anyhow::Result<Vec<BusinessNumber>> {
    let login = DeviceFrame::Login(Login {
        app: credential.app.clone(),
        device: credential.device.clone(),
        token: credential.token.clone(),
        instance: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
        attempt: 1,
        businesses: vec![business.to_owned()],
        ..Default::default()
    });
    stream.write_all(&login.encode()).await?;
    match answer(stream).await? {
        NodeFrame::LoginOk(ok) => Ok(ok.businesses),
        NodeFrame::Close(close) => bail!("login refused: {} {}", close.code, close.reason),
        other => bail!("unexpected answer to a login: {other:?}"),
    }
}

async fn join(stream: &mut TcpStream, group: &str) -> anyhow::Result<()> {
    let join =
        DeviceFrame::Join(Join { request_id: 1, group: group.to_owned(), ..Join::default() });
    stream.write_all(&join.encode()).await?;
    match answer(stream).await? {
        NodeFrame::Joined(joined) if joined.status == 0 => Ok(()),
        other => bail!("not joined: {other:?}"),
    }
}

async fn answer(stream: &mut TcpStream) -> anyhow::Result<NodeFrame> {
    let mut buffer = BytesMut::new();
    tokio::time::timeout(STEP_TIMEOUT, async {
        loop {
            if let Some(raw) = codec::decode(&mut buffer, FRAME_BYTES_MAX)? {
                return Ok(NodeFrame::parse(raw)?);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                bail!("the link was cut");
            }
        }
    })
    .await
    .context("no answer in time")?
}

/// Reads for ever, and counts.
async fn listen(stream: TcpStream, framing: Framing, received: Arc<AtomicU64>) {
    let mut partial = BytesMut::new();
    let beat = DeviceFrame::Ping(Ping { nonce: 0 }).encode();
    loop {
        let silence = tokio::time::timeout(Duration::from_secs(20), stream.readable()).await;
        match silence {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if matches!(framing, Framing::Hawser) && stream.try_write(&beat).is_err() {
                    return;
                }
                continue;
            }
        }
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let read = stream.try_read(scratch)?;
            partial.extend_from_slice(&scratch[..read]);
            std::io::Result::Ok(read)
        });
        match read {
            Ok(0) => return,
            Ok(_) => {
                let count = take_deliveries(&mut partial, framing);
                received.fetch_add(count, Ordering::Relaxed);
                if partial.is_empty() {
                    partial = BytesMut::new();
                }
            }
            Err(again) if again.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Counts whole deliveries and skips everything else.
fn take_deliveries(partial: &mut BytesMut, framing: Framing) -> u64 {
    let mut count = 0;
    loop {
        let (whole, is_delivery) = match framing {
            Framing::Bare => match partial.first_chunk::<3>() {
                Some(&[high, low, _]) => (3 + usize::from(u16::from_be_bytes([high, low])), true),
                None => return count,
            },
            Framing::Hawser => {
                let Some(header) = partial.first_chunk::<HEADER_BYTES>() else { return count };
                let params = u16::from_be_bytes([header[6], header[7]]);
                let body = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
                let kind = Kind::from_byte(header[3]);
                let is_push = matches!(kind, Some(Kind::Push | Kind::GroupPush));
                (HEADER_BYTES + usize::from(params) + body as usize, is_push)
            }
        };
        if partial.len() < whole {
            return count;
        }
        partial.advance(whole);
        count += u64::from(is_delivery);
    }
}

/// Runs many small steps, a bounded number at once, and keeps their order.
pub(crate) async fn all<T, F>(
    steps: impl Iterator<Item = F>,
    at_once: usize,
) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let turns = Arc::new(Semaphore::new(at_once));
    let steps = steps.map(|step| {
        let turns = turns.clone();
        async move {
            let _turn = turns.acquire().await?;
            step.await
        }
    });
    futures_util::future::try_join_all(steps).await
}
