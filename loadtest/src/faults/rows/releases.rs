//! Releases mixed: an access node and devices of an earlier release among today's.

use super::Stage;
use crate::faults::done::Done;
use anyhow::bail;

impl Stage<'_> {
    pub(super) async fn releases_mixed(&self) -> anyhow::Result<Done> {
        bail!("not yet");
    }
}
