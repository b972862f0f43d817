//! Vouching for what was written: that a replica has it, or the disk.
//!
//! A server tells this only of what the asking connection wrote itself, and while it waits it answers
//! nothing else there. So a connection is kept for it, and writes a fence first: replication, like the
//! log, is one ordered stream per primary, so whoever has the fence has all that was answered before the
//! fence was sent. The fence also says which incarnation it was written in: after a failover the stream is
//! another one, and vouches for nothing of the old. One wait serves all pushes that came before it.

use super::script::SCRIPTS;
use super::server::{ConnectError, Way, within};
use hawser_chassis::shutdown::Tasks;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{FromRedisValue, Value};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

/// How long replicas get.
const REPLICA_WAIT: Duration = Duration::from_millis(100);
/// Pushes that may wait to be vouched for; more are answered with what was reached without.
const WAITING_MAX: usize = 4_096;

/// What is to be vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// At least one replica has it.
    Replica,
    /// The log is synced up to it.
    Disk,
}

struct Ask {
    kept: Kept,
    incarnation: u64,
    fence: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// The way to the task that waits. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Voucher {
    asks: mpsc::Sender<Ask>,
}

impl Voucher {
    pub(super) fn start(way: Way, address: String, tasks: &Tasks) -> Self {
        let (asks, waiting) = mpsc::channel(WAITING_MAX);
        tasks.spawn_light(serve(way, address, waiting));
        Self { asks }
    }

    /// Whether what this incarnation wrote before now is kept. `fence`: a key in one of its slots.
    pub(super) async fn vouch(&self, kept: Kept, incarnation: u64, fence: Vec<u8>) -> bool {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { kept, incarnation, fence, answer };
        self.asks.try_send(ask).is_ok() && answered.await.unwrap_or(false)
    }
}

async fn serve(way: Way, address: String, mut waiting: mpsc::Receiver<Ask>) {
    let mut connection = None;
    let mut asks = Vec::new();
    while waiting.recv_many(&mut asks, WAITING_MAX).await > 0 {
        asks.retain(|ask: &Ask| !ask.answer.is_closed());
        for kept in [Kept::Replica, Kept::Disk] {
            let Some(fence) = asks.iter().find(|ask| ask.kept == kept) else { continue };
            let fence = fence.fence.clone();
            let reached = match wait(&way, &address, &mut connection, kept, fence).await {
                Ok(reached) => reached,
                Err(failure) => {
                    debug!(%failure, "nobody vouches");
                    connection = None;
                    None
                }
            };
            for ask in asks.extract_if(.., |ask| ask.kept == kept) {
                let _ = ask.answer.send(reached == Some(ask.incarnation));
            }
        }
    }
}

/// The incarnation that is vouched for.
async fn wait(
    way: &Way,
    address: &str,
    connection: &mut Option<MultiplexedConnection>,
    kept: Kept,
    fence: Vec<u8>,
) -> Result<Option<u64>, ConnectError> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(way.connect(address).await?),
    };
    let patience = match kept {
        Kept::Replica => REPLICA_WAIT,
        Kept::Disk => way.timeout,
    };
    let mut pipeline = redis::pipe();
    pipeline.cmd("EVAL").arg(SCRIPTS.fence.body).arg(1).arg(fence);
    match kept {
        Kept::Replica => pipeline.cmd("WAIT").arg(1).arg(patience.as_millis() as u64),
        Kept::Disk => pipeline.cmd("WAITAOF").arg(1).arg(0).arg(patience.as_millis() as u64),
    };
    let waited = async { Ok(connection.req_packed_commands(&pipeline, 0, 2).await?) };
    let answers = within(patience + way.timeout, waited).await?;
    let [incarnation, reached] = <[Value; 2]>::try_from(answers).unwrap_or_default();
    let incarnation = u64::from_redis_value(incarnation.extract_error()?).ok();
    let reached = match reached.extract_error()? {
        Value::Int(replicas) => replicas >= 1,
        // Of this server, and of replicas.
        Value::Array(counts) => matches!(counts.first(), Some(Value::Int(1..))),
        _ => false,
    };
    Ok(incarnation.filter(|_| reached))
}
