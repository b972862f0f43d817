//! Rows in which devices die, move, and have bad links.

use super::Stage;
use crate::faults::devices::Point;
use crate::faults::done::Done;
use std::time::Duration;

impl Stage<'_> {
    pub(super) async fn devices_die(&self, point: Point) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.die = Some((point, 40));
        let mut scene = self.scene(staging).await?;
        // Those that warmed up have no wish to die.
        scene.kill_devices();
        scene.pass(self.load_time(), true).await?;
        scene.kill_devices();
        scene.healed();
        let deaths = scene.deaths();
        let (mut done, _) = scene.end().await?;
        // Otherwise the row has shown nothing.
        let least = (self.wanted.seconds / 2).max(2);
        done.figure(format!("{deaths} deaths at that point (at least {least})"), deaths >= least);
        Ok(done)
    }

    pub(super) async fn devices_move(&self) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.moves = Some((Duration::from_millis(700), self.load_time()));
        let mut scene = self.scene(staging).await?;
        scene.pass(self.load_time(), false).await?;
        scene.healed();
        let logins = scene.logins_since().await;
        let (mut done, _) = scene.end().await?;
        let least = self.wanted.seconds * 4;
        done.figure(format!("{logins} logins (at least {least})"), logins >= least as f64);
        Ok(done)
    }

    /// Links that are slow, lossy, stalled one way, torn in the middle of a frame and reset, TLS and QUIC
    /// among them.
    pub(super) async fn links_torn(&self) -> anyhow::Result<Done> {
        let mut staging = self.small("embedded");
        staging.shape.secure_doors = true;
        staging.moves = Some((Duration::from_millis(900), self.load_time()));
        staging.torn = true;
        let mut scene = self.scene(staging).await?;
        scene.fault("links torn");
        scene.pass(self.load_time(), false).await?;
        scene.healed();
        let logins = scene.logins_since().await;
        scene.pass(Duration::from_secs(3), false).await?;
        let (mut done, _) = scene.end().await?;
        // Otherwise the row has shown nothing. How often a way is torn is up to chance: 26 to 39 in 15 s.
        let least = self.wanted.seconds;
        done.figure(format!("{logins} logins (at least {least})"), logins >= least as f64);
        Ok(done)
    }
}
