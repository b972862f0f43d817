//! The one task of a client: it owns the link, and a second one while the device moves, feeds the
//! session and does what the session decides.

use crate::access::Control;
use crate::advice::{AccessPoint, Advice};
use crate::business::GroupError;
use crate::client::{Call, Inbox, Shared};
use crate::cursors::Cursors;
use crate::incoming::Incoming;
use crate::link::{Dialer, Heard, Link};
use crate::request::{RequestError, Response};
use crate::session::inbox::Inboxes;
use crate::session::{Action, Event, Refusal, Session};
use crate::state::{Reason, State};
use crate::storage::{Installation, Storage};
use std::collections::HashMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tracing::{debug, warn};

/// What is under way beside the link: at most one at a time.
type Task = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The storage call that keeps cursors. No link ends it.
type Keeping = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Cursors that are to be kept when the client ends get this long.
const LAST_KEEP_TIMEOUT: Duration = Duration::from_secs(2);

enum Done {
    Advised(Result<Advice, Refusal>),
    Dialled(Place, Result<Link, String>),
}

/// What a link is dialled for.
#[derive(Clone, Copy)]
enum Place {
    InUse,
    Beside,
}

enum Reply {
    Request(oneshot::Sender<Result<Response, RequestError>>),
    Group(oneshot::Sender<Result<(), GroupError>>),
}

/// Everything that can wake the task.
enum Wake {
    Done(Done),
    Heard(Heard),
    Beside(Heard),
    Kept(io::Result<()>),
    Called,
    Due,
}

/// Runs a client from start to close.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ending = Ending {
        closed: State::Closed { code: None, reason: Reason::LinkLost },
        shared: shared.clone(),
    };
    ending.closed = run_inner(&shared).await;
}

/// Tells the app that the client is closed, however the task ends.
struct Ending {
    shared: Arc<Shared>,
    closed: State,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.finish(&self.closed);
    }
}

async fn run_inner(shared: &Arc<Shared>) -> State {
    let installation = match load(shared).await {
        Ok(installation) => installation,
        Err(failure) => {
            let reason = Reason::Storage(failure.to_string());
            return State::Closed { code: None, reason };
        }
    };
    let inboxes = match load_inboxes(shared).await {
        Ok(inboxes) => inboxes,
        Err(failure) => {
            let reason = Reason::Storage(failure.to_string());
            return State::Closed { code: None, reason };
        }
    };
    let mut driver = Driver {
        session: Session::new(shared.setup.clone(), installation, inboxes, rand::random()),
        shared: shared.clone(),
        link: None,
        beside: None,
        task: None,
        keeping: None,
        is_keep_failing: false,
        replies: HashMap::new(),
        closed: None,
    };
    let closed = driver.run().await;
    driver.keep_last().await;
    let now = Instant::now().into_std();
    *shared.inboxes.lock() = Some(driver.session.into_inboxes(now));
    closed
}

struct Driver {
    session: Session,
    shared: Arc<Shared>,
    link: Option<Link>,
    beside: Option<Link>,
    task: Option<Task>,
    keeping: Option<Keeping>,
    /// The app was told that its cursors cannot be kept, and since then they could not.
    is_keep_failing: bool,
    replies: HashMap<u64, Reply>,
    closed: Option<State>,
}

impl Driver {
    async fn run(&mut self) -> State {
        let mut actions = Vec::new();
        // The client's only timer. It is left alone while it ends before the session's next time: a
        // wake-up too early costs less than moving it for each request.
        let mut timer = pin!(sleep_until(Instant::now()));
        let mut armed: Option<Instant> = None;
        self.report_handled(&mut actions);
        self.feed(Event::Start, &mut actions);
        loop {
            if let Some(closed) = self.closed.take() {
                return closed;
            }
            arm(timer.as_mut(), &mut armed, self.session.wake_at().map(Instant::from_std));
            let wake = select! {
                // Unbiased on purpose: neither a chatty node nor a busy app may starve the other.
                done = finished(&mut self.task) => Wake::Done(done),
                heard = heard(&mut self.link) => Wake::Heard(heard),
                heard = heard(&mut self.beside) => Wake::Beside(heard),
                kept = kept(&mut self.keeping) => Wake::Kept(kept),
                () = self.shared.wake.notified() => Wake::Called,
                () = timer.as_mut(), if armed.is_some() => Wake::Due,
            };
            match wake {
                Wake::Done(Done::Advised(answer)) => {
                    self.task = None;
                    self.feed(Event::Advised(answer), &mut actions);
                }
                Wake::Done(Done::Dialled(place, Ok(link))) => {
                    self.task = None;
                    match place {
                        Place::InUse => self.link = Some(link),
                        Place::Beside => self.beside = Some(link),
                    }
                    self.feed(Event::Dialled(Ok(())), &mut actions);
                }
                Wake::Done(Done::Dialled(_, Err(failure))) => {
                    self.task = None;
                    self.feed(Event::Dialled(Err(failure)), &mut actions);
                }
                Wake::Heard(Heard::Frame(frame)) => self.feed(Event::Frame(frame), &mut actions),
                Wake::Heard(Heard::Broken(bad)) => self.feed(Event::Broken(bad), &mut actions),
                Wake::Heard(Heard::Ended(code)) => {
                    self.link = None;
                    self.feed(Event::Ended(code), &mut actions);
                }
                Wake::Beside(heard) => {
                    if let Heard::Ended(_) = heard {
                        self.beside = None;
                    }
                    self.feed(Event::Beside(heard), &mut actions);
                }
                Wake::Kept(kept) => self.kept(&kept, &mut actions),
                Wake::Called => {
                    self.report_handled(&mut actions);
                    self.called(&mut actions);
                }
                Wake::Due => {
                    armed = None;
                    self.feed(Event::Due, &mut actions);
                }
            }
        }
    }

