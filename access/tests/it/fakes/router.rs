//! A router that grants, refuses, delays or ignores, as a test says.

use super::store::{self, Answering, Store};
use super::{listen, secret};
use crate::eventually;
use bytes::Bytes;
use hawser_chassis::grpc::{self, RequireBearer};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::id::Position;
use hawser_proto::rpc::node as wire;
use hawser_proto::rpc::node::answer::Status as AnswerStatus;
use hawser_proto::rpc::node::bind_result::Status as BindStatus;
use hawser_proto::rpc::node::node_server::{self, NodeServer};
use hawser_proto::rpc::node::{ControlDown, ControlUp, DeliverDown, DeliverUp, down, up};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub type ControlSender = mpsc::Sender<Result<ControlDown, Status>>;
pub type DeliverSender = mpsc::Sender<Result<DeliverDown, Status>>;

/// Where a device is, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub boot: u64,
    pub app: String,
    pub device: String,
    pub slot: u32,
    pub generation: u32,
    pub epoch: u64,
}

impl Route {
    pub fn target(&self) -> wire::Target {
        wire::Target {
            slot: self.slot,
            generation: self.generation,
            epoch: self.epoch,
            device: self.device.clone(),
        }
    }
}

/// What becomes of binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    Grant,
    /// Kept back until [`Router::answer_held`].
    Hold,
    Refuse(BindStatus),
}

/// What the node said, in order, with the boot it said it as.
pub type Word = (u64, up::What);

#[derive(Default)]
struct State {
    streams: HashMap<u64, (Option<ControlSender>, Option<DeliverSender>)>,
    routes: HashMap<(String, String), Route>,
    /// Groups that exist: (app, group) to the owner's number, and when it was made.
    groups: HashMap<(String, String), (u32, i64)>,
    held: Vec<(u64, wire::Bind)>,
    words: Vec<Word>,
    reports: Vec<wire::DeliveryReport>,
    hellos: u64,
    /// Asks that came to this router.
    asked: Vec<wire::ask::What>,
    /// Routes that a node has not told of since its stream began.
    untold: HashSet<(String, String)>,
    /// Nodes that said goodbye.
    goodbyes: Vec<u64>,
    /// Wake-ups numbered so far, by boot; a new stream begins anew.
    wakes: HashMap<u64, u64>,
}

type OnRoute = Box<dyn Fn(&Route) + Send + Sync>;

/// What routers of one tier have in common.
#[derive(Clone, Default)]
pub struct Tier {
    store: Arc<Mutex<Store>>,
}

/// What a router says of itself.
#[derive(Clone, Debug)]
struct Says {
    name: String,
    functions: u32,
    takes_here: bool,
}

pub const LOGINS: u32 = 1;
pub const PUSH: u32 = 2;
pub const INBOX: u32 = 4;

pub struct Router {
    pub uri: String,
    says: Mutex<Says>,
    state: Mutex<State>,
    binding: Mutex<Binding>,
    answers_groups: Mutex<bool>,
    is_dead: AtomicBool,
    /// What it does with asks, whatever its store would say.
    asking: Mutex<Option<Answering>>,
    /// While it is, nothing that comes up is read.
    deaf: watch::Sender<bool>,
    calls: AtomicU64,
    pub store: Arc<Mutex<Store>>,
    /// Told of each granted route; words and reports are not kept then.
    on_route: Option<OnRoute>,
    /// Delivery reports heard.
    pub reported: watch::Sender<u64>,
}

impl Router {
    pub async fn start() -> Arc<Self> {
        Self::start_with(None).await
    }

    pub async fn start_with(on_route: Option<OnRoute>) -> Arc<Self> {
        Self::start_as("r-1", LOGINS | PUSH | INBOX, Tier::default(), on_route).await
    }

    /// One of several over one store.
    pub async fn start_in(tier: &Tier, name: &str, functions: u32) -> Arc<Self> {
        Self::start_as(name, functions, tier.clone(), None).await
    }

