//! A TCP proxy under our thumb: it stands at one address for as long as the harness lives, and what is
//! behind it may be switched, slowed, stalled, torn or cut. That is how a store becomes unreachable, a
//! replica lags, or another server takes a primary's place, without any server knowing. For QUIC see
//! [`super::datagrams`].

use anyhow::Context;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const BUFFER_BYTES: usize = 64 * 1024;
/// How long a server is left with an abandoned connection.
const ABANDONED: Duration = Duration::from_secs(3);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// What the proxy does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Bytes go to this server and back.
    To(SocketAddr),
    /// As [`Way::To`], and everything takes this much longer, each way.
    Slow(SocketAddr, Duration),
    /// Connections stay, and nothing passes: as a network that drops everything.
    Stalled(SocketAddr),
    /// What the server says does not come back; what it is told arrives.
    Mute(SocketAddr),
    /// What the server is told does not arrive; what it says comes back.
    Deaf(SocketAddr),
    /// What is sent seems to arrive, and is thrown away: as a server behind a dead tunnel.
    Swallowed(SocketAddr),
    /// Each connection passes this many bytes either way, and ends in the middle of whatever is next.
    Torn(SocketAddr, usize),
    /// Connections are cut, new ones too.
    Cut,
    /// As [`Way::Cut`], by a reset instead of an end.
    Reset,
    /// As [`Way::Cut`] for whoever connected; the server believes in its end for a while longer.
    Abandoned,
}

impl Way {
    /// Where it leads.
    pub(super) fn target(self) -> Option<SocketAddr> {
        match self {
            Self::To(to)
            | Self::Slow(to, _)
            | Self::Stalled(to)
            | Self::Mute(to)
            | Self::Deaf(to)
            | Self::Swallowed(to)
            | Self::Torn(to, _) => Some(to),
            Self::Cut | Self::Reset | Self::Abandoned => None,
        }
    }

    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::To(_) | Self::Slow(..) | Self::Swallowed(_) | Self::Torn(..) => true,
            Self::Mute(_) => direction == Direction::There,
            Self::Deaf(_) => direction == Direction::Back,
            Self::Stalled(_) | Self::Cut | Self::Reset | Self::Abandoned => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    There,
    Back,
}

/// One proxy. Dropped, it ends with all its connections.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    way: watch::Sender<Way>,
    /// Aborted with it.
    _task: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of loopback.
    pub(super) async fn start(way: Way) -> anyhow::Result<Self> {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), way).await
    }

    /// Listens on a free port of this address.
    pub(super) async fn start_on(address: IpAddr, way: Way) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await.context("no port for a proxy")?;
        let address = listener.local_addr()?;
        let (way, seen) = watch::channel(way);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, seen));
        Ok(Self { address, way, _task: task })
    }

    /// Takes this way from now on. Connections to another server than the new one are cut.
    pub(super) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(listener: TcpListener, way: watch::Receiver<Way>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            taken = listener.accept() => {
                if let Ok((near, _)) = taken {
                    links.spawn(link(near, way.clone()));
                }
            }
            _ = links.join_next(), if !links.is_empty() => {}
        }
    }
}

/// One connection: until either side ends it, or the way leads elsewhere.
async fn link(near: TcpStream, mut way: watch::Receiver<Way>) {
    let now = *way.borrow_and_update();
    let Some(target) = now.target() else {
        if now == Way::Reset {
            let _ = near.set_zero_linger();
        }
        return;
    };
    let Ok(Ok(far)) = tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(target)).await
    else {
        return;
    };
    // Small answers must not wait for more.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
        (near.into_split(), far.into_split());
    let leaves = async {
        let _ = way.clone().wait_for(|now| now.target() != Some(target)).await.map(|now| *now);
    };
    tokio::select! {
        () = pass(&mut near_in, &mut far_out, Direction::There, way.clone()) => {}
        () = pass(&mut far_in, &mut near_out, Direction::Back, way.clone()) => {}
        () = leaves => {}
    }
    let last = *way.borrow();
    match last {
        Way::Abandoned => {
            drop((near_in, near_out));
            tokio::time::sleep(ABANDONED).await;
        }
        Way::Reset => {
            // A half that is dropped says goodbye first: a whole stream does not.
            for whole in [near_in.reunite(near_out), far_in.reunite(far_out)].into_iter().flatten()
            {
                let _ = whole.set_zero_linger();
            }
        }
        _ => {}
    }
}

