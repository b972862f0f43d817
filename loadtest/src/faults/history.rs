//! Writing histories: a line per event, in one write each, so that a process may be killed at any point
//! and every event that happened before is in the file. The kernel may break off the write of one that is killed
//! just then, where a page of the file ends: what was only begun did not happen.

use anyhow::Context;
use hawser_loadtest::judge::Event;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

pub(crate) use hawser_loadtest::stamp::now;

/// One file of events.
#[derive(Debug)]
pub(crate) struct History(File);

impl History {
    /// Begins a history, or goes on with one whose writer is gone.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).read(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let broken_off = broken_off(&file).context("a history cannot be read")?;
        let whole = file.metadata()?.len() - broken_off;
        file.set_len(whole)?;
        Ok(Self(file))
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

/// No event is longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a last line that has no end.
fn broken_off(mut file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LINE_BYTES_MAX)))?;
    let mut tail = Vec::new();
    file.take(LINE_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(tail.iter().rev().take_while(|&&byte| byte != b'\n').count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_was_only_begun_is_not_there_when_the_history_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        for (there, whole) in [("", ""), ("{}\n", "{}\n"), ("{}\n{\"t\":1", "{}\n"), ("{\"t\"", "")]
        {
            std::fs::write(&path, there).unwrap();
            let history = History::open(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
            (&history.0).write_all(b"next\n").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{whole}next\n"));
        }
    }
}
