//! A value kept on disk between two lives of a process: written whole or not at all, readable by its
//! owner alone, and believed only if every byte of it is as it was written.
//!
//! [`keep`] writes a value whenever it has changed. The file: a magic, a checksum of all that follows, the label
//! of what it holds, the bytes. It is no place for what must not be lost: a value that cannot be read is as if
//! there were none.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: &[u8; 8] = b"HWKEPT1\n";
/// Nothing that is kept is larger; what is, is somebody else's file.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Between two writes: changes that come together are written together.
const KEEP_INTERVAL: Duration = Duration::from_millis(200);
/// A disk that fails is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is there and cannot be read.
    #[error("cannot be read")]
    Read(#[from] io::Error),
    /// It was not written here, or holds something else.
    #[error("holds something else")]
    Foreign,
    /// It ends too early, or its bytes are not those that were written.
    #[error("torn or changed")]
    Torn,
}

/// Where one value is kept.
#[derive(Clone, Debug)]
pub struct Snapshot {
    path: PathBuf,
    label: &'static str,
}

/// A value that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it was written, as the file system says.
    pub written: SystemTime,
}

impl Snapshot {
    /// The value called `label` in this file. What was kept under another label is not taken for it.
    pub fn new(path: PathBuf, label: &'static str) -> Self {
        Self { path, label }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the value. `None`: there is none.
    pub fn read(&self) -> Result<Option<Kept>, SnapshotError> {
        let about = match std::fs::metadata(&self.path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !about.is_file() || about.len() > BYTES_MAX {
            return Err(SnapshotError::Foreign);
        }
        let all = std::fs::read(&self.path)?;
        let content = self.content(&all)?;
        let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(Kept { bytes: content.to_vec(), written }))
    }

    fn content<'a>(&self, all: &'a [u8]) -> Result<&'a [u8], SnapshotError> {
        if all.len() < MAGIC.len() && MAGIC.starts_with(all) {
            return Err(SnapshotError::Torn);
        }
        let rest = all.strip_prefix(MAGIC).ok_or(SnapshotError::Foreign)?;
        let (head, rest) = rest.split_first_chunk::<16>().ok_or(SnapshotError::Torn)?;
        // Length and sum of all that follows, so that a cut at any place is seen, and an empty value too.
        if u128::from_be_bytes(*head) != xxh3_128(rest) {
            return Err(SnapshotError::Torn);
        }
        let (label_len, rest) = rest.split_first().ok_or(SnapshotError::Torn)?;
        let (label, content) =
            rest.split_at_checked(usize::from(*label_len)).ok_or(SnapshotError::Torn)?;
        if label != self.label.as_bytes() {
            return Err(SnapshotError::Foreign);
        }
        Ok(content)
    }

    /// Keeps a value in place of the one before. After a crash one of the two is there, whole. Blocks until
    /// the disk has it.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        crate::private::make(folder)?;
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let beside = folder.join(name);
        // One that is left over from a crash may have been made by anybody.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let written = self.write_to(&beside, bytes).and_then(|()| {
            std::fs::rename(&beside, &self.path)?;
            std::fs::File::open(folder)?.sync_all()
        });
        if written.is_err() {
            // Best effort: the next try begins with this, too.
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    fn write_to(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let label = self.label.as_bytes();
        let label_len = u8::try_from(label.len()).map_err(io::Error::other)?;
        let rest = [&[label_len][..], label, bytes].concat();
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(MAGIC)?;
        file.write_all(&xxh3_128(&rest).to_be_bytes())?;
        file.write_all(&rest)?;
        file.sync_all()
    }
}

