//! One Redis server: a connection to it, and what it says of itself.

use super::script::{SCRIPTS, Script};
use super::vouch::Voucher;
use arc_swap::ArcSwap;
use hawser_chassis::shutdown::Tasks;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, RedisError, Value,
};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Major and minor.
    pub(super) version: (u32, u32),
    /// Takes writes.
    pub(super) is_primary: bool,
    /// Belongs to a cluster.
    pub(super) is_cluster: bool,
    /// First 52 bits of `master_replid`: another one after a promotion or a start.
    pub(super) incarnation: u64,
    /// What leaves when memory is used up.
    pub(super) eviction: String,
    /// Replicas connected.
    pub(super) replicas: u32,
    /// Keeps a log of what is written.
    pub(super) has_log: bool,
    /// The log is being written anew, or soon will be. The first time there is none yet, though it counts
    /// as switched on.
    pub(super) rewrites_log: bool,
    /// Answers only after the log is synced.
    pub(super) syncs_each_write: bool,
    /// Keeps neither a log nor snapshots. `None`: it does not say.
    pub(super) forgets: Option<bool>,
}

/// Why there is no word from a server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// It, or the way to it, failed.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// It did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// It takes no writes.
    #[error("it is a replica")]
    Replica,
}

/// A connection to a primary, and what was last heard of it.
pub(super) struct Server {
    /// `host:port`.
    pub(super) address: String,
    /// Which connection; never the same again.
    pub(super) number: u64,
    /// Refreshed by each probe.
    pub(super) facts: ArcSwap<Facts>,
    /// Vouches for what was written.
    pub(super) voucher: Voucher,
    connection: MultiplexedConnection,
    /// Counts the answers that came.
    answers: AtomicU64,
    asking: Mutex<()>,
    is_gone: AtomicBool,
}

impl Server {
    /// Connects to a primary and makes the scripts known to it.
    pub(super) async fn connect(
        way: &Way,
        address: &str,
        tasks: &Tasks,
    ) -> Result<Self, ConnectError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut connection = way.connect(address).await?;
        let facts = within(way.timeout, look(&mut connection)).await?;
        if !facts.is_primary {
            return Err(ConnectError::Replica);
        }
        // A server too old for the scripts is told by its version.
        if facts.version >= (7, 0) {
            within(way.timeout, load(&mut connection)).await?;
        }
        Ok(Self {
            address: address.to_owned(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            facts: ArcSwap::from_pointee(facts),
            voucher: Voucher::start(way.clone(), address.to_owned(), tasks),
            connection,
            answers: AtomicU64::new(0),
            asking: Mutex::new(()),
            is_gone: AtomicBool::new(false),
        })
    }

    /// Asks it again what it is. One that answers others in this time is slow and not gone: what was heard last
    /// holds. To connect anew would load it with more.
    pub(super) async fn probe(&self, patience: Duration) -> Result<(), ConnectError> {
        let mut connection = self.connection.clone();
        let before = self.answers.load(Ordering::Relaxed);
        let facts = match within(patience, look(&mut connection)).await {
            Err(ConnectError::Timeout) if self.answers.load(Ordering::Relaxed) != before => {
                return Ok(());
            }
            looked => looked?,
        };
        let is_primary = facts.is_primary;
        if **self.facts.load() != facts {
            self.facts.store(Arc::new(facts));
        }
        if is_primary { Ok(()) } else { Err(ConnectError::Replica) }
    }

    /// What is known of it in this incarnation; asks again if the last word was of another.
    pub(super) async fn facts_of(&self, incarnation: u64, patience: Duration) -> Arc<Facts> {
        if self.facts.load().incarnation != incarnation {
            // One asks for all.
            let _one = self.asking.lock().await;
            if self.facts.load().incarnation != incarnation {
                let _ = self.probe(patience).await;
            }
        }
        self.facts.load_full()
    }

    /// Runs a script. `asking`: the slot is just being moved here.
    pub(super) async fn run(
        &self,
        script: &Script,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        asking: bool,
    ) -> Result<Value, RedisError> {
        let answer = self.send(&command("EVALSHA", &script.sha, keys, args), asking).await;
        match answer {
            Err(failure) if failure.code() == Some("NOSCRIPT") => {
                self.send(&command("EVAL", script.body, keys, args), asking).await
            }
            answer => answer,
        }
    }

