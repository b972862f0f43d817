//! An append as Redis gets it: for the store, and for whoever measures the script alone.

use super::HISTORY;
use super::answer::{body_bytes, group_bytes};
use super::keys::Tag;
use super::number;
use super::script::SCRIPTS;
use crate::inbox::{Caps, NewEntry};
use crate::key::Key;
use crate::store::GroupMeta;
use hawser_proto::id::BusinessNo;
use hawser_proto::limits::{DEDUP_WINDOW, INBOX_TTL_MAX};
use redis::{AsyncConnectionConfig, Client, RedisResult, Value};
use std::time::{Duration, Instant};

/// Script, keys and arguments of one append.
#[derive(Clone, Debug)]
pub struct AppendCall {
    /// The script, for `SCRIPT LOAD` or `EVAL`.
    pub script: &'static str,
    /// Its digest, for `EVALSHA`.
    pub sha: &'static str,
    /// As the head of `append.lua` says; all of one slot.
    pub keys: Vec<Vec<u8>>,
    /// As the head of `append.lua` says.
    pub args: Vec<Vec<u8>>,
}

impl AppendCall {
    /// An append to a device's inbox.
    pub fn to_device(
        device: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        now_ms: u64,
    ) -> Self {
        Self::new(&Tag::device(device), business, new, caps, now_ms)
    }

    /// An append to the history of this very group.
    pub(super) fn to_group(
        group: &Key,
        of: &GroupMeta,
        new: NewEntry,
        caps: Caps,
        now_ms: u64,
    ) -> Self {
        let tag = Tag::group(group);
        let mut call = Self::new(&tag, HISTORY, new, caps, now_ms);
        call.keys.push(tag.group_itself());
        call.args.push(group_bytes(of));
        call
    }

    fn new(tag: &Tag, business: BusinessNo, mut new: NewEntry, caps: Caps, now_ms: u64) -> Self {
        // As the rules have it; what was over before stays so.
        let latest = now_ms.saturating_add(INBOX_TTL_MAX.as_millis() as u64);
        new.expires_at_ms = new.expires_at_ms.min(latest);
        Self {
            script: SCRIPTS.append.body,
            sha: &SCRIPTS.append.sha,
            keys: vec![
                tag.route(),
                tag.inboxes(),
                tag.entries(business),
                tag.push_id(business, &new.push_id),
                tag.collapse(business),
            ],
            args: vec![
                number(now_ms),
                number(u64::from(business.0)),
                number(new.expires_at_ms),
                number(new.priority as u64),
                new.digest.to_be_bytes().to_vec(),
                new.collapse_key.to_vec(),
                body_bytes(&new, now_ms),
                number(u64::from(caps.entries_max)),
                number(caps.bytes_max),
                number(u64::from(caps.drops_oldest)),
                number(DEDUP_WINDOW.as_millis() as u64),
            ],
        }
    }
}

/// The same script on one plain connection, pipelined, with nothing of the store around it: what the store
/// is measured against.
#[derive(Clone, Copy, Debug)]
pub struct BareScripts {
    /// Calls sent at once.
    pub per_pipeline: usize,
}

impl BareScripts {
    /// Sends what `next` gives for about `lasts` to `redis://host:port`. Returns the calls answered, and the
    /// time it took.
    pub async fn run(
        self,
        url: &str,
        lasts: Duration,
        mut next: impl FnMut() -> AppendCall + Send,
    ) -> RedisResult<(u64, Duration)> {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(lasts * 2));
        let client = Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let script = SCRIPTS.append.body;
        redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async::<String>(&mut connection).await?;
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < lasts {
            let mut pipeline = redis::pipe();
            for _ in 0..self.per_pipeline {
                let AppendCall { sha, keys, args, .. } = next();
                let command = pipeline.cmd("EVALSHA").arg(sha).arg(keys.len());
                for word in keys.iter().chain(&args) {
                    command.arg(&word[..]);
                }
            }
            let answers: Vec<Value> = pipeline.query_async(&mut connection).await?;
            sent += answers.len() as u64;
        }
        Ok((sent, begun.elapsed()))
    }
}
