//! Wall clocks that jump by an hour, under services that run: by libfaketime, which reads a file anew at
//! each look at the clock. Monotonic time is left alone, as it is by those who set clocks.

use super::Stage;
use crate::faults::CannotRun;
use crate::faults::cluster::{APP, BUSINESSES, Service};
use crate::faults::done::Done;
use crate::faults::presence;
use crate::wire::{Answer, Credential, Wire};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A token is good for this long after its end, so that clocks may differ.
const LEEWAY: Duration = Duration::from_mins(1);
const TOKEN_LIFE: Duration = Duration::from_mins(1);
const AT_REST_PATIENCE: Duration = Duration::from_secs(30);
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

impl Stage<'_> {
    pub(super) async fn clock_shifted(&self) -> anyhow::Result<Done> {
        let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
        let library =
            library.ok_or_else(|| CannotRun("libfaketime: apt-get install faketime".to_owned()))?;
        let (mut staging, _redis) = self.large(self.wanted.devices)?;
        staging.shape.token_life = TOKEN_LIFE;
        let mut scene = self.scene(staging).await?;
        // A token that is over, by a good while, when the clocks begin to jump.
        let old = Credential::get(&scene.cluster.control, APP, "old").await?;
        let taken = Instant::now();
        let mut clocks = Vec::new();
        for service in [Service::Access(0), Service::Router(0)] {
            let clock = self.folder.join(format!("{service}.clock").replace(' ', "-"));
            set(&clock, "+0")?;
            for (name, value) in [
                ("LD_PRELOAD", library.to_owned()),
                ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ] {
                scene.cluster.set_environment(service, name, &value)?;
            }
            scene.cluster.kill(service)?;
            scene.cluster.revive(service).await?;
            clocks.push(clock);
        }
        let over = TOKEN_LIFE + LEEWAY + Duration::from_secs(5);
        scene.until_all_online(AT_REST_PATIENCE).await?;
        scene.pass(over.saturating_sub(taken.elapsed()), false).await?;
        let mut lines = Vec::new();
        let (mut dropped, mut wrongly) = (0.0, 0);
        for shift in ["+3600", "+0", "-3600", "+0"] {
            let before = scene.logins_since().await;
            scene.fault(&format!("clocks {shift} s"));
            for clock in &clocks {
                set(clock, shift)?;
            }
            scene.pass(self.load_time() / 2, false).await?;
            let lost = scene.logins_since().await - before;
            let old_in = self.is_taken(&scene.cluster.doors[0].tcp, &old).await?;
            let fresh = Credential::get(&scene.cluster.control, APP, "fresh").await?;
            let fresh_in = self.is_taken(&scene.cluster.doors[0].tcp, &fresh).await?;
            dropped += lost;
            wrongly += usize::from(old_in);
            lines.push(format!(
                "{shift} s: {lost} dropped, expired token taken: {old_in}, fresh one: {fresh_in}"
            ));
        }
        scene.healed();
        let all = scene.until_all_online(AT_REST_PATIENCE).await?;
        let (wrong, first) = presence::wrong_at_rest(
            &scene.cluster,
            &scene.devices,
            || scene.links(),
            AT_REST_PATIENCE,
        )
        .await?;
        let (mut done, _) = scene.end().await?;
        done.figure(
            format!("sessions dropped {dropped} (0); all online: {all}"),
            dropped == 0.0 && all,
        );
        done.figure(format!("expired tokens taken {wrongly} (0)"), wrongly == 0);
        done.figure(format!("wrong presence at rest {wrong} (0) {first}"), wrong == 0);
        done.say(lines.join(", "));
        done.say("tokens live one minute here, an hour in a release; the leeway of 60 s is full");
        Ok(done)
    }

    async fn is_taken(
        &self,
        door: &std::net::SocketAddr,
        credential: &Credential,
    ) -> anyhow::Result<bool> {
        let mut wire = Wire::dial(*door).await?;
        let tries = (rand::random(), 1);
        Ok(matches!(wire.try_login(credential, BUSINESSES[0], tries).await?, Answer::In(_)))
    }
}

fn set(clock: &PathBuf, shift: &str) -> anyhow::Result<()> {
    // Replaced as a whole: a clock that is read half written is no clock.
    let new = clock.with_extension("new");
    std::fs::write(&new, format!("{shift}\n"))?;
    Ok(std::fs::rename(new, clock)?)
}
