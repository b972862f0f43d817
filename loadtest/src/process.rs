//! What the kernel says of a process: CPU used, memory resident, descriptors open.

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

/// CPU that a process has used so far, user and system, in seconds.
pub fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything; what follows it does not.
    let (_, fields) = stat.rsplit_once(')').context("stat has a name")?;
    let field = |n: usize| -> anyhow::Result<f64> {
        Ok(fields.split_whitespace().nth(n).context("stat is short")?.parse()?)
    };
    // utime and stime, in ticks; Linux reports 100 a second to user space everywhere.
    Ok((field(11)? + field(12)?) / 100.0)
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmRSS:")
}

/// Resident memory that is a process's own, in bytes: not what it maps of files.
pub fn anonymous_bytes(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "RssAnon:")
}

fn status_bytes(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with(name)).context("status is short")?;
    let kib: u64 = line.split_whitespace().nth(1).context("a line without a value")?.parse()?;
    Ok(kib * 1024)
}

/// Whether every thread of it has been stopped by a signal: one that was sent takes its time.
pub fn is_stopped(id: u32) -> std::io::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        if !status.lines().any(|line| line.starts_with("State:\tT")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives all threads of a process this priority, as `nice` counts it; those that they start will have it too.
pub fn prioritize(process: u32, nice: i32) -> std::io::Result<()> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let id = thread?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        setpriority_process(id, nice)?;
    }
    Ok(())
}

/// Descriptors that a process has open.
pub fn descriptors(process: u32) -> anyhow::Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64)
}

/// Threads of a process.
pub fn threads(process: u32) -> anyhow::Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{process}/task"))?.count() as u64)
}

/// A child that ends with its owner.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts it with its standard output readable, and out of reach of a terminal's ctrl-c: its owner is told of
    /// that, and ends it when it has what it needs of it.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let child = command.spawn();
        Ok(Self(
            child.with_context(|| format!("cannot start {}", command.get_program().display()))?,
        ))
    }

    /// Its standard output, once.
    pub fn stdout(&mut self) -> anyhow::Result<std::process::ChildStdout> {
        self.0.stdout.take().context("standard output was taken before")
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal. An error means that it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// CPU used so far, user and system, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.0.id())
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.0.id())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // An error means it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
