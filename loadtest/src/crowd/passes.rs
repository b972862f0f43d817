//! Tokens and access points for a crowd, from control's public API: a thread of its own asks, a bounded
//! number at once, so that the crowd's loop never waits.

use super::plan::{CLIENT_SECRET, Plan};
use crate::control::{ClientSecret, Control, token};
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc as sync;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Calls to control under way, and askers that wait for one.
const ASKED_MAX: usize = 32;
const WAITING_MAX: usize = 1_024;
const AGAIN: Duration = Duration::from_secs(1);
/// Of nodes that were named by their address alone.
const NAME_ALONE: &str = "localhost";

/// What a device logs in with, and where.
pub(super) struct Pass {
    /// The token; or, once there is one, the newest resume ticket.
    pub(super) secret: Box<[u8]>,
    pub(super) points: Box<[Point]>,
    pub(super) next_point: usize,
    pub(super) start_after: Duration,
    pub(super) window_ms: u32,
}

/// Where a device may dial.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) at: SocketAddr,
    /// What the certificate is checked against; one text for all devices.
    pub(super) name: Arc<str>,
}

/// Server names of this process: few, and each held once.
#[derive(Default)]
struct Names(Mutex<BTreeSet<Arc<str>>>);

impl Names {
    fn of(&self, name: &str) -> Arc<str> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name) {
            return known.clone();
        }
        let new = Arc::<str>::from(name);
        names.insert(new.clone());
        new
    }
}

/// The thread that asks, from outside.
pub(super) struct Passes {
    wanted: mpsc::Sender<u32>,
    given: sync::Receiver<(u32, Pass)>,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
}

impl Passes {
    pub(super) fn start(plan: &Plan) -> anyhow::Result<Self> {
        let (wanted, asked) = mpsc::channel(WAITING_MAX);
        let (give, given) = sync::sync_channel(WAITING_MAX);
        let desk = Arc::new(Asker::new(plan)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || runtime.block_on(ask(desk, asked, give)));
        Ok(Self { wanted, given, thread })
    }

    /// Asks for a device's; false: too many are waiting, come again.
    pub(super) fn ask(&self, number: u32) -> bool {
        self.wanted.try_send(number).is_ok()
    }

    /// The next one that came.
    pub(super) fn take(&self) -> Option<(u32, Pass)> {
        self.given.try_recv().ok()
    }

    /// An error once the thread has ended.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.thread.is_finished() {
            bail!("nobody asks control any more");
        }
        Ok(())
    }
}

async fn ask(
    desk: Arc<Asker>,
    mut asked: mpsc::Receiver<u32>,
    give: sync::SyncSender<(u32, Pass)>,
) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            Some(number) = asked.recv(), if calls.len() < ASKED_MAX => {
                let desk = desk.clone();
                calls.spawn(async move {
                    // Control may be down, or busy: a device asks until it has an answer.
                    loop {
                        match desk.one(number).await {
                            Ok(pass) => {
                                desk.has_answered.store(true, Relaxed);
                                return (number, pass);
                            }
                            Err(error) => desk.complain(&error),
                        }
                        tokio::time::sleep(AGAIN).await;
                    }
                });
            }
            Some(done) = calls.join_next() => {
                let Ok(mut pass) = done else { continue };
                while let Err(sync::TrySendError::Full(back)) = give.try_send(pass) {
                    pass = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            else => return Ok(()),
        }
    }
}

/// Who asks control for the devices.
struct Asker {
    plan: Plan,
    control: Control,
    /// Of the app, when its devices sign.
    secret: Option<ClientSecret>,
    names: Names,
    /// Or its first refusal was told.
    has_answered: AtomicBool,
}

impl Asker {
    fn new(plan: &Plan) -> anyhow::Result<Self> {
        let secret = if plan.signs {
            Some(ClientSecret::new(&std::env::var(CLIENT_SECRET).context("no client secret")?))
        } else {
            None
        };
        Ok(Self {
            plan: plan.clone(),
            control: Control::new(&plan.control, plan.trust.as_deref())?,
            secret,
            names: Names::default(),
            has_answered: AtomicBool::new(false),
        })
    }

    /// Says once why there is no answer to the first. Later on control may well be gone for a while.
    fn complain(&self, error: &anyhow::Error) {
        if !self.has_answered.swap(true, Relaxed) {
            eprintln!("{}: {error:#}; it is tried again", self.plan.control);
        }
    }

    async fn one(&self, number: u32) -> anyhow::Result<Pass> {
        let plan = &self.plan;
        let device = format!("{}-{}", plan.name, plan.first + number);
        let answer = self.control.access(&plan.app, &device, self.secret.as_ref()).await?;
        let token = token(&answer)?;
        let points = if plan.nodes.is_empty() {
            named(&answer, plan.protocol.of_access_point(), &self.names).await
        } else {
            let turn = (plan.first + number) as usize % plan.nodes.len();
            let turn = if plan.one_node { 0 } else { turn };
            let (before, from) = plan.nodes.split_at(turn);
            let point = |at: &SocketAddr| Point { at: *at, name: self.names.of(NAME_ALONE) };
            from.iter().chain(before).map(point).collect()
        };
        if points.is_empty() {
            bail!("control names no access point for {}", plan.protocol.name());
        }
        let millis = |name: &str| answer[name].as_u64().unwrap_or_default();
        Ok(Pass {
            secret: token.as_bytes().into(),
            points: points.into(),
            next_point: 0,
            start_after: Duration::from_millis(millis("start_after_ms")),
            window_ms: u32::try_from(millis("reconnect_window_ms")).unwrap_or(u32::MAX),
        })
    }
}

/// The access points that control names for a protocol, in its order. One whose host is not known just now
/// is left out.
async fn named(answer: &Value, protocol: &str, names: &Names) -> Vec<Point> {
    let mut points = Vec::new();
    for point in answer["access_points"].as_array().into_iter().flatten() {
        let (host, port) = (point["host"].as_str(), point["port"].as_u64());
        let port = port.and_then(|port| u16::try_from(port).ok());
        let (Some(host), Some(port)) = (host, port) else { continue };
        if point["protocol"].as_str() != Some(protocol) {
            continue;
        }
        let server_name = point["server_name"].as_str().filter(|name| !name.is_empty());
        let name = names.of(server_name.unwrap_or(host));
        let at = match host.parse::<IpAddr>() {
            Ok(ip) => Some(SocketAddr::new(ip, port)),
            Err(_) => match tokio::net::lookup_host((host, port)).await {
                Ok(mut all) => all.next(),
                Err(_) => None,
            },
        };
        points.extend(at.map(|at| Point { at, name }));
    }
    points
}
