//! What is asked of the store for a push, and what it answered.

use crate::failure::{Failure, Outcome};
use crate::span::{Instant, Span};
use clap::{Args, ValueEnum};
use hawser_proto::code::ErrorCode;
use hawser_proto::id::Position;
use hawser_proto::limits::WAIT_ACK_MAX;
use hawser_proto::rpc::push as rpc;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How a push is stored.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stored pushes")]
pub(crate) struct StoreArgs {
    /// Store the push in the device's inbox: it is there until the device's app has handled it
    #[arg(long)]
    pub(super) stored: bool,
    /// It is worth nothing after this long, such as 90s or 7d [default: what the business's inbox allows]
    #[arg(long, requires = "stored", value_name = "SPAN")]
    ttl: Option<Span>,
    /// It is worth nothing after this: 2026-11-21T23:59:07Z, or milliseconds since 1970
    #[arg(long, requires = "stored", value_name = "TIME")]
    expires_at: Option<Instant>,
    /// Of the pushes with this key only the newest stays in the inbox
    #[arg(long, requires = "stored", value_name = "KEY")]
    collapse_key: Option<String>,
    /// Which inbox of a device is sent first, and who leaves first when it is full [default: normal]
    #[arg(long, requires = "stored", value_enum)]
    priority: Option<Priority>,
    /// What must be true before the call answers [default: the store's own]
    #[arg(long, requires = "stored", value_enum)]
    durability: Option<Durability>,
    /// Wait this long for the device's app to have handled it, at most 15s
    #[arg(long, requires = "stored", value_name = "SPAN")]
    wait_ack: Option<Span>,
}

/// Orders between the inboxes of a device.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Priority {
    /// After all others
    Low,
    /// In between
    Normal,
    /// Before all others
    High,
}

/// Where a push is before the call answers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Durability {
    /// In the memory of the store
    Memory,
    /// And of at least one replica
    Replica,
    /// Synced to disk
    Disk,
}

impl Durability {
    pub(super) fn wire(self) -> rpc::Durability {
        match self {
            Self::Memory => rpc::Durability::Memory,
            Self::Replica => rpc::Durability::Replica,
            Self::Disk => rpc::Durability::Disk,
        }
    }
}

impl StoreArgs {
    /// The class of the push, and what is asked of the store.
    pub(super) fn read(self) -> Outcome<(rpc::Class, Option<rpc::StoreOptions>)> {
        if !self.stored {
            return Ok((rpc::Class::Volatile, None));
        }
        if self.wait().is_some_and(|wait| wait > WAIT_ACK_MAX) {
            return Err(Failure::usage("--wait-ack is at most 15s"));
        }
        if self.ttl == Some(Span(Duration::ZERO)) {
            return Err(Failure::usage("--ttl 0 would expire before it is stored"));
        }
        let priority = match self.priority {
            None => rpc::Priority::Unspecified,
            Some(Priority::Low) => rpc::Priority::Low,
            Some(Priority::Normal) => rpc::Priority::Normal,
            Some(Priority::High) => rpc::Priority::High,
        };
        let durability = self.durability.map(Durability::wire).unwrap_or_default();
        let options = rpc::StoreOptions {
            ttl_ms: self.ttl.map_or(0, Span::as_millis),
            expires_at_ms: self.expires_at.map_or(0, |at| at.0),
            collapse_key: self.collapse_key.unwrap_or_default(),
            priority: priority.into(),
            durability: durability.into(),
            // At most 15,000, as was checked.
            wait_ack_ms: self.wait_ack.map_or(0, Span::as_millis) as u32,
        };
        Ok((rpc::Class::Stored, Some(options)))
    }

    /// How much longer than usual the call may take.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.wait_ack.map(|span| span.0)
    }
}

/// Where a push stands, as fields of what is printed.
pub(super) fn told(stored: &rpc::StoredResult) -> Map<String, Value> {
    let mut told = Map::new();
    if is_stored(stored) {
        told.insert("position".into(), position(stored.term, stored.seq).into());
        told.insert("durability".into(), durability_name(stored.durability).into());
        told.insert("repeated".into(), json!(stored.repeated));
    }
    if stored.error != 0 {
        let name = ErrorCode::from_number(stored.error)
            .map_or_else(|| format!("error {}", stored.error), |code| code.name().to_owned());
        told.insert("error".into(), name.into());
    }
    told
}

/// It has a place in an inbox or a history.
pub(super) fn is_stored(stored: &rpc::StoredResult) -> bool {
    Position::new(stored.term, stored.seq) != Position::START
}

/// A position as text; `-` for the one before everything.
pub(crate) fn position(term: u64, seq: u64) -> String {
    match Position::new(term, seq) {
        Position::START => "-".to_owned(),
        position => position.to_string(),
    }
}

/// The durability's name without its prefix: `disk`.
fn durability_name(number: i32) -> String {
    let durability = rpc::Durability::try_from(number).unwrap_or_default();
    durability.as_str_name().trim_start_matches("DURABILITY_").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn read(line: &[&str]) -> Result<(rpc::Class, Option<rpc::StoreOptions>), String> {
        let line = Line::try_parse_from([&["push"], line].concat()).map_err(|it| it.to_string())?;
        line.store.read().map_err(|it| it.to_string())
    }

    #[test]
    fn options_are_read_and_make_sense_only_for_what_is_stored() {
        assert_eq!(read(&[]), Ok((rpc::Class::Volatile, None)));
        let plain = Some(rpc::StoreOptions::default());
        assert_eq!(read(&["--stored"]), Ok((rpc::Class::Stored, plain)));
        let all = [
            "--stored",
            "--ttl",
            "90s",
            "--expires-at",
            "2026-11-21T23:59:59Z",
            "--collapse-key",
            "k",
            "--priority",
            "high",
            "--durability",
            "disk",
            "--wait-ack",
            "5s",
        ];
        let wanted = rpc::StoreOptions {
            ttl_ms: 90_000,
            expires_at_ms: 1_795_305_599_000,
            collapse_key: "k".into(),
            priority: rpc::Priority::High.into(),
            durability: rpc::Durability::Disk.into(),
            wait_ack_ms: 5_000,
        };
        assert_eq!(read(&all), Ok((rpc::Class::Stored, Some(wanted))));
        for (line, wanted) in [
            (&["--ttl", "1s"] as &[&str], "--stored"),
            (&["--durability", "disk"], "--stored"),
            (&["--wait-ack", "5s"], "--stored"),
            (&["--stored", "--ttl", "1"], "span of time"),
            (&["--stored", "--ttl", "0s"], "would expire"),
            (&["--stored", "--expires-at", "noon"], "point in time"),
            (&["--stored", "--wait-ack", "16s"], "at most 15s"),
            (&["--stored", "--priority", "urgent"], "possible values"),
        ] {
            let said = read(line).expect_err("a mistake");
            assert!(said.contains(wanted), "{line:?}: {said}");
        }
    }

    #[test]
    fn what_the_store_answered_reads_well() {
        let stored = rpc::StoredResult {
            term: 17,
            seq: 3,
            durability: rpc::Durability::Replica.into(),
            repeated: true,
            error: 0,
        };
        let wanted = json!({"position": "17-3", "durability": "replica", "repeated": true});
        assert_eq!(Value::Object(told(&stored)), wanted);
        assert_eq!(Value::Object(told(&rpc::StoredResult::default())), json!({}));
        let error = ErrorCode::PushIdReused.number();
        let refused = rpc::StoredResult { error, ..Default::default() };
        assert_eq!(Value::Object(told(&refused)), json!({"error": "push_id_reused"}));
    }
}