/// Keeps what `value` gives, after each of the `changes`, until told to stop; then what has changed since the
/// last time. The first change is written at once, those that follow it soon together. A disk that fails harms
/// nothing but what is kept: that grows old, with a warning once.
pub async fn keep(
    snapshot: Snapshot,
    mut changes: watch::Receiver<u64>,
    value: impl Fn() -> Vec<u8>,
    stop: CancellationToken,
) {
    let mut is_failing = false;
    loop {
        let has_news = is_failing
            || tokio::select! {
                moved = changes.changed() => if moved.is_err() { return } else { true },
                () = stop.cancelled() => changes.has_changed().unwrap_or(false),
            };
        let is_last = stop.is_cancelled();
        if !has_news {
            return;
        }
        changes.mark_unchanged();
        let (bytes, to) = (value(), snapshot.clone());
        let written = tokio::task::spawn_blocking(move || to.write(&bytes)).await;
        let failed = written.map_err(io::Error::other).and_then(|written| written).err();
        if let Some(error) = &failed
            && !is_failing
        {
            warn!(path = %snapshot.path().display(), %error, "cannot be kept on disk");
        }
        if is_last {
            return;
        }
        is_failing = failed.is_some();
        tokio::select! {
            () = tokio::time::sleep(if is_failing { RETRY_INTERVAL } else { KEEP_INTERVAL }) => {}
            () = stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn kept(folder: &tempfile::TempDir) -> Snapshot {
        Snapshot::new(folder.path().join("deep/er/value"), "numbers")
    }

    fn bytes(snapshot: &Snapshot) -> Option<Vec<u8>> {
        snapshot.read().expect("believed").map(|kept| kept.bytes)
    }

    #[test]
    fn the_last_value_is_there_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        assert_eq!(bytes(&snapshot), None);
        for value in [b"one".to_vec(), Vec::new(), vec![7; 100_000]] {
            snapshot.write(&value).unwrap();
            assert_eq!(bytes(&snapshot), Some(value));
        }
        let mode = std::fs::metadata(snapshot.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let folder_mode =
            snapshot.path().parent().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(folder_mode & 0o777, 0o700);
        let files = std::fs::read_dir(snapshot.path().parent().unwrap()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }

    #[test]
    fn a_torn_or_changed_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        snapshot.write(b"precious").unwrap();
        let whole = std::fs::read(snapshot.path()).unwrap();
        for end in 0..whole.len() {
            std::fs::write(snapshot.path(), &whole[..end]).unwrap();
            assert!(matches!(snapshot.read(), Err(SnapshotError::Torn)), "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            std::fs::write(snapshot.path(), &changed).unwrap();
            assert!(snapshot.read().is_err(), "byte {at}");
        }
        std::fs::write(snapshot.path(), [&whole[..], b"more"].concat()).unwrap();
        assert!(matches!(snapshot.read(), Err(SnapshotError::Torn)));
        // And the next write mends it.
        snapshot.write(b"again").unwrap();
        assert_eq!(bytes(&snapshot).as_deref(), Some(&b"again"[..]));
    }

    #[test]
    fn a_foreign_file_is_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        snapshot.write(b"1 2 3").unwrap();
        let other = Snapshot::new(snapshot.path().to_owned(), "letters");
        assert!(matches!(other.read(), Err(SnapshotError::Foreign)));
        std::fs::write(snapshot.path(), "a shopping list, longer than the magic").unwrap();
        assert!(matches!(snapshot.read(), Err(SnapshotError::Foreign)));
        let a_folder = Snapshot::new(folder.path().to_owned(), "numbers");
        assert!(matches!(a_folder.read(), Err(SnapshotError::Foreign)));
    }

    #[tokio::test]
    async fn each_change_is_kept_and_a_disk_that_fails_is_tried_again() {
        tokio::time::pause();
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        let (change, changes) = watch::channel(0u64);
        let (seen, stop) = (changes.clone(), CancellationToken::new());
        let value = move || (*seen.borrow()).to_be_bytes().to_vec();
        let keeping = keep(snapshot.clone(), changes, value, stop.clone());
        let until = async |number: u64| {
            while snapshot.read().ok().flatten().map(|it| it.bytes)
                != Some(number.to_be_bytes().into())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let test = async {
            for number in [1, 2, 3] {
                change.send_replace(number);
                until(number).await;
            }
            // A file where the folder should be: nothing can be written, then it can.
            std::fs::remove_dir_all(folder.path().join("deep")).unwrap();
            std::fs::write(folder.path().join("deep"), "in the way").unwrap();
            change.send_replace(4);
            tokio::time::sleep(3 * RETRY_INTERVAL).await;
            std::fs::remove_file(folder.path().join("deep")).unwrap();
            until(4).await;
            stop.cancel();
        };
        tokio::join!(keeping, test);
    }

    #[tokio::test]
    async fn the_last_word_before_the_end_is_kept() {
        tokio::time::pause();
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        // Which of two things that are ready is seen first is up to chance.
        for round in 0..32 {
            let (change, changes) = watch::channel(0u64);
            let (seen, stop) = (changes.clone(), CancellationToken::new());
            let value = move || (*seen.borrow()).to_be_bytes().to_vec();
            change.send_replace(1_000 + round);
            stop.cancel();
            keep(snapshot.clone(), changes, value, stop).await;
            assert_eq!(bytes(&snapshot), Some((1_000 + round).to_be_bytes().into()));
        }
    }

    /// What a crash in the middle of a write leaves behind, and what somebody else may have put there.
    #[test]
    fn a_write_that_was_cut_off_harms_neither_the_old_value_nor_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = kept(&folder);
        snapshot.write(b"old").unwrap();
        let beside = snapshot.path().with_file_name("value.new");
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, "untouched").unwrap();
        for leave in [true, false] {
            if leave {
                std::fs::write(&beside, "half").unwrap();
            } else {
                std::os::unix::fs::symlink(&elsewhere, &beside).unwrap();
            }
            assert_eq!(bytes(&snapshot).as_deref(), Some(&b"old"[..]));
            snapshot.write(b"new").unwrap();
            assert_eq!(bytes(&snapshot).as_deref(), Some(&b"new"[..]));
            snapshot.write(b"old").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
    }
}
