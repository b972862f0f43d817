//! The control stream of one node: logins and group reports up, their answers and kicks down, and
//! questions that the push API waits on.

use crate::core::Core;
use crate::functions::Functions;
use crate::group_reports;
use crate::node::outgoing::{Gather, Outgoing};
use crate::node_leases;
use crate::nodes::Life;
use crate::sessions::{self, Asked, Wish};
use hawser_proto::rpc::node::bind_result::Status as BindStatus;
use hawser_proto::rpc::node::{
    Bind, ControlDown, ControlUp, Down, GroupReport, Up, Welcome, down, up,
};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, info};

/// Messages that may wait for one node: some 300 bytes each. A node that lets so much lie is cut off,
/// for a kick that is lost would leave two sessions; it comes back and tells of its sessions again.
const DOWN_WAITING_MAX: usize = 8_192;
/// Of these, what somebody asked for: questions of the push API, which are refused above it, and answers
/// to the node, which wait. The rest belongs to word that must not be lost, so that no call of a backend
/// can get a stream cut.
const ASKED_WAITING_MAX: usize = DOWN_WAITING_MAX / 2;
/// Questions to one node that may be open.
const QUESTIONS_MAX: usize = 16_384;
/// Calls of one node that wait for the store: logins, announcements, reports of history groups. At a
/// call of 2 ms these are 500,000 logins a second; at a store that hangs they are what a node may have
/// waiting. More are refused at once, and come again.
const CALLS_MAX: usize = 1_024;

/// A node that this router leaves may have said something before it knew so.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What tonic sends to the node.
pub(crate) type ControlDownStream = Outgoing<GatherControl>;

/// The way to one node on its control stream.
pub(crate) struct ControlStream {
    down: mpsc::Sender<Waiting>,
    /// Places for what was asked for.
    asked: Arc<Semaphore>,
    stop: CancellationToken,
    next_call: AtomicU64,
    questions: Mutex<HashMap<u64, oneshot::Sender<up::What>>>,
}

/// Word that waits for the node, with its place if it was asked for; the place is free once it leaves.
pub(crate) struct Waiting {
    what: down::What,
    _place: Option<OwnedSemaphorePermit>,
}

/// Room for one answer to the node.
pub(crate) struct Room {
    permit: mpsc::OwnedPermit<Waiting>,
    place: OwnedSemaphorePermit,
}

impl Room {
    pub(crate) fn send(self, what: down::What) {
        self.permit.send(Waiting { what, _place: Some(self.place) });
    }
}

/// Why a node gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// Too much waits for it.
    #[error("too much waits for the access node")]
    Full,
    /// It has no stream, or it broke.
    #[error("the access node cannot be heard")]
    Gone,
    /// Not in time.
    #[error("the access node did not answer in time")]
    Timeout,
}

/// Joins what waits into one message.
pub(crate) struct GatherControl;

impl Gather for GatherControl {
    type Item = Waiting;
    type Message = ControlDown;

    fn gather(&mut self, waiting: &mut VecDeque<Waiting>) -> ControlDown {
        let items = waiting.drain(..).map(|one| Down { what: Some(one.what) }).collect();
        ControlDown { welcome: None, items }
    }
}

impl ControlStream {
    fn new(stop: CancellationToken) -> (Arc<Self>, mpsc::Receiver<Waiting>) {
        let (down, queue) = mpsc::channel(DOWN_WAITING_MAX);
        let (next_call, questions) = (AtomicU64::new(1), Mutex::default());
        let asked = Arc::new(Semaphore::new(ASKED_WAITING_MAX));
        (Arc::new(Self { down, asked, stop, next_call, questions }), queue)
    }

    /// A stream that leads nowhere.
    #[cfg(test)]
    pub(crate) fn loose() -> Arc<Self> {
        Self::new(CancellationToken::new()).0
    }

    /// Ends the stream. Whoever waits for an answer is told that the node is gone.
    pub(crate) fn cut(&self) {
        self.stop.cancel();
        self.questions.lock().clear();
    }

