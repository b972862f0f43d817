//! Children that end with the harness, also when that is killed and cannot end them.

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// What to become.
#[derive(clap::Args)]
pub(crate) struct Leashed {
    program: OsString,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// From now on this process is killed when the thread that started it ends. Harnesses start their children
/// on their main thread.
pub(crate) fn put_on() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot end with the harness")
}

/// A program of someone else's that is to end with the harness, without its arguments.
pub(crate) fn arguments(program: &Path) -> [&std::ffi::OsStr; 3] {
    ["leashed".as_ref(), "--".as_ref(), program.as_os_str()]
}

/// Becomes it; the process id stays.
pub(crate) fn run(wanted: &Leashed) -> anyhow::Result<Infallible> {
    put_on()?;
    let error = Command::new(&wanted.program).args(&wanted.arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", wanted.program.display()))
}
