//! Wall clocks that jump by an hour, under services that run: by libfaketime, which reads a file anew at
//! each look at the clock. Monotonic time is left alone, as it is by those who set clocks. That a clock has
//! jumped is shown by the word of the service that lives by it, or the row has shown nothing.

use super::Stage;
use crate::control::Control;
use crate::faults::CannotRun;
use crate::faults::cluster::{APP, BUSINESSES, Service};
use crate::faults::done::Done;
use crate::faults::presence;
use crate::faults::scene::Scene;
use crate::wire::{Answer, Credential, Wire};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A token is good for this long after its end, so that clocks may differ.
const LEEWAY: Duration = Duration::from_mins(1);
const TOKEN_LIFE: Duration = Duration::from_mins(1);
const AT_REST_PATIENCE: Duration = Duration::from_secs(30);
/// The hour ahead, the hour behind, and each time back.
const SHIFTS: [i64; 4] = [3_600, 0, -3_600, 0];
/// What a service says of its clock may be off by this: it was asked a moment later.
const WORD_SLACK: i64 = 30;
const WORD_PATIENCE: Duration = Duration::from_secs(5);
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
        for service in [Service::Access(0), Service::Router(0), Service::Control] {
            let file = self.folder.join(format!("{service}.clock").replace(' ', "-"));
            let clock = Clock { service, file };
            clock.set(0)?;
            for (name, value) in [
                ("LD_PRELOAD", library.to_owned()),
                ("FAKETIME_TIMESTAMP_FILE", clock.file.display().to_string()),
                ("FAKETIME_NO_CACHE", "1".to_owned()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ] {
                scene.cluster.set_environment(service, name, &value)?;
            }
            if matches!(service, Service::Router(_)) {
                // A call that makes no sense is told of, and when.
                scene.cluster.set_environment(service, "RUST_LOG", "warn,tonic=debug")?;
            }
            scene.cluster.kill(service)?;
            scene.cluster.revive(service).await?;
            clocks.push(clock);
        }
        let over = TOKEN_LIFE + LEEWAY + Duration::from_secs(5);
        scene.until_all_online(AT_REST_PATIENCE).await?;
        scene.pass(over.saturating_sub(taken.elapsed()), false).await?;
        let mut lines = Vec::new();
        let (mut dropped, mut wrongly, mut kept_out) = (0.0, 0, 0);
        let mut words = Vec::new();
        // A node and a router that live in another hour than all others; then control, which signs tokens.
        for (who, clocks) in [("node and router", &clocks[..2]), ("control", &clocks[2..])] {
            for shift in SHIFTS {
                let before = scene.logins_since().await;
                scene.fault(&format!("clocks {shift:+} s"));
                for clock in clocks {
                    clock.set(shift)?;
                }
                scene.pass(self.load_time() / 2, false).await?;
                let lost = scene.logins_since().await - before;
                for clock in clocks {
                    words.push(clock.word(&scene, shift).await?);
                }
                let old_in = self.is_taken(&scene.cluster.doors[0].tcp, &old).await?;
                let fresh = Credential::get(&scene.cluster.control, APP, "fresh").await?;
                let fresh_in = self.is_taken(&scene.cluster.doors[0].tcp, &fresh).await?;
                dropped += lost;
                wrongly += usize::from(old_in);
                kept_out += usize::from(!fresh_in && who != "control");
                lines.push(format!(
                    "{who} {shift:+} s: {lost} dropped, expired token taken: {old_in}, fresh one: {fresh_in}"
                ));
            }
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
        done.figure(
            format!(
                "expired tokens taken {wrongly} (0); good ones kept out by a node an hour off {kept_out} (0)"
            ),
            wrongly == 0 && kept_out == 0,
        );
        let silent: Vec<&Word> = words.iter().filter(|word| !word.is_right()).collect();
        let said = if silent.is_empty() { words.iter().collect() } else { silent };
        done.figure(
            format!(
                "clocks as the services say (as they were set): {}",
                said.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            ),
            words.iter().all(Word::is_right),
        );
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

/// A service's own clock, and the file that sets it.
struct Clock {
    service: Service,
    file: PathBuf,
}

/// What a service says of its clock.
struct Word {
    service: Service,
    set: i64,
    /// Seconds ahead of this machine's.
    said: Option<i64>,
}

impl Word {
    fn is_right(&self) -> bool {
        self.said.is_some_and(|said| said.abs_diff(self.set) <= WORD_SLACK.unsigned_abs())
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = self.said.map_or("nothing".to_owned(), |said| format!("{said:+} s"));
        write!(f, "{} {said} ({:+})", self.service, self.set)
    }
}

impl Clock {
    fn set(&self, shift: i64) -> anyhow::Result<()> {
        // Replaced as a whole: a clock that is read half written is no clock.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{shift:+}\n"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    /// Its own word: the jumps that a node tells of, the time at which a router writes into its log, the
    /// time at which control says that it has issued a token.
    async fn word(&self, scene: &Scene, set: i64) -> anyhow::Result<Word> {
        let service = self.service;
        let said = match service {
            Service::Access(_) => jumps(&scene.cluster.log(service)?),
            Service::Router(number) => {
                let push = scene.cluster.push.get(number).context("no such router")?;
                let told = |log: &str| log.matches(NO_SENSE).count();
                let before = told(&scene.cluster.log(service)?);
                talk_nonsense(push).await?;
                let asked = Instant::now();
                loop {
                    let log = scene.cluster.log(service)?;
                    if told(&log) > before {
                        break written_at(&log).map(|at| at - seconds_now());
                    }
                    if asked.elapsed() > WORD_PATIENCE {
                        break None;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Service::Control => {
                let control = Control::new(&scene.cluster.control, None)?;
                let answer = control.access(APP, "clock", None).await?;
                let issued = answer["issued_at_ms"].as_i64();
                issued.map(|issued| issued / 1_000 - seconds_now())
            }
        };
        Ok(Word { service, set, said })
    }
}

fn seconds_now() -> i64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs().cast_signed())
}

/// What a router writes of a caller that speaks no HTTP/2.
const NO_SENSE: &str = "failed serving connection";

async fn talk_nonsense(push: &str) -> anyhow::Result<()> {
    let address = push.strip_prefix("http://").context("not of the form http://")?;
    let mut link = TcpStream::connect(address).await?;
    link.write_all(b"good morning, what time is it where you are?\r\n\r\n").await?;
    // Until it hangs up; how is its own affair.
    let mut said = Vec::new();
    let _ = tokio::time::timeout(WORD_PATIENCE, link.read_to_end(&mut said)).await;
    Ok(())
}

/// The jumps of a node's clock, by its log, all in all and in seconds.
fn jumps(log: &str) -> Option<i64> {
    let told = log.lines().filter(|line| line.contains("clock has jumped"));
    let each: Option<Vec<i64>> = told
        .map(|line| {
            let (_, rest) = line.split_once("by_ms=")?;
            rest.split(' ').next()?.parse().ok()
        })
        .collect();
    Some(each?.iter().sum::<i64>() / 1_000)
}

/// The time of the last such line of a log, in seconds since 1970.
fn written_at(log: &str) -> Option<i64> {
    let line = log.lines().rfind(|line| line.contains(NO_SENSE))?;
    let (date, time) = line.trim_start().split_once('T')?;
    let number = |text: &str| text.parse::<i64>().ok();
    let date: Vec<i64> = date.split('-').filter_map(number).collect();
    let time: Vec<i64> = time.get(..8)?.split(':').filter_map(number).collect();
    let ([year, month, day], [hour, minute, second]) = (&date[..], &time[..]) else { return None };
    // Days since 1970 of the Gregorian calendar, with years that begin in March.
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leaps + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_log_line_is_read() {
        let log = "2026-11-22T09:11:50.123456Z DEBUG tonic: failed serving connection: why\nother";
        assert_eq!(written_at(log), Some(1_795_338_710));
        assert_eq!(written_at("1970-01-01T00:00:01.5Z failed serving connection"), Some(1));
        assert_eq!(
            written_at("2024-02-29T00:00:00Z failed serving connection"),
            Some(1_709_164_800)
        );
        assert_eq!(written_at("nothing"), None);
    }

    #[test]
    fn jumps_add_up_to_where_the_clock_is() {
        let log = "x ERROR the machine's clock has jumped by_ms=3600012 followed=false\n\
                   y ERROR the machine's clock has jumped by_ms=-3600003 followed=true\nother\n\
                   z ERROR the machine's clock has jumped by_ms=-3599990 followed=false";
        assert_eq!(jumps(log), Some(-3_599));
        assert_eq!(jumps(""), Some(0), "a clock that never jumped is where it was");
    }
}