    /// Whether it has ended: what is sent now is heard by nobody.
    pub(crate) fn is_cut(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Sends word that must not be lost. A node that cannot take it is cut off.
    pub(crate) fn tell(&self, what: down::What) {
        if self.down.try_send(Waiting { what, _place: None }).is_err() {
            self.cut();
        }
    }

    /// Asks the node and waits for its answer. Dropped: the answer is thrown away.
    pub(crate) async fn ask(
        &self,
        deadline: Instant,
        question: impl FnOnce(u64) -> down::What,
    ) -> Result<up::What, AskError> {
        let call = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut questions = self.questions.lock();
            if self.stop.is_cancelled() {
                return Err(AskError::Gone);
            }
            if questions.len() >= QUESTIONS_MAX {
                return Err(AskError::Full);
            }
            questions.insert(call, answer);
        }
        let _forget = Forget { stream: self, call };
        let place = self.asked.clone().try_acquire_owned().map_err(|_| AskError::Full)?;
        let question = Waiting { what: question(call), _place: Some(place) };
        self.down.try_send(question).map_err(|_| AskError::Full)?;
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::Gone),
            Err(_) => Err(AskError::Timeout),
        }
    }

    /// Waits for room for an answer to the node. `None`: the stream has ended.
    async fn room(&self) -> Option<Room> {
        let place = self.asked.clone().acquire_owned().await.ok()?;
        let permit = self.down.clone().reserve_owned().await.ok()?;
        Some(Room { permit, place })
    }

    fn answered(&self, call: u64, answer: up::What) {
        if let Some(waiting) = self.questions.lock().remove(&call) {
            let _ = waiting.send(answer);
        }
    }
}

/// An open question that ends with its asker.
struct Forget<'a> {
    stream: &'a ControlStream,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.stream.questions.lock().remove(&self.call);
    }
}

/// Takes a control stream into service: what the node sends is read by a task of its own.
pub(crate) fn open(
    core: &Arc<Core>,
    life: Arc<Life>,
    first: ControlUp,
    inbound: Streaming<ControlUp>,
) -> ControlDownStream {
    let (stream, queue) = ControlStream::new(core.tasks.stop_signal().child_token());
    let tells_all = first.hello.as_ref().is_some_and(|hello| hello.tells_all);
    let now = core.clock.steady_ms();
    let stamp = core.nodes.attach_control(&life, stream.clone(), tells_all, now);
    let welcome = Welcome {
        lease_ms: core.node_lease.as_millis() as u32,
        router: core.name.clone(),
        router_boot: core.boot,
        functions: core.functions.bits(),
        takes_here: true,
    };
    info!(node = %life.node, boot = %life.boot, "control stream opened");
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let reader = Reader { core: core.clone(), life, stream, stamp, tells_all, calls };
    core.tasks.spawn("node control stream", reader.run(first, inbound));
    let first = ControlDown { welcome: Some(welcome), items: Vec::new() };
    Outgoing::new(Some(first), queue, GatherControl)
}

struct Reader {
    core: Arc<Core>,
    life: Arc<Life>,
    stream: Arc<ControlStream>,
    stamp: u16,
    /// Its end in good order is no goodbye: the node says that in a word of its own.
    tells_all: bool,
    /// Places for calls that wait for the store.
    calls: Arc<Semaphore>,
}

impl Reader {
    async fn run(self, first: ControlUp, mut inbound: Streaming<ControlUp>) {
        let stop = self.stream.stop.clone();
        let is_ended = tokio::select! {
            is_ended = self.read(first, &mut inbound) => is_ended,
            () = stop.cancelled() => false,
        };
        let (core, life) = (&self.core, &self.life);
        let goodbye = is_ended && !self.tells_all;
        let now = core.clock.steady_ms();
        let was_in_use = core.nodes.detach_control(life, &self.stream, goodbye, now);
        self.stream.cut();
        info!(node = %life.node, boot = %life.boot, goodbye, "control stream ended");
        if was_in_use && goodbye {
            node_leases::leave(core, &life.node, life.boot).await;
        }
        if core.push_tasks.is_stopping() {
            let last = self.read_ends(&mut inbound);
            let _ = tokio::time::timeout(LAST_WORDS, last).await;
        }
    }

    /// This router ends: what the node had said before it knew so is heard, as far as it needs no answer.
    async fn read_ends(&self, inbound: &mut Streaming<ControlUp>) {
        while let Ok(Some(message)) = inbound.message().await {
            for item in message.items {
                if let Some(up::What::Unbind(unbind)) = item.what {
                    sessions::unbind(&self.core, &self.life, &unbind);
                }
            }
        }
    }