    /// Sends one command.
    pub(super) async fn send(&self, command: &Cmd, asking: bool) -> Result<Value, RedisError> {
        let mut connection = self.connection.clone();
        if !asking {
            let answer = connection.send_packed_command(command).await?;
            self.answers.fetch_add(1, Ordering::Relaxed);
            return answer.extract_error();
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(command.clone());
        let answers = connection.send_packed_commands(&pipeline, 1, 1).await?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        answers.into_iter().next().unwrap_or_default().extract_error()
    }

    /// Nothing good comes from this connection any more.
    pub(super) fn give_up(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// Whether it was given up.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }
}

fn command(name: &str, script: &str, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Cmd {
    let bytes: usize = keys.iter().chain(args).map(|part| part.len() + 16).sum();
    let mut command = Cmd::with_capacity(3 + keys.len() + args.len(), bytes + script.len() + 32);
    command.arg(name).arg(script).arg(keys.len());
    for part in keys.iter().chain(args) {
        command.arg(part.as_slice());
    }
    command
}

/// How servers are reached: credentials, database, patience.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// All but the address.
    pub(super) info: ConnectionInfo,
    /// For connecting, and for each answer outside of calls.
    pub(super) timeout: Duration,
}

impl Way {
    /// A plain connection.
    pub(super) async fn connect(
        &self,
        address: &str,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let (host, port) = split(address);
        let client = Client::open(self.info.clone().set_addr(ConnectionAddr::Tcp(host, port)))?;
        // Every call has an end of its own; the library's would cut what may take longer.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let connecting = async {
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            connecting.await.map_err(ConnectError::from)
        };
        within(self.timeout, connecting).await
    }
}

fn split(address: &str) -> (String, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host.to_owned(), port.parse().unwrap_or(6379))
}

/// Ends by itself.
pub(super) async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn load(connection: &mut MultiplexedConnection) -> Result<(), ConnectError> {
    let mut pipeline = redis::pipe();
    let scripts = SCRIPTS.all();
    for script in scripts {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script.body);
    }
    connection.req_packed_commands(&pipeline, 0, scripts.len()).await?;
    Ok(())
}

async fn look(connection: &mut MultiplexedConnection) -> Result<Facts, ConnectError> {
    let info: String = redis::cmd("INFO").query_async(connection).await?;
    let mut facts = read_info(&info);
    let mut asked = redis::cmd("CONFIG");
    asked.arg("GET").arg("appendfsync").arg("no-appendfsync-on-rewrite").arg("save");
    // Where this is forbidden, nothing is promised.
    if let Ok(settings) = asked.query_async::<HashMap<String, String>>(connection).await {
        let is = |name: &str, value: &str| settings.get(name).is_some_and(|it| it == value);
        facts.syncs_each_write = facts.has_log
            && !facts.rewrites_log
            && is("appendfsync", "always")
            && is("no-appendfsync-on-rewrite", "no");
        facts.forgets = settings.get("save").map(|save| save.is_empty() && !facts.has_log);
    }
    Ok(facts)
}

fn read_info(info: &str) -> Facts {
    let lines: HashMap<&str, &str> =
        info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let of = |name: &str| lines.get(name).copied().unwrap_or_default();
    let mut version = of("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
    let replid = of("master_replid");
    Facts {
        version: (version.next().unwrap_or(0), version.next().unwrap_or(0)),
        is_primary: of("role") == "master",
        is_cluster: of("redis_mode") == "cluster",
        incarnation: u64::from_str_radix(replid.get(..13).unwrap_or_default(), 16).unwrap_or(0),
        eviction: of("maxmemory_policy").to_owned(),
        replicas: of("connected_slaves").parse().unwrap_or(0),
        has_log: of("aof_enabled") == "1",
        rewrites_log: ["aof_rewrite_in_progress", "aof_rewrite_scheduled"].map(of) != ["0", "0"],
        syncs_each_write: false,
        forgets: None,
    }
}
