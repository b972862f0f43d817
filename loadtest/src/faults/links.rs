//! When each device was connected, and where: written by the device processes, read by the rows.

use super::history::now;
use anyhow::Context;
use hawser_sdk::State;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// A device is online over another link, or lost it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Word {
    pub(super) t: u64,
    pub(super) device: String,
    /// The connection id; empty: offline.
    pub(super) connection: String,
    pub(super) epoch: u64,
    pub(super) reason: String,
}

impl Word {
    pub(super) fn is_online(&self) -> bool {
        !self.connection.is_empty()
    }

    /// The access node it is connected to.
    pub(super) fn node(&self) -> &str {
        self.connection.split('/').next().unwrap_or_default()
    }
}

/// One file of words.
#[derive(Debug)]
pub(super) struct Journal(File);

impl Journal {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        Ok(Self(file.with_context(|| format!("cannot write {}", path.display()))?))
    }

    /// Writes a change of state, when it is one of these.
    pub(super) fn write(&self, device: &str, state: &State) {
        let (connection, epoch, reason) = match state {
            State::Online { connection, epoch, .. } => (connection.clone(), *epoch, String::new()),
            State::Offline { reason, .. } | State::Closed { reason, .. } => {
                (String::new(), 0, reason.to_string())
            }
            _ => return,
        };
        self.put(&Word { t: now(), device: device.to_owned(), connection, epoch, reason });
    }

    /// Writes what a device heard in a group.
    pub(super) fn heard(&self, device: &str, body: &[u8]) {
        let reason = String::from_utf8_lossy(body).into_owned();
        self.put(&Word { t: now(), device: device.to_owned(), reason, ..Word::default() });
    }

    fn put(&self, word: &Word) {
        let mut line = serde_json::to_vec(word).unwrap_or_default();
        line.push(b'\n');
        (&self.0).write_all(&line).expect("the journal can be written");
    }
}

/// All words of all devices, by time.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(Vec<Word>);

impl Links {
    /// Reads what was written so far.
    pub(super) fn read(files: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        let mut words = Vec::new();
        for file in files {
            let Ok(text) = std::fs::read_to_string(file) else { continue };
            // A killed process leaves a torn last line.
            words.extend(text.lines().filter_map(|line| serde_json::from_str::<Word>(line).ok()));
        }
        words.sort_by_key(|word| word.t);
        Self(words)
    }

    /// Who heard this in a group.
    pub(super) fn who_heard(&self, body: &str) -> BTreeSet<&str> {
        let heard = self.0.iter().filter(|word| word.reason == body);
        heard.map(|word| word.device.as_str()).collect()
    }

    /// How each device stood at a time.
    pub(super) fn at(&self, time: u64) -> BTreeMap<&str, &Word> {
        let mut all = BTreeMap::new();
        for word in self.0.iter().take_while(|word| word.t <= time) {
            all.insert(word.device.as_str(), word);
        }
        all
    }

    /// Logins of all devices between two times.
    pub(super) fn logins(&self, from: u64, to: u64) -> impl Iterator<Item = &Word> {
        self.0.iter().filter(move |word| word.is_online() && (from..to).contains(&word.t))
    }

    /// For each device that was online at `from`: how long until its first login after that, in
    /// milliseconds, sorted; and how many have had none.
    pub(super) fn back(&self, from: u64, node: &str) -> (Vec<u64>, usize) {
        let on_it: Vec<&str> = self
            .at(from)
            .into_iter()
            .filter(|(_, word)| word.is_online() && word.node() == node)
            .map(|(device, _)| device)
            .collect();
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        for word in self.logins(from, u64::MAX) {
            first.entry(&word.device).or_insert(word.t);
        }
        let mut delays: Vec<u64> = on_it
            .iter()
            .filter_map(|device| Some((first.get(device)? - from) / 1_000_000))
            .collect();
        delays.sort_unstable();
        let missing = on_it.len() - delays.len();
        (delays, missing)
    }

    /// The most logins within one second, between two times.
    pub(super) fn peak(&self, from: u64, to: u64) -> usize {
        let times: Vec<u64> = self.logins(from, to).map(|word| word.t).collect();
        let mut peak = 0;
        let mut first = 0;
        for (last, time) in times.iter().enumerate() {
            while times[first] + 1_000_000_000 <= *time {
                first += 1;
            }
            peak = peak.max(last - first + 1);
        }
        peak
    }

    /// The most logins of one device between two times.
    pub(super) fn most_moves(&self, from: u64, to: u64) -> (usize, String) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in self.logins(from, to) {
            *counts.entry(&word.device).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or((0, String::new()), |(device, count)| (count, device.to_owned()))
    }

    /// How long devices were without a link between two times, by gap, in milliseconds, sorted.
    pub(super) fn holes(&self, from: u64, to: u64) -> Vec<u64> {
        let mut since: BTreeMap<&str, u64> = BTreeMap::new();
        let mut holes = Vec::new();
        for word in self.0.iter().filter(|word| (from..to).contains(&word.t)) {
            if !word.is_online() {
                since.entry(&word.device).or_insert(word.t);
            } else if let Some(lost) = since.remove(word.device.as_str()) {
                holes.push((word.t - lost) / 1_000_000);
            }
        }
        holes.sort_unstable();
        holes
    }

    /// Every session that was ever begun: device, epoch, and until when it is known to have lived.
    pub(super) fn sessions(&self) -> BTreeMap<&str, Vec<&Word>> {
        let mut all: BTreeMap<&str, Vec<&Word>> = BTreeMap::new();
        for word in self.0.iter().filter(|word| word.is_online()) {
            let of = all.entry(&word.device).or_default();
            if of.last().is_none_or(|last| last.epoch != word.epoch) {
                of.push(word);
            }
        }
        all
    }
}

/// The value that this share of a sorted list does not exceed.
pub(super) fn share(sorted: &[u64], share: f64) -> u64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(t: u64, device: &str, connection: &str) -> Word {
        let connection = connection.to_owned();
        Word {
            t: t * 1_000_000,
            device: device.to_owned(),
            connection,
            epoch: t,
            ..Word::default()
        }
    }

    fn links() -> Links {
        Links(vec![
            word(10, "x", "a0/1/1.1"),
            word(11, "y", "a1/1/1.1"),
            word(100, "x", ""),
            word(400, "x", "a1/1/2.1"),
            word(1_300, "x", "a0/1/3.1"),
            word(1_350, "y", "a0/1/4.1"),
        ])
    }

    #[test]
    fn devices_of_a_node_are_followed_until_they_are_back() {
        assert_eq!(links().back(50_000_000, "a0"), (vec![350], 0));
        assert_eq!(links().back(50_000_000, "a1"), (vec![1_300], 0));
        assert_eq!(links().back(1_310_000_000, "a0").1, 1);
    }

    #[test]
    fn the_peak_is_that_of_any_second() {
        assert_eq!(links().peak(0, u64::MAX), 3);
        assert_eq!(links().peak(50_000_000, u64::MAX), 3);
        assert_eq!(links().most_moves(50_000_000, u64::MAX), (2, "x".to_owned()));
        assert_eq!(links().holes(0, u64::MAX), [300]);
    }
}
