//! As many devices as this machine carries.

/// What to hold.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Hold {
    /// Devices, over all processes.
    #[arg(long, default_value_t = 200_000)]
    devices: usize,
}

pub(crate) async fn run(wanted: &Hold) -> anyhow::Result<std::process::ExitCode> {
    let _ = wanted.devices;
    anyhow::bail!("not yet")
}
