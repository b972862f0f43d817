//! The handle of a client: start, state, close. What runs behind it is [`crate::driver`].

use crate::access::Control;
use crate::builder::Builder;
use crate::business::{Business, GroupError};
use crate::cursors::CursorStorage;
use crate::driver;
use crate::incoming::Incoming;
use crate::link::Dialer;
use crate::listener::Ring;
use crate::request::{RequestError, Response};
use crate::session::Setup;
use crate::session::calls::Ask;
use crate::session::inbox::Inboxes;
use crate::shelf::Shelf;
use crate::state::{Reason, State};
use crate::storage::{Installation, Storage};
use hawser_proto::code::CloseCode;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{Notify, oneshot, watch};

/// Calls that wait for the client's task to look. It looks at once, so this fills only in a burst.
const INBOX_MAX: usize = 64;

/// Why [`Client::connect`] gave up: the client does not come back by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client closed: {reason}")]
pub struct ConnectError {
    /// The close code, if it was one.
    pub code: Option<CloseCode>,
    /// Why.
    pub reason: Reason,
}

/// One device with one connection, which all its businesses share. Cheap to clone.
///
/// One task runs behind all clones (QUIC's library adds its own). When the last clone and the last
/// [`Business`] are dropped, the client says goodbye and ends.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

impl Client {
    /// Begins the description of a client. `control` is the base address of control's HTTP API, such
    /// as `https://control.example` or, with `hawser dev`, `http://127.0.0.1:8080`.
    pub fn builder(control: &str, app: &str, device: &str) -> Builder {
        Builder::new(Some(control), app, device)
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        Self { handle: Arc::new(Handle { shared: Arc::new(shared) }) }
    }

    /// Starts connecting, and keeps connected until closed. Returns at once; does nothing when it is
    /// running already. A closed client starts anew, without its groups.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[allow(clippy::disallowed_methods, reason = "a client's one task, ended by its last handle")]
    pub fn start(&self) {
        let shared = &self.handle.shared;
        if shared.begin() {
            tokio::spawn(driver::run(shared.clone()));
        }
    }

    /// Starts, and waits until logged in. Fails only when the client closed for good; while it is
    /// offline and coming back, this goes on waiting: put a time-out around it where that is too
    /// long. Cancel-safe; dropping it does not stop the client.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.start();
        let mut states = self.states();
        let settled = |state: &State| state.is_online() || state.is_closed();
        let state = states.wait_for(settled).await.map(|state| state.clone());
        match state {
            Ok(State::Closed { code, reason }) => Err(ConnectError { code, reason }),
            Ok(_) => Ok(()),
            // The sender lives in the handle that `self` holds.
            Err(_) => Err(ConnectError { code: None, reason: Reason::Asked }),
        }
    }

    /// A business on this connection. Naming one that the builder did not name is fine when it named
    /// none; else its requests are refused with `unknown_business`.
    pub fn business(&self, name: &str) -> Business {
        Business::new(self.handle.clone(), name.into())
    }

    /// Where the client stands now.
    pub fn state(&self) -> State {
        self.handle.shared.state.borrow().clone()
    }

    /// Watches the state. Quick changes may be seen as one; [`Builder::on_state`] sees each.
    pub fn states(&self) -> watch::Receiver<State> {
        self.handle.shared.state.subscribe()
    }

    /// Says goodbye and waits until the client is closed, 2 s at most. Requests without an answer end
    /// with [`RequestError::Closed`].
    pub async fn close(&self) {
        self.handle.shared.stop();
        let mut states = self.states();
        let over = |state: &State| state.is_closed() || *state == State::Idle;
        // An error means that the sender is gone, and it lives in the handle that `self` holds.
        let _ = states.wait_for(over).await;
    }
}

