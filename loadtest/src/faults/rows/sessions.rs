//! Rows about one device with two links: who wins, and what the loser may still do.

use super::Stage;
use crate::faults::cluster::{APP, BUSINESSES, Cluster, Shape};
use crate::faults::done::Done;
use crate::faults::presence;
use crate::faults::probe::{bearer, client};
use crate::wire::{Answer, Credential, Wire};
use anyhow::{Context, ensure};
use bytes::Bytes;
use hawser_loadtest::delays::Delays;
use hawser_loadtest::redis::Redis;
use hawser_loadtest::stamp;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::NodeFrame;
use hawser_proto::rpc::push::{
    Class, InboxRequest, Message, Outcome, PresenceState, UnicastRequest,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tonic::Request;

const TAKEOVER_MAX: Duration = Duration::from_secs(1);
const ROUNDS: usize = 20;
/// No word for this long: the loser was not told to come back, and did not disturb the winner.
const QUIET: Duration = Duration::from_secs(2);

impl Stage<'_> {
    pub(super) async fn two_logins(&self) -> anyhow::Result<Done> {
        let redis = Redis::start(&self.folder.join("redis"), &super::store::EVERY_SECOND)?;
        let store = format!("redis://{}", redis.address);
        let shape = Shape::sized(&store, self.timers(), 2, 2);
        let scene = self.watched(shape).await?;
        let cluster = &scene.cluster;
        let doors: Vec<SocketAddr> = cluster.doors.iter().map(|door| door.tcp).collect();
        let mut takeover = Delays::default();
        let (mut both, mut none, mut wrong) = (0, 0, 0);
        for round in 0..ROUNDS {
            let name = format!("twin-{round}");
            let credential = Credential::get(&cluster.control, APP, &name).await?;
            // Two installations that know nothing of each other, at the same moment.
            let (mut a, mut b) = (Wire::dial(doors[0]).await?, Wire::dial(doors[1]).await?);
            let begun = Instant::now();
            a.say_login(&credential, BUSINESSES[0], (rand::random(), 1)).await?;
            b.say_login(&credential, BUSINESSES[0], (rand::random(), 1)).await?;
            let (one, other) = tokio::try_join!(a.login_answer(), b.login_answer())?;
            let (epoch_a, epoch_b) = (epoch(&one), epoch(&other));
            // The one with the lower epoch is told that it was superseded; and that is all.
            let (mut winner, mut loser) = if epoch_a > epoch_b { (a, b) } else { (b, a) };
            if epoch_a.min(epoch_b) > 0 {
                let told = until_closed(&mut loser).await?;
                ensure!(
                    told == u32::from(CloseCode::Superseded.number()),
                    "the loser was closed with {told}"
                );
            }
            takeover.add(begun.elapsed());
            let still = tokio::time::timeout(QUIET / 10, winner.hear()).await.is_err();
            both += usize::from(!still && epoch_a.max(epoch_b) > 0);
            none += usize::from(epoch_a.max(epoch_b) == 0);
            for router in &cluster.push {
                let said =
                    presence::ask(router, &cluster.keys[0], std::slice::from_ref(&name)).await?;
                let word = said.first().context("no presence")?;
                let right =
                    word.state() == PresenceState::Online && word.epoch == epoch_a.max(epoch_b);
                wrong += usize::from(!right);
            }
        }
        let (stale, moved) = self.late_login(cluster, &doors).await?;
        let disturbed = scene.returns();
        let (mut done, _) = scene.end().await?;
        done.figure(format!("{disturbed} links of others disturbed (0)"), disturbed == 0);
        let longest = takeover.at(1.0);
        done.figure(
            format!("{ROUNDS} x two logins at once: one wins within {takeover} (at most 1 s)"),
            longest <= TAKEOVER_MAX,
        );
        done.figure(
            format!("{both} winners disturbed (0), {none} rounds without one (0), presence wrong {wrong} (0)"),
            both + none + wrong == 0,
        );
        done.figure(
            format!("{ROUNDS} old logins that came late: {stale} refused as stale (all), {moved} sessions disturbed (0)"),
            stale == ROUNDS && moved == 0,
        );
        done.say("no clock of the cluster is in it");
        Ok(done)
    }

    /// A login with a lower attempt of the same installation arrives after the newer one has won.
    async fn late_login(
        &self,
        cluster: &Cluster,
        doors: &[SocketAddr],
    ) -> anyhow::Result<(usize, usize)> {
        let (mut stale, mut moved) = (0, 0);
        for round in 0..ROUNDS {
            let name = format!("late-{round}");
            let credential = Credential::get(&cluster.control, APP, &name).await?;
            let instance = rand::random();
            let (here, there) = (doors[round % 2], doors[(round + 1) % 2]);
            let mut old = Wire::dial(here).await?;
            let (mut new, ok) =
                Wire::log_in(there, &credential, BUSINESSES[0], (instance, 2)).await?;
            match old.try_login(&credential, BUSINESSES[0], (instance, 1)).await? {
                Answer::Refused(close)
                    if close.code == u32::from(CloseCode::StaleLogin.number()) =>
                {
                    stale += 1;
                }
                other => eprintln!("  a late login was answered {other:?}"),
            }
            let quiet = tokio::time::timeout(QUIET / 10, new.hear()).await.is_err();
            moved += usize::from(!quiet);
            let said = presence::ask(&cluster.push[round % 2], &cluster.keys[0], &[name]).await?;
            moved += usize::from(said.first().is_none_or(|word| word.epoch != ok.epoch));
        }
        Ok((stale, moved))
    }
}