    async fn start_as(
        name: &str,
        functions: u32,
        tier: Tier,
        on_route: Option<OnRoute>,
    ) -> Arc<Self> {
        let (listener, _, uri) = listen().await;
        let says = Says { name: name.into(), functions, takes_here: true };
        let router = Arc::new(Self {
            uri,
            says: Mutex::new(says),
            state: Mutex::default(),
            binding: Mutex::new(Binding::Grant),
            answers_groups: Mutex::new(true),
            is_dead: AtomicBool::new(false),
            asking: Mutex::default(),
            deaf: watch::Sender::new(false),
            calls: AtomicU64::new(1),
            store: tier.store,
            on_route,
            reported: watch::Sender::new(0),
        });
        let service =
            NodeServer::with_interceptor(Service(router.clone()), RequireBearer(secret()));
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            grpc::server().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        router
    }

    // === What it does ===

    pub fn binds(&self, binding: Binding) {
        *self.binding.lock() = binding;
    }

    /// From the next stream on it is of a release before `Here` and the functions.
    pub fn grows_old(&self) {
        let mut says = self.says.lock();
        (says.functions, says.takes_here) = (0, false);
    }

    /// Breaks everything, and stays away.
    pub fn dies(&self) {
        self.is_dead.store(true, Ordering::Release);
        self.cut();
    }

    pub fn comes_back(&self) {
        let mut state = self.state.lock();
        state.routes.clear();
        state.words.clear();
        drop(state);
        self.is_dead.store(false, Ordering::Release);
    }

    /// What this router does with asks, and no other one.
    pub fn asks(&self, answering: Option<Answering>) {
        *self.asking.lock() = answering;
    }

    /// The devices whose inboxes were asked for at this router, by pull.
    pub fn pulled_here(&self) -> Vec<String> {
        let device = |what: &wire::ask::What| match what {
            wire::ask::What::Pull(pull) => pull.session.as_ref().map(|it| it.device.clone()),
            _ => None,
        };
        self.state.lock().asked.iter().filter_map(device).collect()
    }

    /// Whether this router was asked for anything.
    pub fn was_asked(&self) -> bool {
        !self.state.lock().asked.is_empty()
    }

    pub fn is_deaf(&self, is: bool) {
        self.deaf.send_replace(is);
    }

    pub fn answers_groups(&self, does: bool) {
        *self.answers_groups.lock() = does;
    }

    pub fn create_group(&self, app: &str, group: &str, business: u32) {
        self.create_group_at(app, group, business, 1);
    }

    pub fn create_group_at(&self, app: &str, group: &str, business: u32, created_ms: i64) {
        self.state.lock().groups.insert((app.into(), group.into()), (business, created_ms));
    }

    /// Forgets a group, without telling the node.
    pub fn forget_group(&self, app: &str, group: &str) {
        self.state.lock().groups.remove(&(app.to_owned(), group.to_owned()));
    }

    /// Answers the binds that were held back.
    pub fn answer_held(&self, status: BindStatus) {
        let held = std::mem::take(&mut self.state.lock().held);
        for (boot, bind) in held {
            self.answer_bind(boot, &bind, status);
        }
    }

    pub fn held(&self) -> Vec<wire::Bind> {
        self.state.lock().held.iter().map(|(_, bind)| bind.clone()).collect()
    }