/// What the app's handles share. The last one to go stops the client.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Hands a call to the client's task. Never waits.
    pub(crate) fn call(&self, call: Call) -> Result<(), CallRefused> {
        let mut inbox = self.shared.inbox.lock();
        if !inbox.is_running || inbox.is_stopped {
            return Err(CallRefused::Closed);
        }
        if inbox.calls.len() >= INBOX_MAX {
            return Err(CallRefused::Full);
        }
        inbox.calls.push_back(call);
        drop(inbox);
        self.shared.wake.notify_one();
        Ok(())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { app, device, .. } = self.shared.setup.as_ref();
        f.debug_struct("Client").field("app", app).field("device", device).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Why a call was not handed on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallRefused {
    /// The inbox is full.
    Full,
    /// The client is closed, or was never started.
    Closed,
}

/// What a handle asks of the client's task.
pub(crate) enum Call {
    Request(Ask, oneshot::Sender<Result<Response, RequestError>>),
    Join {
        business: Arc<str>,
        group: String,
        deadline: Instant,
        reply: oneshot::Sender<Result<(), GroupError>>,
    },
    Leave {
        group: String,
        deadline: Instant,
        reply: oneshot::Sender<Result<(), GroupError>>,
    },
}

/// Calls on their way to the task.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) calls: VecDeque<Call>,
    pub(crate) is_running: bool,
    pub(crate) is_stopped: bool,
}

pub(crate) type OnState = Box<dyn Fn(&State) + Send + Sync>;

/// Between the handles and the task.
pub(crate) struct Shared {
    pub(crate) setup: Arc<Setup>,
    pub(crate) control: Option<Control>,
    pub(crate) dialer: Dialer,
    pub(crate) storage: Option<Arc<dyn Storage>>,
    /// Kept from one start to the next where no storage does.
    pub(crate) installation: Mutex<Option<Installation>>,
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) cursors: Option<Arc<dyn CursorStorage>>,
    /// Kept from one start to the next; `None`: nothing was loaded yet.
    pub(crate) inboxes: Mutex<Option<Inboxes>>,
    /// How often cursors were to be kept, and which of these is kept: a storage call that comes late
    /// must not overtake a newer one.
    pub(crate) keeps: AtomicU64,
    pub(crate) newest_keep: Mutex<u64>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) on_state: Option<OnState>,
    pub(crate) listeners: Listeners,
}

impl Shared {
    fn stop(&self) {
        self.inbox.lock().is_stopped = true;
        self.wake.notify_one();
    }

    /// False: it is running already.
    fn begin(&self) -> bool {
        let mut inbox = self.inbox.lock();
        if inbox.is_running {
            return false;
        }
        *inbox = Inbox { is_running: true, ..Inbox::default() };
        self.set(&State::Connecting);
        drop(inbox);
        self.call_back(&State::Connecting);
        true
    }

    /// The task has ended. State and inbox change together, so that whoever sees the client closed
    /// can start it anew.
    pub(crate) fn finish(&self, closed: &State) {
        // Before anyone can see it closed, and start it anew with listeners of that start.
        self.listeners.end();
        let mut inbox = self.inbox.lock();
        let unanswered = std::mem::take(&mut *inbox);
        self.set(closed);
        drop(inbox);
        drop(unanswered);
        self.call_back(closed);
    }

    pub(crate) fn tell(&self, state: &State) {
        if self.set(state) {
            self.call_back(state);
        }
    }

    fn set(&self, state: &State) -> bool {
        self.state.send_if_modified(|seen| {
            let is_new = *seen != *state;
            if is_new {
                seen.clone_from(state);
            }
            is_new
        })
    }

    fn call_back(&self, state: &State) {
        if let Some(callback) = &self.on_state {
            callback(state);
        }
    }
}

/// Who listens to which business, and what was stored for it.
#[derive(Default)]
pub(crate) struct Listeners {
    channels: Mutex<BTreeMap<Arc<str>, Channel>>,
    wake: Arc<Notify>,
}

/// One business's.
struct Channel {
    rings: Vec<Weak<Ring>>,
    shelf: Arc<Shelf>,
}