fn epoch(answer: &Answer) -> u64 {
    match answer {
        Answer::In(ok) => ok.epoch,
        Answer::Refused(_) => 0,
    }
}

async fn until_closed(wire: &mut Wire) -> anyhow::Result<u32> {
    loop {
        if let NodeFrame::Close(close) = wire.hear_within(Duration::from_secs(10)).await? {
            return Ok(close.code);
        }
    }
}

/// Devices that acknowledge to a node which is stopped, and then move: what the node makes of it when it
/// wakes up must not be taken, since the session is another's by then.
pub(super) struct LateAcks {
    push: String,
    key: String,
    door: SocketAddr,
    pushes: usize,
    devices: Vec<Late>,
}

struct Late {
    credential: Credential,
    instance: [u8; 16],
    old: Wire,
    new: Option<Wire>,
    tail: (u64, u64),
}

impl LateAcks {
    /// On the first access node, with so many stored pushes that are not acknowledged.
    pub(super) async fn prepare(
        cluster: &Cluster,
        devices: usize,
        pushes: usize,
    ) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for number in 0..devices {
            let name = format!("late-ack-{number}");
            let credential = Credential::get(&cluster.control, APP, &name).await?;
            let instance = rand::random();
            let door = cluster.doors[0].tcp;
            let (mut old, _) =
                Wire::log_in(door, &credential, BUSINESSES[1], (instance, 1)).await?;
            let mut tail = (0, 0);
            for _ in 0..pushes {
                store(&cluster.push[0], &cluster.keys[1], &name).await?;
                tail = taken(&mut old).await?;
            }
            all.push(Late { credential, instance, old, new: None, tail });
        }
        Ok(Self {
            push: cluster.push[0].clone(),
            key: cluster.keys[1].clone(),
            door: cluster.doors[1].tcp,
            pushes,
            devices: all,
        })
    }

    /// So that none of them is idle when the node stops.
    pub(super) async fn ping(&mut self) -> anyhow::Result<()> {
        for late in &mut self.devices {
            late.old.ping().await?;
        }
        Ok(())
    }

    /// Acknowledges on the old link, which nobody reads, and logs in elsewhere.
    pub(super) async fn say_and_move(&mut self) -> anyhow::Result<()> {
        for late in &mut self.devices {
            late.old.ack(late.tail.0, late.tail.1).await?;
        }
        for late in &mut self.devices {
            let tries = (late.instance, 2);
            let (new, _) = Wire::log_in(self.door, &late.credential, BUSINESSES[1], tries).await?;
            late.new = Some(new);
        }
        Ok(())
    }

    pub(super) async fn ping_new(&mut self) -> anyhow::Result<()> {
        for new in self.devices.iter_mut().filter_map(|late| late.new.as_mut()) {
            new.ping().await?;
        }
        Ok(())
    }

    /// How many acknowledgements were said, and how many of them took effect. Then acknowledges properly,
    /// and sees that this does.
    pub(super) async fn taken(&mut self) -> anyhow::Result<(usize, usize)> {
        let mut stale = 0;
        for late in &mut self.devices {
            let name = &late.credential.device;
            let left = entries(&self.push, &self.key, name).await?;
            stale += usize::from(left != self.pushes as u64);
            let new = late.new.as_mut().context("it has not moved")?;
            for nth in 1..=self.pushes {
                let came = taken(new).await;
                late.tail = came.with_context(|| {
                    format!("{name}: push {nth} of {} on its new link; {left} stored", self.pushes)
                })?;
            }
            new.ack(late.tail.0, late.tail.1).await?;
            let asked = Instant::now();
            while entries(&self.push, &self.key, name).await? > 0 {
                ensure!(
                    asked.elapsed() < Duration::from_secs(5),
                    "the true owner's ack had no effect"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok((self.devices.len(), stale))
    }
}

/// The next stored push; its place.
async fn taken(wire: &mut Wire) -> anyhow::Result<(u64, u64)> {
    let mut others = Vec::new();
    loop {
        match wire.hear_within(Duration::from_secs(10)).await {
            Ok(NodeFrame::Push(push, _)) => return Ok((push.term, push.seq)),
            Ok(other) => {
                let shown = format!("{other:?}");
                // Its name alone.
                others.push(shown.split('(').next().unwrap_or_default().to_owned());
            }
            Err(error) => return Err(error.context(format!("heard {others:?}"))),
        }
    }
}

/// Stores one push, and says what came of it when it was not that.
pub(super) async fn store(push: &str, key: &str, device: &str) -> anyhow::Result<()> {
    let message = Message { body: stamp::body(device, 64), ..Message::default() };
    let mut request = Request::new(UnicastRequest {
        device: device.to_owned(),
        message: Some(message),
        class: Class::Stored.into(),
        push_id: Bytes::copy_from_slice(&rand::random::<[u8; 16]>()),
        ..UnicastRequest::default()
    });
    request.metadata_mut().insert("authorization", bearer(key)?);
    let answer = client(push)?.unicast(request).await?.into_inner();
    ensure!(answer.outcome() == Outcome::Stored, "a stored push came to {:?}", answer.outcome());
    Ok(())
}

async fn entries(push: &str, key: &str, device: &str) -> anyhow::Result<u64> {
    let mut request = Request::new(InboxRequest { device: device.to_owned() });
    request.metadata_mut().insert("authorization", bearer(key)?);
    Ok(client(push)?.describe_inbox(request).await?.into_inner().entries)
}