    fn answer_bind(&self, boot: u64, bind: &wire::Bind, status: BindStatus) {
        let mut epoch = bind.epoch;
        let mut older = None;
        let mut inboxes = Vec::new();
        if status == BindStatus::Ok {
            if epoch == 0 {
                epoch = self.store.lock().claim(boot, bind);
            } else {
                epoch += self.store.lock().raises;
            }
            let route = Route {
                boot,
                app: bind.app.clone(),
                device: bind.device.clone(),
                slot: bind.slot,
                generation: bind.generation,
                epoch,
            };
            if let Some(tell) = &self.on_route {
                tell(&route);
            }
            let name = (route.app.clone(), route.device.clone());
            {
                let mut store = self.store.lock();
                let owner = (route.slot, route.generation, route.epoch);
                store.owners.insert(name.clone(), owner);
                // An announcement trims nothing.
                if bind.epoch == 0 {
                    store.ack(&bind.app, &bind.device, &bind.cursors);
                }
                inboxes = store.tails(&bind.app, &bind.device);
            }
            let before = {
                let mut state = self.state.lock();
                state.untold.remove(&name);
                state.routes.insert(name, route)
            };
            older = before.filter(|old| old.epoch != epoch);
        }
        let result = wire::BindResult { call: bind.call, status: status.into(), epoch, inboxes };
        self.tell(boot, down::What::BindResult(result));
        if let Some(old) = older {
            self.tell(old.boot, self.kick_of(&old, CloseCode::Superseded).1);
        }
    }

    pub fn kick_of(&self, route: &Route, code: CloseCode) -> (u64, down::What) {
        let call = self.call();
        let kick = wire::Kick {
            call,
            app: route.app.clone(),
            device: route.device.clone(),
            slot: route.slot,
            generation: route.generation,
            epoch: route.epoch,
            code: code.number().into(),
            reason: "as the test wants".into(),
            boot: route.boot,
        };
        (call, down::What::Kick(kick))
    }

    /// Kicks, and returns whether the node found the session.
    pub async fn kick(&self, route: &Route, code: CloseCode) -> bool {
        let (call, order) = self.kick_of(route, code);
        self.tell(route.boot, order);
        let done = |word: &up::What| match word {
            up::What::KickDone(done) if done.call == call => Some(done.matched),
            _ => None,
        };
        self.word("the kick's answer", done).await
    }

    /// Waits until the node has obeyed all that this router has told it: orders are obeyed in turn, and this
    /// one, to end a session that never was, is answered.
    pub async fn is_obeyed(&self, boot: u64) {
        let nobody = Route {
            boot,
            app: "demo".into(),
            device: "nobody".into(),
            slot: 0,
            // Even: a slot that is free.
            generation: 0,
            epoch: 1,
        };
        assert!(!self.kick(&nobody, CloseCode::Ejected).await, "nobody is there");
    }

    /// Orders a membership change, and returns the status of each target.
    pub async fn change_members(
        &self,
        group: &str,
        business: u32,
        change: wire::membership::Change,
        targets: &[Route],
    ) -> Vec<Option<ErrorCode>> {
        let call = self.call();
        let order = wire::Membership {
            call,
            boot: targets[0].boot,
            app: targets[0].app.clone(),
            group: group.into(),
            business,
            change: change.into(),
            reason: "as the test wants".into(),
            targets: targets.iter().map(Route::target).collect(),
        };
        self.tell(targets[0].boot, down::What::Membership(order));
        let done = |word: &up::What| match word {
            up::What::MembershipDone(done) if done.call == call => Some(done.statuses.clone()),
            _ => None,
        };
        let statuses = self.word("the change's answer", done).await;
        statuses.into_iter().map(ErrorCode::from_number).collect()
    }

    /// Sends a delivery to the node's present boot, and waits for its last report.
    pub async fn deliver(&self, mut delivery: wire::Delivery) -> wire::DeliveryReport {
        delivery.id = self.call();
        let id = delivery.id;
        let to = self.deliver_sender().await;
        to.send(Ok(DeliverDown { deliveries: vec![delivery], answers: Vec::new() })).await.unwrap();
        eventually("the report of a delivery", || {
            self.state.lock().reports.iter().find(|it| it.id == id && it.done).cloned()
        })
        .await
    }

