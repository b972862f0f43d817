//! Devices by the thousand, lean enough that the tool is not the limit: a socket and a small task
//! each, and one buffer per thread.

mod count;
pub(crate) mod link;

use anyhow::bail;
use bytes::{Buf, Bytes, BytesMut};
use count::Count;
use hawser_proto::frame::Kind;
use hawser_proto::limits::HEADER_BYTES;
use hdrhistogram::Histogram;
use link::{Dialer, Link, Pipe, Protocol};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) use count::{payload, share_ms};

const READ_BYTES: usize = 16 * 1024;
/// How often a wait looks whether all devices are still there.
const LOOK: Duration = Duration::from_secs(1);

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
    /// hawser's, one in each message of a WebSocket.
    Web,
}

/// Who logs in as what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Credential {
    pub(crate) app: String,
    pub(crate) device: String,
    pub(crate) token: String,
    /// In place of the token.
    #[serde(skip)]
    pub(crate) ticket: Bytes,
    /// Of the next login.
    pub(crate) attempt: u64,
    pub(crate) instance: [u8; 16],
}

/// What devices of one fleet do once they are connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) business: &'a str,
    /// Groups to join, each for the first so many devices.
    pub(crate) groups: &'a [(&'a str, usize)],
}

/// A fleet of connected devices. They say nothing by themselves: their app's heartbeat is longer than any
/// measurement. Dropping it cuts all links.
pub(crate) struct Fleet {
    tasks: JoinSet<()>,
    count: Arc<Count>,
}

impl Fleet {
    /// Connects to the bare loop, without a word, one after the other: their numbers are their order.
    pub(crate) async fn bare(address: SocketAddr, count: usize) -> anyhow::Result<Self> {
        let mut links = Vec::with_capacity(count);
        for _ in 0..count {
            links.push(link::connect(address).await?);
        }
        let links = links.into_iter().map(|stream| Link::new(Pipe::Plain(stream)));
        Ok(Self::of(links, Framing::Bare))
    }

    /// Logs in, in turn over the addresses, and joins.
    pub(crate) async fn hawser(
        dialer: &Arc<Dialer>,
        addresses: &[SocketAddr],
        credentials: Vec<Credential>,
        manners: Manners<'_>,
    ) -> anyhow::Result<Self> {
        let Manners { protocol, business, groups } = manners;
        let devices = credentials.into_iter().zip(addresses.iter().cycle()).enumerate();
        let devices = devices.map(|(number, (credential, address))| {
            let (dialer, address, business) = (dialer.clone(), *address, business.to_owned());
            let joins: Vec<String> = groups
                .iter()
                .filter(|(_, members)| number < *members)
                .map(|(group, _)| (*group).to_owned())
                .collect();
            async move {
                let mut link = dialer.dial(protocol, address).await?;
                link.log_in(&credential, &business).await?;
                for group in &joins {
                    link.join(group).await?;
                }
                anyhow::Ok(link)
            }
        });
        let links = at_once(devices, protocol.at_once()).await?;
        let framing = if protocol == Protocol::Ws { Framing::Web } else { Framing::Hawser };
        Ok(Self::of(links, framing))
    }

    /// These links, from now on listened to.
    pub(crate) fn of(links: impl IntoIterator<Item = Link>, framing: Framing) -> Self {
        let count = Arc::new(Count::default());
        let mut tasks = JoinSet::new();
        for Link { pipe, buffer, .. } in links {
            let count = count.clone();
            // One that is empty may still hold on to the memory of an answer.
            let buffer = if buffer.is_empty() { BytesMut::new() } else { buffer };
            match pipe {
                Pipe::Plain(stream) => tasks.spawn(listen(stream, buffer, framing, count)),
                Pipe::Secure(stream) => tasks.spawn(hold(stream)),
                Pipe::Quic { send, receive, connection } => tasks.spawn(async move {
                    hold(receive).await;
                    drop((send, connection));
                }),
            };
        }
        Self { tasks, count }
    }

    /// Deliveries so far, over all devices.
    pub(crate) fn received(&self) -> u64 {
        self.count.received()
    }

    /// From now on delays are counted anew.
    pub(crate) fn forget_delays(&self) {
        self.count.delays().reset();
    }

    /// Delays from when a payload was due to when a device had read it, in microseconds.
    pub(crate) fn delays(&self) -> Histogram<u64> {
        self.count.delays().clone()
    }

