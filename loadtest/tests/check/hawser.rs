//! The hawser binary, for tests that start it.

use std::path::PathBuf;

/// The one that was built, if any was. Without it there is nothing to see, and a word says so.
pub(crate) fn hawser() -> Option<PathBuf> {
    let named = std::env::var_os("HAWSER_BIN").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_hawser-loadtest")).with_file_name("hawser");
    let found = named.or_else(|| beside.exists().then_some(beside));
    if found.is_none() {
        println!("no hawser beside hawser-loadtest: build it with `cargo build --bin hawser`");
    }
    found
}
