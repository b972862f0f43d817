//! One call, brought to its end in time: sent to the primary of its slot, repeated where that is safe, and
//! answered with what is known when it failed.

use super::script::Script;
use super::server::Server;
use super::servers::Servers;
use super::vouch::Kept;
use crate::metrics::RedisMetrics;
use crate::store::{Durability, StoreError};
use redis::{Cmd, RedisError, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::warn;

/// Calls that may be under way; more are refused at once. At 64 KiB each they hold 128 MiB.
const CALLS_MAX: usize = 2_048;
/// Between tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes calls.
pub(super) struct Caller {
    pub(super) servers: Servers,
    pub(super) timeout: Duration,
    under_way: Semaphore,
    metrics: Arc<RedisMetrics>,
}

/// A call that was answered.
pub(super) struct Called {
    pub(super) answer: Value,
    /// By whom.
    pub(super) server: Arc<Server>,
    deadline: Instant,
}

/// What is sent.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Script { script: &'a Script, keys: &'a [Vec<u8>], args: &'a [Vec<u8>] },
    Command(&'a Cmd),
}

impl Sent<'_> {
    fn name(self) -> &'static str {
        match self {
            Sent::Script { script, .. } => script.name,
            Sent::Command(_) => "command",
        }
    }

    /// Plain commands here are such that running twice is running once.
    fn is_repeatable(self) -> bool {
        match self {
            Sent::Script { script, .. } => script.is_repeatable,
            Sent::Command(_) => true,
        }
    }
}

/// What a failure asks for.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing was done, and will not be for now.
    Refused,
    /// Nothing was done; soon it may be.
    Wait,
    /// The slot is elsewhere.
    Moved(String),
    /// This key is just being moved there.
    Ask(String),
    /// The server takes no writes any more. Nothing was done.
    Demoted,
    /// The connection broke; it may have been done.
    Broken,
    /// Something else.
    Other,
}

