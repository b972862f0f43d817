//! The certificate that access nodes show to devices of a row that come over TLS or QUIC.

use anyhow::Context;
use std::path::{Path, PathBuf};

/// What devices check it against.
pub(crate) const SERVER_NAME: &str = "localhost";

/// Writes `door.pem` and `door.key.pem`. It is its own authority.
pub(crate) fn make(folder: &Path) -> anyhow::Result<()> {
    let names = vec![SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("no certificate was made")?;
    std::fs::write(folder.join("door.pem"), made.cert.pem())?;
    std::fs::write(folder.join("door.key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

/// What devices are to trust.
pub(crate) fn authority(folder: &Path) -> PathBuf {
    folder.join("door.pem")
}
