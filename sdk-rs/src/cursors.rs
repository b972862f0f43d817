//! Where the cursors of the inboxes are kept: how far this device has handled what was stored for it.
//!
//! A cursor that is lost brings back pushes that were handled; one that is invented loses pushes. So
//! a file that cannot be read is an error, never an empty start.

use crate::storage::replace_file;
use aws_lc_rs::digest::{SHA256, digest};
use hawser_proto::id::Position;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The cursors of one device, by business.
pub type Cursors = Vec<(Arc<str>, Position)>;

/// Keeps the cursors of devices. Both calls may block: the client makes them on a blocking thread,
/// one at a time and never an older one after a newer; `load` once, `store` after every 16 handled
/// pushes or 200 ms. One client at a time per (app, device).
pub trait CursorStorage: Send + Sync + 'static {
    /// What was stored last; empty when nothing ever was. An error keeps the client closed.
    fn load(&self, app: &str, device: &str) -> io::Result<Cursors>;
    /// Keeps them, durably as far as the storage can: what is below these cursors is acknowledged, and
    /// never comes again. After an error the client tries again, and acknowledges nothing.
    ///
    /// A cursor that is kept already never goes back: another process of this device may have kept a
    /// higher one, and the higher one stays. But the cursors of the businesses in `refused` were none:
    /// what is kept of those is replaced, or forgotten where `cursors` does not name them.
    /// [`merge_cursors`] does this.
    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> io::Result<()>;
}

/// What is to be kept, where `kept` was: see [`CursorStorage::store`].
pub fn merge_cursors(kept: Cursors, cursors: &Cursors, refused: &[Arc<str>]) -> Cursors {
    let mut merged = kept;
    merged.retain(|(business, _)| !refused.contains(business));
    for (business, at) in cursors {
        match merged.iter_mut().find(|(known, _)| known == business) {
            Some((_, known)) => *known = *at.max(known),
            None => merged.push((business.clone(), *at)),
        }
    }
    merged
}

impl<S: CursorStorage + ?Sized> CursorStorage for Arc<S> {
    fn load(&self, app: &str, device: &str) -> io::Result<Cursors> {
        (**self).load(app, device)
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> io::Result<()> {
        (**self).store(app, device, cursors, refused)
    }
}

/// Lives as long as the value.
#[derive(Debug, Default)]
pub struct MemoryCursors(Mutex<HashMap<(String, String), Cursors>>);

impl CursorStorage for MemoryCursors {
    fn load(&self, app: &str, device: &str) -> io::Result<Cursors> {
        let key = (app.to_owned(), device.to_owned());
        Ok(self.0.lock().get(&key).cloned().unwrap_or_default())
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> io::Result<()> {
        let mut all = self.0.lock();
        let kept = all.entry((app.to_owned(), device.to_owned())).or_default();
        *kept = merge_cursors(std::mem::take(kept), cursors, refused);
        Ok(())
    }
}

/// A small text file per app and device, replaced as a whole; file and folder are synced before a
/// cursor counts as kept, so that it survives the process and the machine. Two processes of one device
/// never mix theirs, and do not set each other's back but for calls at the very same time, after which
/// the lower cursor may stand until the next.
#[derive(Debug)]
pub struct FileCursors {
    folder: PathBuf,
}

/// Why a cursor file was not taken.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is damaged or of another device; restore it, or delete it to have all that waits in the \
     inboxes of this device sent once more",
    .0.display()
)]
struct Damaged(PathBuf);

impl FileCursors {
    /// Keeps the cursors in this folder, which must exist.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self { folder: folder.as_ref().to_owned() }
    }

    /// The file of one device: its id may hold any character, so its digest stands for it.
    pub fn path(&self, app: &str, device: &str) -> PathBuf {
        let id = digest(&SHA256, format!("{}:{app}{device}", app.len()).as_bytes());
        self.folder.join(format!("{app}-{}.cursors", hex::encode(&id.as_ref()[..16])))
    }
}

impl CursorStorage for FileCursors {
    fn load(&self, app: &str, device: &str) -> io::Result<Cursors> {
        let path = self.path(app, device);
        match std::fs::read(&path) {
            Ok(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| parse(text, app, device))
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, Damaged(path))),
            // A folder that is not there is a wrong setting, and not a device without cursors.
            Err(source) if source.kind() == io::ErrorKind::NotFound && self.folder.is_dir() => {
                Ok(Cursors::new())
            }
            Err(source) => {
                let what = format!("cannot read {}: {source}", path.display());
                Err(io::Error::new(source.kind(), what))
            }
        }
    }

    fn store(
        &self,
        app: &str,
        device: &str,
        cursors: &Cursors,
        refused: &[Arc<str>],
    ) -> io::Result<()> {
        let merged = merge_cursors(self.load(app, device)?, cursors, refused);
        replace_file(&self.path(app, device), print(app, device, &merged).as_bytes())
    }
}

fn print(app: &str, device: &str, cursors: &Cursors) -> String {
    let mut text = format!("hawser-cursors 1\n{app} {}\n", hex::encode(device));
    for (business, Position { term, seq }) in cursors {
        let _ = writeln!(text, "{business} {term} {seq}"); // into a string nothing fails
    }
    let sum = checksum(&text);
    text + &sum
}