    fn report_handled(&mut self, actions: &mut Vec<Action>) {
        for (business, number) in self.shared.listeners.handled() {
            self.feed(Event::Handled(business, number), actions);
        }
    }

    fn kept(&mut self, kept: &io::Result<()>, actions: &mut Vec<Action>) {
        self.keeping = None;
        let was_failing = std::mem::replace(&mut self.is_keep_failing, kept.is_err());
        if let Err(source) = kept
            && !was_failing
        {
            warn!(%source, "cannot keep the cursors");
            self.shared.listeners.put_to_all(&Incoming::NotKept(source.to_string()));
        }
        self.feed(Event::Kept(kept.is_ok()), actions);
    }

    /// What the app has handled is kept, within reason, before it can see that the client closed.
    async fn keep_last(&mut self) {
        let mut actions = Vec::new();
        let until = Instant::now() + LAST_KEEP_TIMEOUT;
        while self.keeping.is_some() {
            match timeout_at(until, kept(&mut self.keeping)).await {
                Ok(kept) => self.kept(&kept, &mut actions),
                Err(_) => return,
            }
        }
    }

    fn called(&mut self, actions: &mut Vec<Action>) {
        let (calls, is_stopped) = {
            let mut inbox = self.shared.inbox.lock();
            let Inbox { calls, is_stopped, .. } = &mut *inbox;
            (std::mem::take(calls), *is_stopped)
        };
        for call in calls {
            let id = self.session.next_id();
            let (event, reply) = match call {
                Call::Request(ask, reply) => (Event::Request(id, ask), Reply::Request(reply)),
                Call::Join { business, group, deadline, reply } => {
                    (Event::Join(id, business, group, deadline), Reply::Group(reply))
                }
                Call::Leave { group, deadline, reply } => {
                    (Event::Leave(id, group, deadline), Reply::Group(reply))
                }
            };
            self.replies.insert(id, reply);
            self.feed(event, actions);
        }
        if is_stopped {
            self.feed(Event::Stop, actions);
        }
    }

    fn feed(&mut self, event: Event, actions: &mut Vec<Action>) {
        self.session.handle(event, Instant::now().into_std(), actions);
        for action in actions.drain(..) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Ask => {
                self.task = Some(Box::pin(ask(self.shared.clone(), self.session.device_key())));
            }
            Action::Dial(point, installation) => {
                let dial = dial(self.shared.clone(), Place::InUse, point, installation);
                self.task = Some(Box::pin(dial));
            }
            Action::DialBeside(point, installation) => {
                debug!(device = %self.shared.setup.device, %point, "moving");
                let dial = dial(self.shared.clone(), Place::Beside, point, installation);
                self.task = Some(Box::pin(dial));
            }
            Action::HangUp => {
                self.task = None;
                self.link = None;
            }
            Action::HangUpBeside => {
                self.task = None;
                self.beside = None;
            }
            Action::Swap => std::mem::swap(&mut self.link, &mut self.beside),
            Action::SendBeside(frame) => {
                if let Some(link) = &mut self.beside {
                    link.send(frame);
                }
            }
            Action::Send(frame) => {
                if let Some(link) = &mut self.link {
                    link.send(frame);
                }
            }
            Action::Limit(terms) => {
                if let Some(link) = &mut self.link {
                    link.limit(terms);
                }
            }
            Action::Tell(state) => {
                debug!(device = %self.shared.setup.device, %state, "client state");
                if state.is_closed() {
                    self.closed = Some(state);
                } else {
                    self.shared.tell(&state);
                }
            }
            Action::Answer(id, answer) => {
                // The app may have dropped its future; then the answer is nobody's.
                if let Some(Reply::Request(reply)) = self.replies.remove(&id) {
                    let _ = reply.send(answer);
                }
            }
            Action::Grouped(id, answer) => {
                if let Some(Reply::Group(reply)) = self.replies.remove(&id) {
                    let _ = reply.send(answer);
                }
            }
            Action::Push(business, push) => {
                self.shared.listeners.put(&business, Incoming::Push(push));
            }
            Action::Left(business, left) => {
                self.shared.listeners.put(&business, Incoming::Left(left));
            }
            Action::Reset(business, reset) => {
                self.shared.listeners.put(&business, Incoming::GroupReset(reset));
            }
            Action::Shelve(business, number, item) => {
                self.shared.listeners.shelve(&business, number, item);
            }
            Action::Keep(cursors, refused) => {
                let keep = keep_cursors(self.shared.clone(), cursors, refused);
                self.keeping = Some(Box::pin(keep));
            }
        }
    }
}

