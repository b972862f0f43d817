//! What the kernel says of a process: CPU used, memory resident.

use anyhow::Context;
use std::process::{Child, Command, Stdio};

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

/// A child that ends with its owner.
#[derive(Debug)]
pub struct Guarded(Child);

impl Guarded {
    /// Starts it with its standard output readable.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self(
            child.with_context(|| format!("cannot start {}", command.get_program().display()))?,
        ))
    }

    /// Its standard output, once.
    pub fn stdout(&mut self) -> anyhow::Result<std::process::ChildStdout> {
        self.0.stdout.take().context("standard output was taken before")
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
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has a value")?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // An error means it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
