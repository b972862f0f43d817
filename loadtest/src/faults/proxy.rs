//! A TCP proxy under our thumb: it stands at one address for as long as the harness lives, and what is
//! behind it may be switched, stalled or cut. That is how a store becomes unreachable, a replica lags,
//! or another server takes a primary's place, without any server knowing.

use anyhow::Context;
use std::net::SocketAddr;
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
    /// Connections stay, and nothing passes: as a network that drops everything.
    Stalled(SocketAddr),
    /// Connections are cut, new ones too.
    Cut,
    /// As [`Way::Cut`] for whoever connected; the server believes in its end for a while longer.
    Abandoned,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for a proxy")?;
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
    let target = match *way.borrow_and_update() {
        Way::To(target) | Way::Stalled(target) => target,
        Way::Cut | Way::Abandoned => return,
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
        let gone = |now: &Way| !matches!(now, Way::To(to) | Way::Stalled(to) if *to == target);
        let _ = way.clone().wait_for(gone).await;
    };
    tokio::select! {
        () = pass(&mut near_in, &mut far_out, way.clone()) => {}
        () = pass(&mut far_in, &mut near_out, way.clone()) => {}
        () = leaves => {}
    }
    if *way.borrow() == Way::Abandoned {
        drop((near_in, near_out));
        tokio::time::sleep(ABANDONED).await;
    }
}

async fn pass(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let open = |now: &Way| matches!(now, Way::To(_));
        if way.wait_for(open).await.is_err() {
            return;
        }
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        // What came in just as the way was stalled waits with the rest.
        if way.wait_for(open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