fn arm(timer: Pin<&mut Sleep>, armed: &mut Option<Instant>, wanted: Option<Instant>) {
    match (wanted, *armed) {
        (Some(at), Some(before)) if before <= at => {}
        (Some(at), _) => {
            timer.reset(at);
            *armed = Some(at);
        }
        (None, _) => *armed = None,
    }
}

async fn finished(task: &mut Option<Task>) -> Done {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn kept(keeping: &mut Option<Keeping>) -> io::Result<()> {
    match keeping {
        Some(keeping) => keeping.await,
        None => std::future::pending().await,
    }
}

async fn heard(link: &mut Option<Link>) -> Heard {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn ask(shared: Arc<Shared>, device_key: Option<[u8; 32]>) -> Done {
    let answer = match &shared.control {
        Some(control) => control.ask(&shared.setup, &shared.dialer, device_key).await,
        None => Err(Control::missing()),
    };
    Done::Advised(answer)
}

async fn dial(
    shared: Arc<Shared>,
    place: Place,
    point: AccessPoint,
    installation: Installation,
) -> Done {
    let Shared { dialer, storage, .. } = &*shared;
    match storage {
        Some(storage) => {
            // Going on without is right: only a restart before the next good store would be refused.
            if let Err(source) = keep(storage.clone(), installation).await {
                warn!(%source, "cannot keep the login attempt");
            }
        }
        None => *shared.installation.lock() = Some(installation),
    }
    let link = Dialer::dial(dialer, &point).await;
    Done::Dialled(place, link.map_err(|failure| format!("{point}: {}", chain(&failure))))
}

/// Prints an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

async fn load(shared: &Arc<Shared>) -> io::Result<Installation> {
    let wants_key = shared.control.as_ref().is_some_and(Control::binds_stored_key);
    let Some(storage) = shared.storage.clone() else {
        return Ok(shared.installation.lock().take().unwrap_or_else(Installation::random));
    };
    let found = {
        let storage = storage.clone();
        tokio::task::spawn_blocking(move || storage.load()).await.map_err(io::Error::other)??
    };
    match found {
        Some(installation) if installation.device_key.is_some() || !wants_key => Ok(installation),
        found => {
            let mut installation = found.unwrap_or_else(Installation::random);
            if wants_key {
                installation.device_key = Some(rand::random());
            }
            // A device key must be kept before it is bound, or the device locks itself out.
            keep(storage, installation.clone()).await?;
            Ok(installation)
        }
    }
}

async fn keep(storage: Arc<dyn Storage>, installation: Installation) -> io::Result<()> {
    let store = move || storage.store(&installation);
    tokio::task::spawn_blocking(store).await.map_err(io::Error::other)?
}

/// What an earlier start of this client left, or what was kept.
async fn load_inboxes(shared: &Arc<Shared>) -> io::Result<Inboxes> {
    if let Some(inboxes) = shared.inboxes.lock().take() {
        return Ok(inboxes);
    }
    shared.listeners.clear();
    let Some(storage) = shared.cursors.clone() else { return Ok(Inboxes::default()) };
    let setup = shared.setup.clone();
    let load = move || storage.load(&setup.app, &setup.device);
    let cursors = tokio::task::spawn_blocking(load).await.map_err(io::Error::other)??;
    Ok(Inboxes::new(cursors))
}

/// Keeps cursors, unless newer ones were kept while this call waited for its thread.
async fn keep_cursors(
    shared: Arc<Shared>,
    cursors: Cursors,
    refused: Vec<Arc<str>>,
) -> io::Result<()> {
    let Some(storage) = shared.cursors.clone() else { return Ok(()) };
    let number = shared.keeps.fetch_add(1, Relaxed) + 1;
    let store = move || {
        // Held on a thread that may block, so that calls follow each other.
        let mut newest = shared.newest_keep.lock();
        if *newest > number {
            return Ok(());
        }
        *newest = number;
        storage.store(&shared.setup.app, &shared.setup.device, &cursors, &refused)
    };
    tokio::task::spawn_blocking(store).await.map_err(io::Error::other)?
}
