//! What an installation keeps between starts: who it is, how often it has tried to log in, and its
//! device key. The access node refuses a login whose attempt is not above the last one of the same
//! instance, so whatever is stored must be stored before the login leaves.

use parking_lot::Mutex;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// One installation of the app on one device. `Debug` hides the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Installation {
    /// Random, made once.
    pub instance: [u8; 16],
    /// Login tries so far.
    pub attempt: u64,
    /// Seed of the device key, when the proof binds one.
    pub device_key: Option<[u8; 32]>,
}

impl Installation {
    /// A new one, random.
    pub fn random() -> Self {
        Self { instance: rand::random(), attempt: 0, device_key: None }
    }
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installation").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// Keeps one [`Installation`]. Both calls may block: the client makes them on a blocking thread, once
/// at its start and once before each login.
pub trait Storage: Send + Sync + 'static {
    /// What was stored last; `None` when nothing ever was.
    fn load(&self) -> io::Result<Option<Installation>>;
    /// Replaces it, durably as far as the storage can.
    fn store(&self, installation: &Installation) -> io::Result<()>;
}

/// Lives as long as the value: a client made again in the same process is the same installation.
#[derive(Debug, Default)]
pub struct MemoryStorage(Mutex<Option<Installation>>);

impl Storage for MemoryStorage {
    fn load(&self) -> io::Result<Option<Installation>> {
        Ok(self.0.lock().clone())
    }

    fn store(&self, installation: &Installation) -> io::Result<()> {
        *self.0.lock() = Some(installation.clone());
        Ok(())
    }
}

/// A small text file, replaced as a whole and synced. It may hold the device key, so on Unix it is
/// readable by its owner alone. One client per file: two that share it share their login attempts, and
/// refuse each other.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
}

impl FileStorage {
    /// Keeps the installation in this file; its folder must exist.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_owned() }
    }
}

impl Storage for FileStorage {
    fn load(&self) -> io::Result<Option<Installation>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => parse(&text).map(Some).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "not a hawser installation file")
            }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(source),
        }
    }

    fn store(&self, installation: &Installation) -> io::Result<()> {
        replace_file(&self.path, print(installation).as_bytes())
    }
}

/// Replaces a file as a whole, synced together with its folder. It is written under a name of this call
/// alone, so that others who replace it at the same time never mix their bytes with these.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.to_owned().into_os_string();
    beside.push(format!(".{:016x}.new", rand::random::<u64>()));
    let written = write_and_rename(Path::new(&beside), path, bytes);
    if written.is_err() {
        // Whatever made the write fail says more than a failure to tidy up.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn write_and_rename(beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    // The new name is only safe with its folder; other systems than Unix cannot open one.
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn print(it: &Installation) -> String {
    let key = it.device_key.map(hex::encode).unwrap_or_default();
    format!("hawser-installation 1\n{}\n{}\n{key}\n", hex::encode(it.instance), it.attempt)
}

fn parse(text: &str) -> Option<Installation> {
    let mut lines = text.lines();
    if lines.next()? != "hawser-installation 1" {
        return None;
    }
    let instance = hex::decode(lines.next()?).ok()?.try_into().ok()?;
    let attempt = lines.next()?.parse().ok()?;
    let device_key = match lines.next()? {
        "" => None,
        key => Some(hex::decode(key).ok()?.try_into().ok()?),
    };
    Some(Installation { instance, attempt, device_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_back_what_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(folder.path().join("installation"));
        assert_eq!(storage.load().unwrap(), None);
        for device_key in [None, Some([7; 32])] {
            let kept = Installation { instance: [9; 16], attempt: 41, device_key };
            storage.store(&kept).unwrap();
            assert_eq!(storage.load().unwrap(), Some(kept));
        }
    }

    #[test]
    fn two_who_store_at_once_leave_what_one_of_them_stored() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(folder.path().join("installation"));
        std::thread::scope(|scope| {
            for (byte, device_key) in [(1, None), (2, Some([7; 32]))] {
                let storage = &storage;
                scope.spawn(move || {
                    for attempt in 0..100 {
                        let instance = [byte; 16];
                        storage.store(&Installation { instance, attempt, device_key }).unwrap();
                    }
                });
            }
        });
        let kept = storage.load().unwrap().unwrap();
        assert_eq!((kept.attempt, kept.device_key.is_some()), (99, kept.instance[0] == 2));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_new_installation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("installation");
        for text in ["", "hawser-installation 2\n", "hawser-installation 1\nzz\n1\n\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(FileStorage::new(&path).load().is_err(), "{text:?}");
        }
    }
}
