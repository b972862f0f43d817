//! Folders and files that nobody else on the machine may read: what services keep holds secrets, devices and
//! pushes of all tenants.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use tracing::warn;

/// Group and others.
const OTHERS: u32 = 0o077;
/// A folder where everyone may put something, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Who may look into a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// Its owner.
    Private,
    /// Others too, and it is not ours to change: it belongs to somebody else, as a volume that is handed in, or
    /// it is a place for everyone.
    Shared,
}

/// Makes this folder, and those above it, unless it is there, and takes it from everybody but its owner (0700).
/// Those above it are made as usual. Blocks.
pub fn make(folder: &Path) -> io::Result<Privacy> {
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    let about = std::fs::metadata(folder)?;
    if !about.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mode = about.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(Privacy::Private);
    }
    if mode & STICKY != 0 {
        return Ok(Privacy::Shared);
    }
    match std::fs::set_permissions(folder, Permissions::from_mode(mode & 0o7777 & !OTHERS)) {
        Ok(()) => Ok(Privacy::Private),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Privacy::Shared),
        Err(error) => Err(error),
    }
}

/// The data folder of a service: [`make`], with a warning if others can look into it all the same. Blocks.
pub fn data_folder(folder: &Path) -> io::Result<()> {
    if make(folder)? == Privacy::Shared {
        let folder = folder.display();
        warn!(%folder, "others may look into the data folder, and it is not ours to change");
    }
    Ok(())
}

/// From here on, files and folders that this process makes are for its owner alone, also in a folder that
/// others can look into. For the whole process: call it at its start.
pub fn from_now_on() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(OTHERS));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn a_folder_is_private_when_it_is_made_and_when_it_was_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("above/data");
        assert_eq!(make(&data).expect("made"), Privacy::Private);
        assert_eq!(mode(&data), 0o700);
        for open in [0o755, 0o777, 0o750, 0o701] {
            std::fs::set_permissions(&data, Permissions::from_mode(open)).expect("opened");
            data_folder(&data).expect("taken back");
            assert_eq!(mode(&data), 0o700, "from {open:o}");
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "in the way").expect("written");
        make(&file).expect_err("no folder");
    }

    #[test]
    fn a_place_for_everyone_stays_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("opened");
        assert_eq!(make(folder.path()).expect("left alone"), Privacy::Shared);
        assert_eq!(mode(folder.path()), 0o1777);
    }
}