fn verdict(failure: &RedisError) -> Verdict {
    let to = || failure.redirect_node().map(|(address, _)| address.to_owned());
    match failure.code() {
        Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOPERM" | "NOAUTH") => Verdict::Refused,
        Some("LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "MASTERDOWN") => Verdict::Wait,
        Some("MOVED") => to().map_or(Verdict::Wait, Verdict::Moved),
        Some("ASK") => to().map_or(Verdict::Wait, Verdict::Ask),
        Some("READONLY") => Verdict::Demoted,
        Some(_) => Verdict::Other,
        None => Verdict::Broken,
    }
}

impl Caller {
    pub(super) fn new(servers: Servers, timeout: Duration, metrics: Arc<RedisMetrics>) -> Self {
        Self { servers, timeout, under_way: Semaphore::new(CALLS_MAX), metrics }
    }

    /// Runs a script.
    pub(super) async fn call(
        &self,
        script: &Script,
        slot: u16,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
    ) -> Result<Called, StoreError> {
        self.send(Sent::Script { script, keys, args }, slot).await
    }

    /// Sends a command that may be sent twice.
    pub(super) async fn command(&self, command: &Cmd, slot: u16) -> Result<Value, StoreError> {
        Ok(self.send(Sent::Command(command), slot).await?.answer)
    }

    async fn send(&self, sent: Sent<'_>, slot: u16) -> Result<Called, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let done = match self.under_way.try_acquire() {
            Ok(_permit) => {
                let may_be_done = AtomicBool::new(false);
                let trying = self.try_until_done(sent, slot, deadline, &may_be_done);
                tokio::time::timeout_at(deadline, trying).await.unwrap_or_else(|_| {
                    let is_open = may_be_done.load(Ordering::Relaxed);
                    Err(if is_open { StoreError::Timeout } else { StoreError::Unreachable })
                })
            }
            Err(_) => Err(StoreError::Overloaded),
        };
        if let Err(failure) = &done {
            let reason = match failure {
                StoreError::Engine(_) => "engine",
                StoreError::Timeout => "timeout",
                StoreError::ReadOnly => "read_only",
                StoreError::Overloaded => "overloaded",
                StoreError::Unreachable => "unreachable",
                StoreError::Value => "value",
            };
            self.metrics.failures.with_label_values(&[reason]).inc();
        }
        done
    }

    /// `may_be_done`: whether a try was sent of which nobody knows what became.
    async fn try_until_done(
        &self,
        sent: Sent<'_>,
        slot: u16,
        deadline: Instant,
        may_be_done: &AtomicBool,
    ) -> Result<Called, StoreError> {
        let mut ask = None;
        loop {
            let map = self.servers.map();
            let asking: Option<String> = ask.take();
            let server = match &asking {
                Some(address) => map.server_at(address),
                None => map.server_of(slot),
            };
            let Some(server) = server else {
                match &asking {
                    Some(address) => self.servers.invite(address),
                    None => self.servers.poke(None),
                }
                self.servers.other_than(map.generation).await;
                continue;
            };
            let was_open = may_be_done.swap(true, Ordering::Relaxed);
            let tried = match sent {
                Sent::Script { script, keys, args } => {
                    server.run(script, keys, args, asking.is_some()).await
                }
                Sent::Command(command) => server.send(command, asking.is_some()).await,
            };
            let failure = match tried {
                Ok(answer) => return Ok(Called { answer, server: server.clone(), deadline }),
                Err(failure) => failure,
            };
            let verdict = verdict(&failure);
            let is_open = was_open || matches!(verdict, Verdict::Broken | Verdict::Other);
            may_be_done.store(is_open, Ordering::Relaxed);
            match verdict {
                // This try did nothing; what became of one before it, nobody knows.
                Verdict::Refused if is_open => {
                    return Err(StoreError::Engine(Arc::new(failure)));
                }
                Verdict::Refused => return Err(StoreError::ReadOnly),
                Verdict::Wait => tokio::time::sleep(PAUSE).await,
                Verdict::Moved(address) => {
                    self.servers.poke(Some(&address));
                    self.servers.other_than(map.generation).await;
                }
                Verdict::Ask(address) => ask = Some(address),
                Verdict::Demoted => {
                    server.give_up();
                    self.servers.poke(None);
                    self.servers.other_than(map.generation).await;
                }
                Verdict::Broken if sent.is_repeatable() => {
                    server.give_up();
                    self.servers.poke(None);
                    self.servers.other_than(map.generation).await;
                }
                Verdict::Broken => {
                    server.give_up();
                    self.servers.poke(None);
                    return Err(StoreError::Engine(Arc::new(failure)));
                }
                Verdict::Other => {
                    let (script, server) = (sent.name(), &server.address);
                    warn!(%failure, script, %server, "a call of the store failed");
                    return Err(StoreError::Engine(Arc::new(failure)));
                }
            }
        }
    }
}

/// How durable it is what was just written, after waiting for what was asked.
pub(super) async fn vouch(
    called: &Called,
    incarnation: u64,
    asked: Option<Durability>,
    fence: Vec<u8>,
) -> Durability {
    let server = &called.server;
    let left = called.deadline.saturating_duration_since(Instant::now());
    // Said after the write, it holds for the write: what syncs now has synced all before.
    let asked_again = tokio::time::timeout(left, server.facts_of(incarnation, left)).await;
    let facts = asked_again.unwrap_or_else(|_| server.facts.load_full());
    // What was heard of another incarnation vouches for nothing.
    let is_heard = facts.incarnation == incarnation;
    if is_heard && facts.syncs_each_write && asked != Some(Durability::Replica) {
        return Durability::Disk;
    }
    let wait = async |kept| {
        let vouched = server.voucher.vouch(kept, incarnation, fence.clone());
        tokio::time::timeout_at(called.deadline, vouched).await.unwrap_or(false)
    };
    let plain =
        if is_heard && facts.syncs_each_write { Durability::Disk } else { Durability::Memory };
    match asked {
        None | Some(Durability::Memory) => plain,
        Some(Durability::Disk)
            if is_heard && facts.has_log && facts.version >= (7, 2) && wait(Kept::Disk).await =>
        {
            Durability::Disk
        }
        Some(_) if facts.replicas > 0 && wait(Kept::Replica).await => Durability::Replica,
        Some(_) => plain,
    }
}