    /// Reads until the stream ends. True: the node ended it in good order.
    async fn read(&self, first: ControlUp, inbound: &mut Streaming<ControlUp>) -> bool {
        let mut message = first;
        loop {
            if !self.core.nodes.renew(&self.life, self.core.clock.steady_ms()) {
                info!(node = %self.life.node, "heard after its lease had ended");
                return false;
            }
            for item in message.items {
                if self.handle(item).await.is_err() {
                    return false;
                }
            }
            message = match inbound.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                Err(status) => {
                    debug!(node = %self.life.node, %status, "control stream broke");
                    return false;
                }
            };
        }
    }

    /// Handles one item. Err: the stream can no longer be answered.
    async fn handle(&self, item: Up) -> Result<(), ()> {
        match item.what {
            Some(up::What::Bind(bind)) => {
                // Room for the answer first, so that a node that reads nothing is not asked for either.
                let room = self.stream.room().await.ok_or(())?;
                self.bind(bind, room);
            }
            Some(up::What::Unbind(unbind)) => sessions::unbind(&self.core, &self.life, &unbind),
            Some(up::What::Group(report)) => {
                let room = self.stream.room().await.ok_or(())?;
                self.report(report, room);
            }
            Some(up::What::MembershipDone(done)) => {
                self.stream.answered(done.call, up::What::MembershipDone(done));
            }
            Some(up::What::Session(session)) => {
                self.stream.answered(session.call, up::What::Session(session));
            }
            Some(up::What::GroupCounted(counted)) => {
                self.stream.answered(counted.call, up::What::GroupCounted(counted));
            }
            Some(up::What::KickDone(done)) => {
                self.stream.answered(done.call, up::What::KickDone(done));
            }
            Some(up::What::Here(here)) => {
                sessions::here(&self.core, &self.life, self.stamp, &here);
            }
            Some(up::What::Gone(gone)) => sessions::gone(&self.core, &self.life, &gone),
            Some(up::What::AllTold(_)) => {
                let now = self.core.clock.steady_ms();
                self.core.nodes.all_told(&self.life, self.stamp, now);
            }
            Some(up::What::Goodbye(_)) if self.tells_all => {
                let (core, life) = (self.core.clone(), self.life.clone());
                info!(node = %life.node, boot = %life.boot, "the node ends");
                core.nodes.goodbye(&life, core.clock.steady_ms());
                self.core.tasks.spawn_light(async move {
                    node_leases::leave(&core, &life.node, life.boot).await;
                });
            }
            // Every message renews; an item of a later release is skipped.
            Some(up::What::Lease(_) | up::What::Goodbye(_)) | None => {}
        }
        Ok(())
    }

    fn bind(&self, bind: Bind, room: Room) {
        let (core, call) = (&self.core, bind.call);
        let unavailable = || sessions::refused(call, BindStatus::Unavailable, 0);
        if !core.functions.contains(Functions::LOGINS) || core.bind_tasks.is_stopping() {
            core.metrics.binds.unavailable.inc();
            return room.send(unavailable());
        }
        let Some(wish) = Wish::read(core, bind, &self.life, self.stamp) else {
            core.metrics.binds.malformed.inc();
            return room.send(unavailable());
        };
        let Ok(permit) = self.calls.clone().try_acquire_owned() else {
            core.metrics.binds.unavailable.inc();
            return room.send(unavailable());
        };
        let (life, stream) = (self.life.clone(), self.stream.clone());
        let place = core.turns.take(&wish.key);
        let asked = Asked { life, stream, room, permit };
        core.bind_tasks.spawn_light(sessions::bind(core.clone(), wish, asked, place));
    }

    fn report(&self, report: GroupReport, room: Room) {
        let (core, life) = (&self.core, &self.life);
        if let Some(later) = group_reports::take(core, life, report, room) {
            match self.calls.clone().try_acquire_owned() {
                Ok(permit) => {
                    core.tasks.spawn_light(later.answer(core.clone(), life.clone(), permit));
                }
                Err(_) => later.refuse(),
            }
        }
    }
}

/// How long a caller waits for a node, as the moment when it stops.
pub(crate) fn deadline(patience: Duration) -> Instant {
    Instant::now() + patience
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use hawser_proto::rpc::node::{CountGroup, DropGroup};
    use tokio_stream::StreamExt as _;

    fn drop_group() -> down::What {
        down::What::DropGroup(DropGroup::default())
    }

    /// Asks without waiting for the answer.
    async fn ask(stream: &ControlStream) -> AskError {
        let question = |call| down::What::CountGroup(CountGroup { call, ..Default::default() });
        stream.ask(Instant::now(), question).await.unwrap_err()
    }

    #[tokio::test]
    async fn questions_and_answers_leave_half_of_the_queue_to_what_must_not_be_lost() {
        let (stream, queue) = ControlStream::new(CancellationToken::new());
        for _ in 0..ASKED_WAITING_MAX {
            assert_eq!(ask(&stream).await, AskError::Timeout, "taken, and not answered");
        }
        assert_eq!(ask(&stream).await, AskError::Full);
        let mut waits = Box::pin(stream.room());
        assert!(waits.as_mut().now_or_never().is_none(), "an answer waits");
        for _ in 0..DOWN_WAITING_MAX - ASKED_WAITING_MAX {
            stream.tell(drop_group());
        }
        assert!(!stream.stop.is_cancelled(), "all of the other half could be used");
        let mut outgoing = Outgoing::new(None, queue, GatherControl);
        outgoing.next().await.expect("a message").expect("no error");
        waits.await.expect("room again").send(drop_group());
        assert_eq!(ask(&stream).await, AskError::Timeout, "and for questions");
        for _ in 0..DOWN_WAITING_MAX {
            stream.tell(drop_group());
        }
        assert!(stream.stop.is_cancelled(), "too much of it cuts the stream");
    }
}