    /// Waits until this many were delivered in all.
    pub(crate) async fn wait_for(
        &mut self,
        received: u64,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        while !self.count.wait_for(received, LOOK).await {
            if tokio::time::Instant::now() > deadline {
                bail!("only {} of {received} deliveries arrived in {patience:?}", self.received());
            }
            if self.tasks.try_join_next().is_some() {
                bail!("a device lost its link");
            }
        }
        Ok(())
    }
}

/// Reads for ever, and counts. A link that fails has ended: whoever waits for its deliveries sees that.
async fn listen(mut stream: TcpStream, mut partial: BytesMut, framing: Framing, count: Arc<Count>) {
    loop {
        // The buffer is the thread's; one read for each time that something came.
        let read = poll_fn(|context| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut scratch = ReadBuf::new(scratch);
                ready!(Pin::new(&mut stream).poll_read(context, &mut scratch))?;
                partial.extend_from_slice(scratch.filled());
                Poll::Ready(std::io::Result::Ok(scratch.filled().len()))
            })
        });
        if !matches!(read.await, Ok(1..)) {
            return;
        }
        take_deliveries(&mut partial, framing, &count);
        if partial.is_empty() {
            partial = BytesMut::new();
        }
    }
}

/// Keeps a link whose traffic nobody counts.
async fn hold(mut link: impl AsyncRead + Unpin) {
    let mut ignored = [0; 256];
    while matches!(link.read(&mut ignored).await, Ok(1..)) {}
}

/// Counts whole deliveries and skips everything else.
fn take_deliveries(partial: &mut BytesMut, framing: Framing, count: &Count) {
    let mut batch = count.batch();
    loop {
        let around = match framing {
            Framing::Web => match link::web_header(partial) {
                Some((header, _)) => header,
                None => return,
            },
            Framing::Bare | Framing::Hawser => 0,
        };
        let (before_body, body, is_delivery) = match framing {
            Framing::Bare => match partial.first_chunk::<3>() {
                Some(&[high, low, _]) => (3, usize::from(u16::from_be_bytes([high, low])), true),
                None => return,
            },
            Framing::Hawser | Framing::Web => {
                let Some(header) = partial[around..].first_chunk::<HEADER_BYTES>() else { return };
                let params = u16::from_be_bytes([header[6], header[7]]);
                let body = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
                let kind = Kind::from_byte(header[3]);
                let is_push = matches!(kind, Some(Kind::Push | Kind::GroupPush));
                (around + HEADER_BYTES + usize::from(params), body as usize, is_push)
            }
        };
        let Some(bytes) = partial.get(before_body..before_body + body) else { return };
        if is_delivery {
            batch.add(bytes);
        }
        partial.advance(before_body + body);
    }
}

/// Runs many small steps as tasks, a bounded number at once. What they give comes in no order.
pub(crate) async fn at_once<T, F>(
    steps: impl Iterator<Item = F>,
    most: usize,
) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let (mut steps, mut tasks, mut given) = (steps, JoinSet::new(), Vec::new());
    loop {
        while tasks.len() < most
            && let Some(step) = steps.next()
        {
            tasks.spawn(step);
        }
        match tasks.join_next().await {
            Some(done) => given.push(done??),
            None => return Ok(given),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliveries(bytes: &[u8], framing: Framing) -> u64 {
        let (count, mut partial) = (Count::default(), BytesMut::new());
        // Split anywhere.
        for byte in bytes {
            partial.extend_from_slice(&[*byte]);
            take_deliveries(&mut partial, framing, &count);
        }
        assert!(partial.is_empty(), "something was left over");
        count.received()
    }

    #[test]
    fn deliveries_are_counted_however_they_are_cut() {
        let body = payload(20, hawser_loadtest::stamp::now(), 7);
        let mut push = vec![b'h', b'w', 1, 0xb0, 0, 0, 0, 3, 0, 0, 0, 20, 1, 2, 3];
        push.extend_from_slice(&body);
        let mut pong = vec![b'h', b'w', 1, 0x82, 0, 0, 0, 2, 0, 0, 0, 0, 1, 2];
        let both = [&push[..], &pong[..], &push[..]].concat();
        assert_eq!(deliveries(&both, Framing::Hawser), 2);

        let bare = [&[0, 20, 1][..], &body[..]].concat();
        assert_eq!(deliveries(&[&bare[..], &bare[..]].concat(), Framing::Bare), 2);

        let mut web = vec![0x82, 126, 0, push.len() as u8];
        web.append(&mut push);
        web.extend([0x82, pong.len() as u8]);
        web.append(&mut pong);
        assert_eq!(deliveries(&web, Framing::Web), 1);
    }
}