fn parse(text: &str, app: &str, device: &str) -> Option<Cursors> {
    let (body, _) = text.split_at_checked(text.strip_suffix('\n')?.rfind('\n')? + 1)?;
    if text.strip_prefix(body)? != checksum(body) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != "hawser-cursors 1"
        || lines.next()? != format!("{app} {}", hex::encode(device))
    {
        return None;
    }
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let business = words.next()?.into();
            let at = Position::new(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            words.next().is_none().then_some((business, at))
        })
        .collect()
}

/// The last line: a file that was cut or changed does not end in it.
fn checksum(body: &str) -> String {
    format!("sum {}\n", hex::encode(&digest(&SHA256, body.as_bytes()).as_ref()[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors(seq: u64) -> Cursors {
        vec![
            ("chat".into(), Position::new(1_700_000_000_000, seq)),
            ("shop".into(), Position::new(2, 1)),
        ]
    }

    #[test]
    fn a_device_gets_back_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory) = (FileCursors::new(folder.path()), MemoryCursors::default());
        for storage in [&file as &dyn CursorStorage, &memory] {
            assert_eq!(storage.load("demo", "a").unwrap(), []);
            for seq in [1, 2] {
                storage.store("demo", "a", &cursors(seq), &[]).unwrap();
                assert_eq!(storage.load("demo", "a").unwrap(), cursors(seq));
            }
            storage.store("demo", "../b c\u{e9}", &cursors(9), &[]).unwrap();
            assert_eq!(storage.load("demo", "a").unwrap(), cursors(2));
            assert_eq!(storage.load("demo", "../b c\u{e9}").unwrap(), cursors(9));
            assert_eq!(storage.load("dem", "oa").unwrap(), []);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no folder was left");
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileCursors::new(folder.path());
        storage.store("demo", "a", &cursors(7), &[]).unwrap();
        let path = storage.path("demo", "a");
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = storage.load("demo", "a").unwrap_err();
            assert!(error.to_string().contains("delete it"), "{length}: {error}");
            let mut changed = whole.clone();
            changed[length] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(storage.load("demo", "a").is_err(), "{length}");
        }
        // Another device's file under this one's name.
        std::fs::write(&path, print("demo", "b", &cursors(7))).unwrap();
        assert!(storage.load("demo", "a").is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(storage.load("demo", "a").unwrap(), []);
        assert!(FileCursors::new(folder.path().join("missing")).load("demo", "a").is_err());
    }

    #[test]
    fn a_kept_cursor_goes_back_only_when_it_was_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory) = (FileCursors::new(folder.path()), MemoryCursors::default());
        let one = |business: &str, seq| (business.into(), Position::new(2, seq));
        for storage in [&file as &dyn CursorStorage, &memory] {
            let store = |cursors: Cursors, refused: &[Arc<str>]| {
                storage.store("demo", "a", &cursors, refused).unwrap();
                storage.load("demo", "a").unwrap()
            };
            store(vec![one("chat", 9), one("shop", 5)], &[]);
            // A second process of the device, which began earlier and knows less.
            assert_eq!(
                store(vec![one("chat", 4), one("shop", 6)], &[])[..],
                [one("chat", 9), one("shop", 6)]
            );
            assert_eq!(store(vec![one("mail", 1)], &[]).len(), 3);
            let mut seen = store(vec![one("chat", 4), one("shop", 2)], &["chat".into()]);
            seen.sort();
            assert_eq!(seen, [one("chat", 4), one("mail", 1), one("shop", 6)]);
            assert_eq!(store(Vec::new(), &["chat".into()]).len(), 2, "refused, and nothing since");
        }
    }

    #[test]
    fn processes_of_one_device_never_mix_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileCursors::new(folder.path());
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                let storage = &storage;
                scope.spawn(move || {
                    for round in 1..=50 {
                        // Of different lengths, so that a mix shows.
                        let cursors = (0..=writer * 3)
                            .map(|n| (format!("business-{n}").into(), Position::new(1, round)));
                        storage.store("demo", "a", &cursors.collect(), &[]).unwrap();
                    }
                });
            }
        });
        assert!(!storage.load("demo", "a").unwrap().is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_process_that_dies_while_it_stores_leaves_the_old_or_the_new() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileCursors::new(folder.path());
        storage.store("demo", "a", &cursors(1), &[]).unwrap();
        // It died while it wrote beside.
        let beside = storage.path("demo", "a").with_extension("cursors.new");
        std::fs::write(&beside, "hawser-cur").unwrap();
        assert_eq!(storage.load("demo", "a").unwrap(), cursors(1));
        storage.store("demo", "a", &cursors(2), &[]).unwrap();
        assert_eq!(storage.load("demo", "a").unwrap(), cursors(2));

        // And one that cannot write leaves nothing beside.
        let path = storage.path("demo", "b");
        std::fs::create_dir(&path).unwrap();
        assert!(replace_file(&path, b"never").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