    /// Stores a push for a device, and says where. Nobody is woken.
    pub fn store_push(&self, app: &str, device: &str, business: u32, body: &[u8]) -> wire::Place {
        let name = (app.to_owned(), device.to_owned(), business);
        let mut store = self.store.lock();
        let inbox = store.inboxes.entry(name).or_default();
        inbox.append(|place| store::push(business, place, body.to_vec()))
    }

    /// The wake-up of a stored push to this session, with the next number of its stream.
    pub fn wake_up(&self, route: &Route, business: u32, place: wire::Place) -> wire::Delivery {
        let name = (route.app.clone(), route.device.clone(), business);
        let at = Position::new(place.term, place.seq);
        let frame = self.store.lock().inboxes[&name].entries[&at].frame.clone();
        self.wake_up_with(route, business, place, frame)
    }

    /// Stores a push for this session's device, and makes its wake-up: whoever reads it meanwhile for another reason,
    /// and acknowledges it, takes nothing from that.
    pub fn store_to_wake(&self, route: &Route, business: u32, body: &[u8]) -> wire::Delivery {
        let name = (route.app.clone(), route.device.clone(), business);
        let (place, frame) = {
            let mut store = self.store.lock();
            let inbox = store.inboxes.entry(name).or_default();
            let place = inbox.append(|place| store::push(business, place, body.to_vec()));
            let at = Position::new(place.term, place.seq);
            (place, inbox.entries[&at].frame.clone())
        };
        self.wake_up_with(route, business, place, frame)
    }

    fn wake_up_with(
        &self,
        route: &Route,
        business: u32,
        place: wire::Place,
        frame: Bytes,
    ) -> wire::Delivery {
        let mut state = self.state.lock();
        let wake = state.wakes.entry(route.boot).or_default();
        *wake += 1;
        wire::Delivery {
            boot: route.boot,
            app: route.app.clone(),
            business,
            frame,
            targets: vec![route.target()],
            place: Some(place),
            wake: *wake,
            ..Default::default()
        }
    }

    /// Sends a delivery whose report nobody waits for; returns its number.
    pub async fn hint(&self, mut delivery: wire::Delivery) -> u64 {
        delivery.id = self.call();
        let id = delivery.id;
        let to = self.deliver_sender().await;
        let down = DeliverDown { deliveries: vec![delivery], answers: Vec::new() };
        to.send(Ok(down)).await.unwrap();
        id
    }

    /// Stores a push for a device and wakes its session.
    pub async fn push_stored(&self, app: &str, device: &str, business: u32, body: &[u8]) -> u64 {
        let place = self.store_push(app, device, business, body);
        let route = self.route(app, device).expect("the device is bound");
        self.hint(self.wake_up(&route, business, place)).await
    }

    /// What the report of a delivery said, once there is one.
    pub async fn outcome(&self, id: u64) -> u32 {
        let look = || self.state.lock().reports.iter().find(|it| it.id == id).cloned();
        eventually("a report", look).await.outcomes[0]
    }

    /// Whether the last report of a delivery has come.
    pub fn has_report(&self, id: u64) -> bool {
        self.state.lock().reports.iter().any(|it| it.id == id && it.done)
    }

    /// The group keeps a history from now on.
    pub fn keep_history(&self, app: &str, group: &str) {
        self.store.lock().histories.insert((app.into(), group.into()), store::Stored::default());
    }

    /// Adds to the history of a group, and returns the delivery that tells of it.
    pub fn history_push(
        &self,
        app: &str,
        group: &str,
        business: u32,
        body: &[u8],
    ) -> wire::Delivery {
        let boot = *self.state.lock().streams.keys().next().expect("a stream");
        let mut store = self.store.lock();
        let history = store.histories.get_mut(&(app.to_owned(), group.to_owned())).unwrap();
        let make = |place: &wire::Place| store::group_push(business, group, place, body.to_vec());
        let place = history.append(make);
        let at = Position::new(place.term, place.seq);
        wire::Delivery {
            boot,
            app: app.into(),
            business,
            frame: history.entries[&at].frame.clone(),
            group: group.into(),
            place: Some(place),
            ..Default::default()
        }
    }

