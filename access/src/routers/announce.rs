//! The words that tell of live sessions and groups: to a router whose stream has just begun all of them, of
//! a new session to all routers but the one that bound it, and to the store those that it has forgotten.
//!
//! `Here` is never answered, so it must not come after the `Gone` of its session: it is queued, or put into
//! the message that leaves next, under the lock of the session's slot, where the end is decided first and
//! told afterwards.

use super::claims::Purpose;
use super::tier::{self, Functions, Up};
use super::{Routers, send};
use crate::downlink;
use crate::groups::GroupKey;
use crate::node::Node;
use crate::table::Connection;
use hawser_proto::id::{AppId, DeviceId, Epoch, SlotRef};
use hawser_proto::rpc::node::{AllTold, Bind, Here, InboxPosition, up::What};

/// Slots looked at for one message.
const SLOTS_PER_STEP: usize = 4_096;

impl Routers {
    /// Tells of a new session, on all streams but the one its claim was answered on.
    pub(super) fn here(&self, node: &Node, at: SlotRef, except: u64) {
        let ups = self.ups.load();
        let others = || ups.iter().filter(|up| up.stream != except);
        node.table.with(at, |connection| {
            for up in others().filter(|up| up.takes_here) {
                if let Some(word) = here_of(at, connection) {
                    send(node, up, word);
                }
            }
        });
        for up in others().filter(|up| !up.takes_here) {
            if let Some((call, word)) = self.announcement(node, up, at)
                && send(node, up, word).is_some()
            {
                self.take_back(call);
            }
        }
    }

    /// The word for a router of before `Here`. It is answered, and so may come late.
    fn announcement(&self, node: &Node, up: &Up, at: SlotRef) -> Option<(u64, What)> {
        let (app, device, epoch) = live(node, at)?;
        self.claim_word(node, up, at, (&app, &device), Purpose::Told(epoch))
    }

    /// The store knows an older session than this one, or none.
    pub(crate) fn forgotten(&self, at: SlotRef) {
        self.forgotten.lock().insert(at);
    }

    /// A router could not take a session just now: again, with the others that wait.
    pub(super) fn announce_later(&self, at: SlotRef) {
        self.forgotten(at);
    }

    /// Announces some of the forgotten sessions.
    pub(crate) fn announce_forgotten(&self, node: &Node, most: usize) {
        let some: Vec<SlotRef> = {
            let mut forgotten = self.forgotten.lock();
            let some: Vec<SlotRef> = forgotten.iter().take(most).copied().collect();
            for at in &some {
                forgotten.remove(at);
            }
            some
        };
        for at in some {
            let Some((app, device, epoch)) = live(node, at) else { continue };
            let key = tier::key(&[app.as_str(), device.as_str()]);
            let up = self.pick_up(Functions::LOGINS, key, node.table.now_ms(), &[]);
            let purpose = Purpose::Forgotten(epoch);
            let sent = up.and_then(|up| self.claim(node, &up, at, (&app, &device), purpose));
            if sent.is_none() {
                self.forgotten(at);
            }
        }
    }
}

/// A session under way; `None`: it has gone, or its login is not answered.
fn live(node: &Node, at: SlotRef) -> Option<(AppId, DeviceId, Epoch)> {
    let session = node.table.with(at, |connection| {
        let identity = connection.identity.as_ref().filter(|it| it.epoch.0 != 0)?;
        Some((identity.app.clone(), identity.device.clone(), identity.epoch))
    });
    session.flatten()
}

/// Telling a router everything, piece by piece, from the task of its stream.
pub(super) enum Walk {
    /// Sessions, by slot.
    Sessions(u32),
    Groups(std::vec::IntoIter<GroupKey>),
    AllTold,
    Over,
}

impl Walk {
    /// Adds words for the message that leaves next.
    pub(super) fn step(&mut self, node: &Node, up: &Up, words: &mut Vec<What>, most: usize) {
        match self {
            Self::Sessions(next) => {
                for _ in 0..SLOTS_PER_STEP {
                    if words.len() >= most {
                        return;
                    }
                    // Those who come into slots above are told of when they do.
                    if *next >= node.table.slots_used() {
                        *self = Self::Groups(node.groups.keys().into_iter());
                        return;
                    }
                    let slot = *next;
                    *next += 1;
                    if up.takes_here {
                        node.table.visit(slot, |at, connection| {
                            words.extend(here_of(at, connection));
                        });
                    } else if let Some(at) = node.table.visit(slot, |at, _| at) {
                        words.extend(node.routers.announcement(node, up, at).map(|(_, word)| word));
                    }
                }
            }
            Self::Groups(keys) => {
                while words.len() < most {
                    let Some(key) = keys.next() else {
                        *self = Self::AllTold;
                        return;
                    };
                    words.extend(node.groups.report_to(&key, up));
                }
            }
            Self::AllTold => {
                if up.takes_here {
                    words.push(What::AllTold(AllTold {}));
                }
                *self = Self::Over;
            }
            Self::Over => {}
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }
}

fn here_of(at: SlotRef, connection: &Connection) -> Option<What> {
    let identity = connection.identity.as_ref().filter(|it| it.epoch.0 != 0)?;
    Some(What::Here(Here {
        app: identity.app.as_str().to_owned(),
        device: identity.device.as_str().to_owned(),
        slot: at.slot,
        generation: at.generation,
        epoch: identity.epoch.0,
        businesses: identity.rights.businesses.iter().map(|no| no.0).collect(),
    }))
}

pub(super) fn bind_of(node: &Node, at: SlotRef, call: u64, epoch: Epoch) -> Option<Bind> {
    node.table
        .with(at, |connection| {
            let identity = connection.identity.as_ref()?;
            Some(Bind {
                call,
                app: identity.app.as_str().to_owned(),
                device: identity.device.as_str().to_owned(),
                slot: at.slot,
                generation: at.generation,
                instance: identity.instance.to_vec().into(),
                attempt: identity.attempt,
                businesses: identity.rights.businesses.iter().map(|no| no.0).collect(),
                epoch: epoch.0,
                cursors: positions(connection, epoch.0 == 0),
            })
        })
        .flatten()
}

/// How far the device of a new login has its inboxes; of a session under way, how far they were ever
/// written: a store that went back must not give out such a position again.
fn positions(connection: &Connection, is_new: bool) -> Vec<InboxPosition> {
    let Some(downlink) = &connection.downlink else { return Vec::new() };
    if is_new {
        downlink::positions(downlink.feeds.sent())
    } else {
        downlink::positions(downlink.feeds.high())
    }
}
