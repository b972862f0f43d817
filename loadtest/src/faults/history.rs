//! Writing histories: a line per event, in one write each, so that a process may be killed at any point
//! and every event that happened before is in the file.

use anyhow::Context;
use hawser_loadtest::judge::Event;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

pub(crate) use hawser_loadtest::stamp::now;

/// One file of events.
#[derive(Debug)]
pub(crate) struct History(File);

impl History {
    /// Begins, or goes on with, a history.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    /// Writes an event, at this moment unless it carries a time.
    pub(crate) fn write(&self, mut event: Event) {
        if event.t == 0 {
            event.t = now();
        }
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        // A history that cannot be written is no evidence: better no process than a silent one.
        (&self.0).write_all(&line).expect("the history can be written");
    }
}