    pub fn answers(&self, answering: Answering) {
        self.store.lock().answering = answering;
    }

    /// Answers what was kept back, late.
    pub async fn answer_held_asks(&self) {
        let answers: Vec<_> = {
            let mut store = self.store.lock();
            let held = std::mem::take(&mut store.held);
            held.into_iter().map(|ask| store.answer(ask)).collect()
        };
        let to = self.deliver_sender().await;
        to.send(Ok(DeliverDown { answers, ..Default::default() })).await.unwrap();
    }

    /// Answers what was kept back by [`Router::asks`]: it cannot be answered.
    pub async fn refuse_held_asks(&self) {
        let refused = AnswerStatus::Unavailable.into();
        let answer =
            |ask: wire::Ask| wire::Answer { call: ask.call, status: refused, ..Default::default() };
        let answers = std::mem::take(&mut self.store.lock().held).into_iter().map(answer).collect();
        let to = self.deliver_sender().await;
        to.send(Ok(DeliverDown { answers, ..Default::default() })).await.unwrap();
    }

    pub fn call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends an order down the control stream of a boot, if there is one.
    pub fn tell(&self, boot: u64, what: down::What) {
        self.tell_all(boot, [what]);
    }

    /// Sends orders in one message.
    pub fn tell_all(&self, boot: u64, orders: impl IntoIterator<Item = down::What>) {
        let to = self.state.lock().streams.get(&boot).and_then(|streams| streams.0.clone());
        if let Some(to) = to {
            let down = |what| wire::Down { what: Some(what) };
            let items = orders.into_iter().map(down).collect();
            let _ = to.try_send(Ok(ControlDown { welcome: None, items }));
        }
    }

    /// Breaks all streams.
    pub fn cut(&self) {
        for (_, (control, deliver)) in self.state.lock().streams.drain() {
            let broken = || Status::unavailable("cut by the test");
            let _ = control.map(|it| it.try_send(Err(broken())));
            let _ = deliver.map(|it| it.try_send(Err(broken())));
        }
    }

    /// Breaks the deliver streams alone.
    pub fn cut_deliver(&self) {
        for streams in self.state.lock().streams.values_mut() {
            let broken = Status::unavailable("cut by the test");
            let _ = streams.1.take().map(|it| it.try_send(Err(broken)));
        }
    }

    /// The sessions whose inboxes were asked for, by pull.
    pub fn pulls(&self) -> Vec<wire::Pull> {
        let pull = |what: &wire::ask::What| match what {
            wire::ask::What::Pull(pull) => Some(pull.clone()),
            _ => None,
        };
        self.store.lock().asked.iter().filter_map(pull).collect()
    }

    // === What it has seen ===

    pub fn route(&self, app: &str, device: &str) -> Option<Route> {
        self.state.lock().routes.get(&(app.to_owned(), device.to_owned())).cloned()
    }

    /// All devices of an app that are there.
    pub fn known(&self, app: &str) -> Vec<String> {
        let state = self.state.lock();
        let of_app = state.routes.keys().filter(|(of, _)| of == app);
        of_app.map(|(_, device)| device.clone()).collect()
    }

    /// The way to deliver to whatever boot is there.
    pub async fn deliver_sender(&self) -> DeliverSender {
        let look = || self.state.lock().streams.values().find_map(|streams| streams.1.clone());
        eventually("a deliver stream", look).await
    }

    /// The control streams that were ever opened.
    pub fn hellos(&self) -> u64 {
        self.state.lock().hellos
    }

    /// Waits for a word of the node.
    pub async fn word<R>(&self, what: &str, look: impl Fn(&up::What) -> Option<R>) -> R {
        eventually(what, || self.state.lock().words.iter().find_map(|(_, word)| look(word))).await
    }

