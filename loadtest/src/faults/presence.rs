//! Who is online: as routers say, as a business was told, and as the devices know.

use super::cluster::{APP, BUSINESSES, Cluster};
use super::history::now;
use super::links::Links;
use super::probe::{bearer, client};
use anyhow::Context;
use hawser_loadtest::judge::{Event, Kind};
use hawser_proto::rpc::push::{DevicePresence, PresenceRequest, PresenceState};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use tonic::Request;

const CALL_PATIENCE: Duration = Duration::from_secs(5);
const DEVICES_PER_CALL: usize = 500;
/// A device may notice this much later than the node that its link has ended, or the other way round.
const NOTICE: u64 = 3_000_000_000;

/// What one router says of these devices, in their order.
pub(crate) async fn ask(
    push: &str,
    key: &str,
    devices: &[String],
) -> anyhow::Result<Vec<DevicePresence>> {
    let mut client = client(push)?;
    let mut all = Vec::new();
    for some in devices.chunks(DEVICES_PER_CALL) {
        let mut request = Request::new(PresenceRequest { devices: some.to_vec() });
        request.metadata_mut().insert("authorization", bearer(key)?);
        let answer = tokio::time::timeout(CALL_PATIENCE, client.get_presence(request)).await;
        all.extend(answer.context("presence was not answered")??.into_inner().devices);
    }
    Ok(all)
}

/// Routers that answer presence calls.
fn routers(cluster: &Cluster) -> Vec<String> {
    let answers = |does: &&[&str]| does.is_empty() || does.contains(&"logins");
    let all = cluster.push.iter().zip(&cluster.shape.routers);
    all.filter(|(_, does)| answers(does)).map(|(at, _)| at.clone()).collect()
}

/// At rest: what each router says of each device against what the devices know; looks again until all is
/// right, or its patience ends. Returns how many words are wrong, and the first of them.
pub(super) async fn wrong_at_rest(
    cluster: &Cluster,
    devices: &[String],
    links: impl Fn() -> Links,
    patience: Duration,
) -> anyhow::Result<(usize, String)> {
    let started = Instant::now();
    loop {
        let (mut wrong, mut first) = (0, String::new());
        for router in routers(cluster) {
            let said = ask(&router, &cluster.keys[0], devices).await?;
            let links = links();
            let truth = links.at(now());
            for word in said {
                let live = truth.get(word.device.as_str()).filter(|link| link.is_online());
                let right = match live {
                    // Above: the session was taken for over, came back, and its device has not heard of that.
                    Some(link) => word.state() == PresenceState::Online && word.epoch >= link.epoch,
                    None => word.state() == PresenceState::Offline,
                };
                if !right {
                    wrong += 1;
                    if first.is_empty() {
                        first = format!(
                            "{} is {:?} with epoch {} at {router}, and in truth {}",
                            word.device,
                            word.state(),
                            word.epoch,
                            live.map_or("offline".to_owned(), |it| format!(
                                "online with {}",
                                it.epoch
                            ))
                        );
                    }
                }
            }
        }
        if wrong == 0 || started.elapsed() > patience {
            return Ok((wrong, first));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What a business was told of sessions, against what they were.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(crate) online: usize,
    pub(crate) offline: usize,
    /// Words that were above the last one of their device: whatever is not is a repetition.
    pub(crate) news: usize,
    /// Devices of which the last word is not the truth.
    pub(crate) wrong: Vec<String>,
    /// Ends that were told while the session lived.
    pub(crate) early: Vec<String>,
    /// Sessions that ended, were told of, and whose end was told by exactly one new word: theirs, or the
    /// beginning of a later one.
    pub(crate) ended: usize,
    /// Sessions that were over at the end, by what the devices know.
    pub(crate) over: usize,
    /// Those of them that no word ended: neither theirs, nor one of a later session.
    pub(crate) untold: Vec<String>,
}

impl Told {
    /// Of the first business, which is the one that hears of connections.
    pub(super) fn of(events: &[Event], links: &Links) -> Self {
        let mut told = Self::default();
        let truth = links.at(u64::MAX);
        let sessions = links.sessions();
        let mut last: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
        let mut open: BTreeMap<&str, HashSet<u64>> = BTreeMap::new();
        let words = events.iter().filter(|event| {
            event.app == APP
                && event.inbox == BUSINESSES[0]
                && matches!(event.kind, Kind::Online | Kind::Offline)
        });
        for event in words {
            let device = event.device.as_str();
            let ends = event.kind == Kind::Offline;
            told.online += usize::from(!ends);
            told.offline += usize::from(ends);
            let key = (event.epoch, ends);
            if last.get(device).is_some_and(|last| *last >= key) {
                continue;
            }
            last.insert(device, key);
            told.news += 1;
            let of = open.entry(device).or_default();
            let before = of.len();
            of.retain(|epoch| *epoch > event.epoch || (*epoch == event.epoch && !ends));
            told.ended += before - of.len();
            if !ends {
                of.insert(event.epoch);
            }
            let lived_on = sessions.get(device).is_some_and(|all| {
                let at = all.iter().position(|it| it.epoch == event.epoch);
                at.is_some_and(|at| lived_beyond(links, device, all, at, event.t + NOTICE))
            });
            if ends && lived_on {
                told.early.push(format!("{device} {}", event.epoch));
            }
        }
        for (device, all) in &sessions {
            let lives = truth.get(device).filter(|word| word.is_online()).map(|word| word.epoch);
            let believed = last.get(device).copied().unwrap_or_default();
            for word in all.iter().filter(|word| Some(word.epoch) != lives) {
                told.over += 1;
                if believed < (word.epoch, true) {
                    told.untold.push(format!("{device} {} was never ended", word.epoch));
                }
            }
        }
        for (device, word) in truth {
            let believed = last.get(device).copied();
            let right = if word.is_online() {
                believed.is_some_and(|(epoch, ends)| epoch >= word.epoch && !ends)
            } else {
                believed.is_none_or(|(_, ends)| ends)
            };
            if !right {
                told.wrong.push(format!("{device}: told {believed:?}, is {}", word.epoch));
            }
        }
        told
    }
}

/// Whether the device went on over this session beyond a time.
fn lived_beyond(
    links: &Links,
    device: &str,
    sessions: &[&super::links::Word],
    at: usize,
    time: u64,
) -> bool {
    if sessions.get(at + 1).is_some_and(|next| next.t <= time) {
        return false;
    }
    links.at(time).get(device).is_some_and(|word| word.epoch == sessions[at].epoch)
}
