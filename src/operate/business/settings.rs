//! What can be said of a business on the command line.

use crate::failure::{Failure, Outcome};
use crate::span::Span;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

/// What happens to pushes a device is too slow for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SlowPolicy {
    /// Drop the new push
    DropNewest,
    /// Drop the oldest that waits
    DropOldest,
    /// Close the connection
    Disconnect,
}

/// What happens to a stored push whose inbox is full.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum InboxOverflow {
    /// Its outcome is `overflow`
    Refuse,
    /// The oldest of the lowest priority leaves, and the device is told of the gap
    DropOldest,
}

/// Settings of a business.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Where the business serves hawser.business.v1, as http://host:port; repeat for more
    #[arg(long = "endpoint", value_name = "URL")]
    endpoints: Vec<String>,
    /// Longest time for one request
    #[arg(long, value_name = "MS")]
    request_timeout_ms: Option<u32>,
    /// Requests a second that it expects in all; sizes its pools
    #[arg(long, value_name = "COUNT")]
    expected_requests_per_second: Option<u32>,
    /// What happens to pushes a device is too slow for
    #[arg(long, value_enum)]
    slow_policy: Option<SlowPolicy>,
    /// Stored pushes that a device's inbox may hold, at most 10000 [default: 1000]
    #[arg(long, value_name = "COUNT")]
    inbox_entries: Option<u32>,
    /// Bytes that they may take, at most 67108864 [default: 4194304]
    #[arg(long, value_name = "BYTES")]
    inbox_bytes: Option<u64>,
    /// How long a stored push waits for its device, in whole seconds, at most 7d [default: 7d]
    #[arg(long, value_name = "SPAN")]
    inbox_ttl: Option<Span>,
    /// What happens to a stored push whose inbox is full [default: refuse]
    #[arg(long, value_enum)]
    inbox_overflow: Option<InboxOverflow>,
    /// Tell its endpoints when devices that serve it come and go [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    connection_events: Option<bool>,
}

impl Settings {
    /// As the fields of control's API; only what was said.
    pub(super) fn into_fields(self) -> Outcome<Map<String, Value>> {
        let mut fields = Map::new();
        let inbox = self.inbox()?;
        if !inbox.is_empty() {
            fields.insert("inbox".into(), inbox.into());
        }
        if !self.endpoints.is_empty() {
            fields.insert("endpoints".into(), json!(self.endpoints));
        }
        for (name, value) in [
            ("request_timeout_ms", self.request_timeout_ms),
            ("expected_requests_per_second", self.expected_requests_per_second),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), json!(value));
            }
        }
        if let Some(value) = self.connection_events {
            fields.insert("connection_events".into(), json!(value));
        }
        if let Some(policy) = self.slow_policy {
            let name = match policy {
                SlowPolicy::DropNewest => "drop_newest",
                SlowPolicy::DropOldest => "drop_oldest",
                SlowPolicy::Disconnect => "disconnect",
            };
            fields.insert("slow_policy".into(), json!(name));
        }
        Ok(fields)
    }

    fn inbox(&self) -> Outcome<Map<String, Value>> {
        let ttl_ms = self.inbox_ttl.map(Span::as_millis);
        if ttl_ms.is_some_and(|ms| ms % 1_000 != 0) {
            return Err(Failure::usage("--inbox-ttl is not in whole seconds"));
        }
        let overflow = self.inbox_overflow.map(|overflow| match overflow {
            InboxOverflow::Refuse => "refuse",
            InboxOverflow::DropOldest => "drop_oldest",
        });
        let named = [
            ("entries_max", self.inbox_entries.map(Value::from)),
            ("bytes_max", self.inbox_bytes.map(Value::from)),
            ("ttl_s_max", ttl_ms.map(|ms| Value::from(ms / 1_000))),
            ("overflow", overflow.map(Value::from)),
        ];
        Ok(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}
