//! The devices: each comes, takes a few pushes, checks them against itself, and goes in one of the
//! ways devices go.

use super::sealed::{Choices, Verdict, Who};
use crate::fakes::device::{Device, Form, Got};
use crate::fakes::tokens;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::params;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// Two apps with devices of the same names.
pub const APPS: [&str; 2] = ["demo", "other"];
pub const NAMES: usize = 32;

/// What the devices have seen, all together.
#[derive(Default)]
pub struct Seen {
    pub logins: AtomicU64,
    /// Logins on a slot that somebody had before.
    pub reused: AtomicU64,
    pub delivered: AtomicU64,
    pub wrong_device: AtomicU64,
    pub wrong_session: AtomicU64,
    /// Pushes before LOGIN_OK, which no device takes.
    pub early: AtomicU64,
}

pub struct Crowd {
    key: u64,
    /// The doors of the node that is there; empty while it is away.
    pub doors: Mutex<Vec<SocketAddr>>,
    pub seen: Seen,
    pub is_over: AtomicBool,
    tokens: Vec<(Who, String)>,
}

impl Crowd {
    pub fn new(key: u64) -> Self {
        let who = |n: usize| Who { app: APPS[n % 2], device: format!("d-{}", n / 2), epoch: 0 };
        let tokens = (0..APPS.len() * NAMES)
            .map(who)
            .map(|who| (who.clone(), tokens::token(who.app, &who.device)))
            .collect();
        Self {
            key,
            doors: Mutex::default(),
            seen: Seen::default(),
            is_over: AtomicBool::new(false),
            tokens,
        }
    }

    /// One seat: device after device, until it is over.
    pub async fn sit(&self, mut choices: Choices) {
        while !self.is_over.load(Ordering::Relaxed) {
            let door = {
                let doors = self.doors.lock();
                (!doors.is_empty()).then(|| doors[choices.below(doors.len())])
            };
            let came = match door {
                Some(door) => self.come_and_go(door, &mut choices).await,
                None => None,
            };
            if came.is_none() {
                // Refused, superseded before it was in, or nobody is there.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn come_and_go(&self, door: SocketAddr, choices: &mut Choices) -> Option<()> {
        let tcp = TcpStream::connect(door).await.ok()?;
        tcp.set_nodelay(true).ok()?;
        if choices.below(2) == 0 {
            // Ends in a reset, as a device that loses its network does.
            socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).ok()?;
        }
        let mut device = Device::new(tcp, Form::Stream);
        let (who, token) = &self.tokens[choices.below(self.tokens.len())];
        let mut login = device.login_frame(who.app, &who.device, token.clone());
        login.abilities = ability::INBOX;
        let login = device.form(&DeviceFrame::Login(login).encode());
        device.try_send_bytes(&login).await.ok()?;
        let ok = loop {
            match device.got().await {
                Got::Frame(NodeFrame::LoginOk(ok)) => break ok,
                Got::Frame(NodeFrame::Push(..)) => {
                    self.seen.early.fetch_add(1, Ordering::Relaxed);
                }
                _ => return None,
            }
        };
        let who = Who { epoch: ok.epoch, ..who.clone() };
        self.seen.logins.fetch_add(1, Ordering::Relaxed);
        if !ok.connection.ends_with(".1") {
            self.seen.reused.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..choices.below(6) {
            let patience = Duration::from_millis(3);
            let Ok(got) = tokio::time::timeout(patience, device.got_whenever()).await else {
                break;
            };
            match got {
                Got::Frame(NodeFrame::Push(_, body)) => self.check(&who, &body),
                _ => return Some(()),
            }
        }
        if choices.below(4) == 0 {
            let bye = DeviceFrame::Bye(params::Close::default()).encode();
            let _ = device.try_send_bytes(&bye).await;
            // What is still on its way is looked at, too.
            while let Got::Frame(frame) = device.got().await {
                if let NodeFrame::Push(_, body) = frame {
                    self.check(&who, &body);
                }
            }
        }
        Some(())
    }

    fn check(&self, who: &Who, body: &[u8]) {
        let counter = match who.check(self.key, body) {
            Verdict::Mine => &self.seen.delivered,
            Verdict::OtherSession => &self.seen.wrong_session,
            Verdict::OtherDevice => &self.seen.wrong_device,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