async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    direction: Direction,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut passed = 0;
    loop {
        let open = |now: &Way| now.passes(direction);
        if way.wait_for(open).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let now = *way.borrow();
        if let Way::Slow(_, delay) = now {
            tokio::time::sleep(delay).await;
        }
        // What came in just as the way was stalled waits with the rest.
        let Ok(now) = way.wait_for(open).await.map(|now| *now) else { return };
        let left = match now {
            Way::Swallowed(_) => continue,
            Way::Torn(_, most) => most.saturating_sub(passed).min(read),
            _ => read,
        };
        if to.write_all(&buffer[..left]).await.is_err() || left < read {
            return;
        }
        passed += read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);
    const QUIET: Duration = Duration::from_millis(100);

    /// A server that answers what it is told, and the address of it.
    async fn echo(tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((mut link, _)) = listener.accept().await {
                links.spawn(async move {
                    let (mut from, mut to) = link.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    /// What comes back of these bytes within a moment; `Err`: the link was reset.
    async fn said(link: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        link.write_all(bytes).await?;
        let mut heard = vec![0; 64];
        let mut all = Vec::new();
        while let Ok(read) = tokio::time::timeout(QUIET, link.read(&mut heard)).await {
            match read? {
                0 => break,
                read => all.extend_from_slice(&heard[..read]),
            }
        }
        Ok(all)
    }

    #[tokio::test]
    async fn each_way_does_to_a_link_what_it_says() {
        let mut tasks = JoinSet::new();
        let to = echo(&mut tasks).await;
        let proxy = Proxy::start(Way::To(to)).await.unwrap();
        let mut link = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut link, b"one").await.unwrap(), b"one");
        for way in [Way::Stalled(to), Way::Mute(to), Way::Deaf(to)] {
            proxy.set(way);
            assert_eq!(said(&mut link, b"held").await.unwrap(), b"", "{way:?}");
            proxy.set(Way::To(to));
            let mut late = [0; 4];
            tokio::time::timeout(PATIENCE, link.read_exact(&mut late)).await.unwrap().unwrap();
            assert_eq!(&late, b"held", "nothing is lost once {way:?} is over");
        }
        proxy.set(Way::Swallowed(to));
        assert_eq!(said(&mut link, b"gone").await.unwrap(), b"");
        proxy.set(Way::To(to));
        assert_eq!(
            said(&mut link, b"two").await.unwrap(),
            b"two",
            "what was swallowed never comes"
        );
        proxy.set(Way::Cut);
        assert_eq!(said(&mut link, b"").await.unwrap(), b"");
        assert_eq!(link.read(&mut [0]).await.unwrap(), 0, "cut: an end");
    }

    #[tokio::test]
    async fn a_torn_link_ends_in_the_middle_and_a_reset_one_with_an_error() {
        let mut tasks = JoinSet::new();
        let to = echo(&mut tasks).await;
        let proxy = Proxy::start(Way::Torn(to, 5)).await.unwrap();
        let mut link = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut link, b"123").await.unwrap(), b"123");
        let rest = said(&mut link, b"456").await.unwrap_or_default();
        assert!(rest.len() < 3, "{rest:?}");
        proxy.set(Way::To(to));
        let mut link = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(said(&mut link, b"1").await.unwrap(), b"1");
        proxy.set(Way::Reset);
        let ended = tokio::time::timeout(PATIENCE, link.read(&mut [0])).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}