impl Listeners {
    /// `wake`: tells the client's task that something was handled.
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self { channels: Mutex::default(), wake }
    }

    pub(crate) fn add(&self, business: &Arc<str>, with_words: bool) -> Arc<Ring> {
        let mut channels = self.channels.lock();
        let channel = self.channel(&mut channels, business);
        let ring = Arc::new(Ring::new(channel.shelf.clone(), with_words));
        channel.rings.retain(|ring| ring.strong_count() > 0);
        channel.rings.push(Arc::downgrade(&ring));
        ring
    }

    /// Gives an item to each listener of the business.
    pub(crate) fn put(&self, business: &str, item: Incoming) {
        let rings = self.rings(business);
        if let Some((last, others)) = rings.split_last() {
            for ring in others {
                ring.put(item.clone());
            }
            last.put(item);
        }
    }

    /// Gives an item to all listeners.
    pub(crate) fn put_to_all(&self, item: &Incoming) {
        let channels = self.channels.lock();
        let rings = channels.values().flat_map(|channel| &channel.rings);
        let rings: Vec<Arc<Ring>> = rings.filter_map(Weak::upgrade).collect();
        drop(channels);
        for ring in rings {
            ring.put(item.clone());
        }
    }

    /// Puts an item on the shelf of the business, where it waits for its listeners.
    pub(crate) fn shelve(&self, business: &Arc<str>, number: u64, item: Incoming) {
        self.channel(&mut self.channels.lock(), business).shelf.put(number, item);
        for ring in self.rings(business) {
            ring.look();
        }
    }

    /// How far each business was handled, where that is news.
    pub(crate) fn handled(&self) -> Vec<(Arc<str>, u64)> {
        let channels = self.channels.lock();
        let news = channels.iter().filter_map(|(business, channel)| {
            channel.shelf.handled().map(|number| (business.clone(), number))
        });
        news.collect()
    }

    /// The client has closed: nothing more will come. What was stored stays on the shelves.
    pub(crate) fn end(&self) {
        let mut rings = Vec::new();
        for channel in self.channels.lock().values_mut() {
            rings.append(&mut channel.rings);
        }
        for ring in rings.iter().filter_map(Weak::upgrade) {
            ring.end();
        }
    }

    /// Empties the shelves: the inboxes begin anew, and number their items anew.
    pub(crate) fn clear(&self) {
        for channel in self.channels.lock().values() {
            channel.shelf.clear();
        }
    }

    fn rings(&self, business: &str) -> Vec<Arc<Ring>> {
        match self.channels.lock().get(business) {
            Some(channel) => channel.rings.iter().filter_map(Weak::upgrade).collect(),
            None => Vec::new(),
        }
    }

    fn channel<'a>(
        &self,
        channels: &'a mut BTreeMap<Arc<str>, Channel>,
        business: &Arc<str>,
    ) -> &'a mut Channel {
        channels.entry(business.clone()).or_insert_with(|| Channel {
            rings: Vec::new(),
            shelf: Arc::new(Shelf::new(self.wake.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever sees the client closed may listen anew and start it at once: the end of what was there
    /// before must not meet those.
    #[test]
    fn listeners_end_before_the_client_is_seen_closed() {
        let client = Client::builder("http://127.0.0.1:1", "demo", "d").build().unwrap();
        let mut pushes = client.business("chat").pushes();
        let shared = client.handle.shared.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // Nobody sees it closed while this is held.
        let inbox = shared.inbox.lock();
        std::thread::scope(|scope| {
            let closed = State::Closed { code: None, reason: Reason::Asked };
            let shared = &shared;
            scope.spawn(move || shared.finish(&closed));
            let end = async {
                tokio::time::timeout(std::time::Duration::from_secs(5), pushes.next_push()).await
            };
            let end = runtime.block_on(end);
            let state = client.state();
            drop(inbox);
            assert_eq!(end, Ok(None));
            assert_eq!(state, State::Idle);
        });
        assert!(client.state().is_closed());
    }
}