    pub fn words(&self) -> Vec<up::What> {
        self.state.lock().words.iter().map(|(_, word)| word.clone()).collect()
    }

    /// The reports of a group so far: their sequence numbers, and whether members were there.
    pub fn group_reports(&self, group: &str) -> Vec<(u64, bool)> {
        let of_group = |word: up::What| match word {
            up::What::Group(report) if report.group == group => Some((report.seq, report.present)),
            _ => None,
        };
        self.words().into_iter().filter_map(of_group).collect()
    }

    /// Nodes that said that they end.
    pub fn goodbyes(&self) -> usize {
        self.state.lock().goodbyes.len()
    }

    /// How often the node has told everything that there is.
    pub fn told_all(&self) -> usize {
        let is_it = |word: &&up::What| matches!(word, up::What::AllTold(_));
        self.words().iter().filter(is_it).count()
    }

    /// The claims of logins heard so far, by device.
    pub fn claims(&self) -> Vec<String> {
        let claim = |word: up::What| match word {
            up::What::Bind(bind) if bind.epoch == 0 => Some(bind.device),
            _ => None,
        };
        self.words().into_iter().filter_map(claim).collect()
    }

    /// The word on a group that is reported.
    pub fn answer_group(&self, boot: u64, report: &wire::GroupReport) {
        let name = (report.app.clone(), report.group.clone());
        let history = self.store.lock().histories.contains_key(&name);
        let found = self.state.lock().groups.get(&name).copied();
        let status = if found.is_some() { 0 } else { ErrorCode::GroupNotFound.number() };
        let (business, created_ms) = found.unwrap_or_default();
        let (call, app, group) = (report.call, name.0, name.1);
        let result = wire::GroupResult {
            call,
            app,
            group,
            status,
            business,
            created_ms,
            history,
            ..Default::default()
        };
        self.tell(boot, down::What::GroupResult(result));
    }

    fn hear(&self, boot: u64, word: up::What) {
        match &word {
            up::What::Bind(bind) => {
                let binding = *self.binding.lock();
                match binding {
                    Binding::Grant => self.answer_bind(boot, bind, BindStatus::Ok),
                    Binding::Hold => self.state.lock().held.push((boot, bind.clone())),
                    Binding::Refuse(status) => self.answer_bind(boot, bind, status),
                }
            }
            up::What::Unbind(gone) => {
                let mut state = self.state.lock();
                let name = (gone.app.clone(), gone.device.clone());
                let is_it = |route: &Route| {
                    (route.boot, route.slot, route.generation, route.epoch)
                        == (boot, gone.slot, gone.generation, gone.epoch)
                };
                if state.routes.get(&name).is_some_and(is_it) {
                    state.routes.remove(&name);
                    self.store.lock().owners.remove(&name);
                }
            }
            up::What::Here(here) => {
                let name = (here.app.clone(), here.device.clone());
                let mut state = self.state.lock();
                state.untold.remove(&name);
                let known = state.routes.get(&name).map_or(0, |route| route.epoch);
                if known <= here.epoch {
                    let route = Route {
                        boot,
                        app: here.app.clone(),
                        device: here.device.clone(),
                        slot: here.slot,
                        generation: here.generation,
                        epoch: here.epoch,
                    };
                    state.routes.insert(name, route);
                }
            }
            up::What::Gone(gone) => {
                let name = (gone.app.clone(), gone.device.clone());
                let mut state = self.state.lock();
                if state.routes.get(&name).is_some_and(|route| route.epoch == gone.epoch) {
                    state.routes.remove(&name);
                }
            }
            up::What::AllTold(_) => {
                let mut state = self.state.lock();
                for name in std::mem::take(&mut state.untold) {
                    state.routes.remove(&name);
                }
            }
            up::What::Goodbye(_) => self.state.lock().goodbyes.push(boot),
            up::What::Group(report) if report.present && *self.answers_groups.lock() => {
                self.answer_group(boot, report);
            }
            _ => {}
        }
        if self.on_route.is_none() {
            self.state.lock().words.push((boot, word));
        }
    }
}

impl Router {
    fn lives(&self) -> Result<(), Status> {
        let is_dead = self.is_dead.load(Ordering::Acquire);
        if is_dead { Err(Status::unavailable("dead, for the test")) } else { Ok(()) }
    }
}

struct Service(Arc<Router>);

#[tonic::async_trait]
impl node_server::Node for Service {
    type ControlStream = ReceiverStream<Result<ControlDown, Status>>;
    type DeliverStream = ReceiverStream<Result<DeliverDown, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<ControlUp>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        self.0.lives()?;
        let mut inbound = request.into_inner();
        let (tell, orders) = mpsc::channel(16 * 1024);
        let router = self.0.clone();
        tokio::spawn(async move {
            let Ok(Some(first)) = inbound.message().await else { return };
            let boot = first.hello.expect("Hello comes first").boot;
            let says = router.says.lock().clone();
            let welcome = wire::Welcome {
                lease_ms: 1_000,
                router: says.name,
                router_boot: 1,
                functions: says.functions,
                takes_here: says.takes_here,
            };
            let first = ControlDown { welcome: Some(welcome), items: Vec::new() };
            {
                let mut state = router.state.lock();
                let _ = tell.try_send(Ok(first));
                state.streams.entry(boot).or_default().0 = Some(tell.clone());
                state.hellos += 1;
                let theirs = state.routes.iter().filter(|(_, route)| route.boot == boot);
                state.untold = theirs.map(|(name, _)| name.clone()).collect();
            }
            let mut deaf = router.deaf.subscribe();
            while let Ok(Some(message)) = inbound.message().await {
                let _ = deaf.wait_for(|is_deaf| !is_deaf).await;
                if tell.is_closed() {
                    break;
                }
                for item in message.items {
                    router.hear(boot, item.what.expect("an item says something"));
                }
            }
            let mut state = router.state.lock();
            if let Some(streams) = state.streams.get_mut(&boot)
                && streams.0.as_ref().is_some_and(|it| it.same_channel(&tell))
            {
                streams.0 = None;
            }
        });
        Ok(Response::new(ReceiverStream::new(orders)))
    }

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverUp>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        self.0.lives()?;
        let mut inbound = request.into_inner();
        let (tell, deliveries) = mpsc::channel(64);
        let router = self.0.clone();
        tokio::spawn(async move {
            let Ok(Some(first)) = inbound.message().await else { return };
            let boot = first.hello.expect("Hello comes first").boot;
            {
                let mut state = router.state.lock();
                state.streams.entry(boot).or_default().1 = Some(tell.clone());
                state.wakes.insert(boot, 0);
            }
            while let Ok(Some(message)) = inbound.message().await {
                for ask in message.asks {
                    let keeps = router.on_route.is_none();
                    router.state.lock().asked.extend(ask.what.clone().filter(|_| keeps));
                    let own = *router.asking.lock();
                    let answer = match own {
                        None => router.store.lock().hear(ask, keeps),
                        Some(own) => router.store.lock().hear_as(own, ask),
                    };
                    let answers: Vec<_> = answer.into_iter().collect();
                    if !answers.is_empty() {
                        let _ = tell.send(Ok(DeliverDown { answers, ..Default::default() })).await;
                    }
                }
                router.reported.send_modify(|count| *count += message.reports.len() as u64);
                if router.on_route.is_none() {
                    router.state.lock().reports.extend(message.reports);
                }
            }
            let mut state = router.state.lock();
            if let Some(streams) = state.streams.get_mut(&boot)
                && streams.1.as_ref().is_some_and(|it| it.same_channel(&tell))
            {
                streams.1 = None;
            }
        });
        Ok(Response::new(ReceiverStream::new(deliveries)))
    }
}
