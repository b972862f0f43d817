//! An access node of the test: it speaks hawser.node.v1 and holds sessions that are mere numbers.

use super::{SECRET, within};
use hawser_chassis::grpc::{ShowBearer, channel};
use hawser_chassis::secret::Secret;
use hawser_proto::code::CloseCode;
use hawser_proto::rpc::node::bind_result::Status as BindStatus;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{
    self as rpc, Ack, Answer, Ask, Bind, BindResult, ControlUp, DeliverUp, Delivery,
    DeliveryReport, GroupReport, GroupResult, Hello, InboxPosition, Kick, KickDone, Lease, Pull,
    PullHistory, SweepNow, Unbind, Up, Welcome, ask, down, up,
};
use hawser_proto::rpc::push::Outcome;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

pub const OK: i32 = BindStatus::Ok as i32;
pub const WRITTEN: u32 = Outcome::Written as u32;
pub const STALE: u32 = Outcome::Stale as u32;

pub struct FakeNode {
    pub welcome: Welcome,
    up: mpsc::Sender<ControlUp>,
    down: Streaming<hawser_proto::rpc::node::ControlDown>,
    reports: mpsc::Sender<DeliverUp>,
    deliveries: Streaming<hawser_proto::rpc::node::DeliverDown>,
    words: VecDeque<down::What>,
    waiting: VecDeque<Delivery>,
    answers: VecDeque<Answer>,
    calls: u64,
    takes_compressed: bool,
}

/// A session on a fake node.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub device: String,
    pub slot: u32,
    pub epoch: u64,
    pub attempt: u64,
}

impl Session {
    /// As the node names it in questions.
    pub fn named(&self) -> rpc::Session {
        rpc::Session {
            app: "demo".to_owned(),
            device: self.device.clone(),
            slot: self.slot,
            generation: 1,
            epoch: self.epoch,
        }
    }
}

/// A position in the inbox of a business.
pub fn at(business: u32, (term, seq): (u64, u64)) -> InboxPosition {
    InboxPosition { business, term, seq }
}

impl FakeNode {
    /// Opens both streams, straight or through a [`Wire`].
    pub async fn connect(uri: &str, name: &str, boot: u64) -> Self {
        Self::try_connect(uri, name, boot).await.expect("the router takes the node")
    }

    /// A node of a release that tells one router alone.
    pub async fn connect_older(uri: &str, name: &str, boot: u64) -> Self {
        Self::dial(uri, name, boot, false).await.expect("the router takes the node")
    }

    pub async fn try_connect(uri: &str, name: &str, boot: u64) -> Result<Self, Status> {
        Self::dial(uri, name, boot, true).await
    }

    async fn dial(uri: &str, name: &str, boot: u64, tells_all: bool) -> Result<Self, Status> {
        let bearer = ShowBearer::new(&Secret::new(SECRET)).expect("a header value");
        let channel = channel(uri).expect("a uri");
        let mut client = NodeClient::with_interceptor(channel, bearer);
        let (node, takes_compressed) = (name.to_owned(), tells_all);
        let hello = || Some(Hello { node: node.clone(), boot, tells_all, takes_compressed });
        let (up, outbound) = mpsc::channel(64);
        up.try_send(ControlUp { hello: hello(), items: Vec::new() }).expect("room");
        let control = within(client.control(ReceiverStream::new(outbound))).await?;
        let mut down = control.into_inner();
        let first = within(down.message()).await?;
        let welcome = first.and_then(|it| it.welcome).expect("a welcome comes first");
        let (reports, outbound) = mpsc::channel(64);
        reports.try_send(DeliverUp { hello: hello(), ..Default::default() }).expect("room");
        let deliver = within(client.deliver(ReceiverStream::new(outbound))).await?;
        Ok(Self {
            welcome,
            up,
            down,
            reports,
            deliveries: deliver.into_inner(),
            words: VecDeque::new(),
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            calls: 0,
            takes_compressed,
        })
    }

    pub async fn send(&self, what: up::What) {
        let items = vec![Up { what: Some(what) }];
        self.up.send(ControlUp { hello: None, items }).await.expect("the stream is open");
    }

    pub async fn renew(&self) {
        self.send(up::What::Lease(Lease {})).await;
    }

    /// Tells of a session that another router bound.
    pub async fn here(&self, session: &Session, businesses: &[u32]) {
        let here = rpc::Here {
            app: "demo".into(),
            device: session.device.clone(),
            slot: session.slot,
            generation: 1,
            epoch: session.epoch,
            businesses: businesses.to_vec(),
        };
        self.send(up::What::Here(here)).await;
    }

    /// Tells that such a session has ended.
    pub async fn gone(&self, session: &Session) {
        let gone = rpc::Gone {
            app: "demo".into(),
            device: session.device.clone(),
            slot: session.slot,
            generation: 1,
            epoch: session.epoch,
        };
        self.send(up::What::Gone(gone)).await;
    }

    /// Has told of all.
    pub async fn all_told(&self) {
        self.send(up::What::AllTold(rpc::AllTold {})).await;
    }

    /// Ends in good order.
    pub async fn goodbye(&self) {
        self.send(up::What::Goodbye(rpc::Goodbye {})).await;
    }

    /// Renews the lease on and on, as long as the answer lives.
    pub fn keep_alive(&self) -> JoinSet<()> {
        let (up, pause) = (self.up.clone(), Duration::from_millis(100));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let lease = || vec![Up { what: Some(up::What::Lease(Lease {})) }];
            while up.send(ControlUp { hello: None, items: lease() }).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        });
        task
    }

    /// The next word of the router. `None`: it ended the stream.
    pub async fn word(&mut self) -> Option<down::What> {
        loop {
            if let Some(word) = self.words.pop_front() {
                return Some(word);
            }
            let message = within(self.down.message()).await.ok().flatten()?;
            self.words.extend(message.items.into_iter().filter_map(|item| item.what));
        }
    }

    /// The first word that is wanted; the others before it stay for later.
    async fn next<T>(&mut self, wanted: impl Fn(down::What) -> Result<T, down::What>) -> T {
        let mut others = VecDeque::new();
        loop {
            match wanted(self.word().await.expect("the stream is open")) {
                Ok(word) => {
                    others.append(&mut self.words);
                    self.words = others;
                    return word;
                }
                Err(other) => others.push_back(other),
            }
        }
    }

    /// Claims a device in demo, served by these businesses.
    pub async fn bind(&mut self, device: &str, slot: u32, businesses: &[u32]) -> Session {
        let (status, session) = self.try_bind(bind(device, slot, 1, businesses)).await;
        assert_eq!(status, OK, "{device} is bound");
        session
    }

    /// Sends a bind and waits for its answer: the status, and the session it made.
    pub async fn try_bind(&mut self, bind: Bind) -> (i32, Session) {
        let (device, slot, attempt) = (bind.device.clone(), bind.slot, bind.attempt);
        let result = self.bind_result(bind).await;
        (result.status, Session { device, slot, epoch: result.epoch, attempt })
    }

    /// Sends a bind and waits for its whole answer.
    pub async fn bind_result(&mut self, bind: Bind) -> BindResult {
        self.calls += 1;
        let call = self.calls;
        self.send(up::What::Bind(Bind { call, ..bind })).await;
        self.next(|word| match word {
            down::What::BindResult(result) if result.call == call => Ok(result),
            other => Err(other),
        })
        .await
    }

    /// Waits for word that something has to be asked for.
    pub async fn sweep_now(&mut self) -> SweepNow {
        self.next(|word| match word {
            down::What::Sweep(sweep) => Ok(sweep),
            other => Err(other),
        })
        .await
    }

    pub async fn unbind(&self, session: &Session) {
        self.unbind_at(session, &[]).await;
    }

    /// The same, with how far the inboxes were written.
    pub async fn unbind_at(&self, session: &Session, sent: &[InboxPosition]) {
        let unbind = Unbind {
            app: "demo".into(),
            device: session.device.clone(),
            slot: session.slot,
            generation: 1,
            epoch: session.epoch,
            sent: sent.to_vec(),
        };
        self.send(up::What::Unbind(unbind)).await;
    }

    /// Reports the first member of a group, and waits for the answer.
    pub async fn join(&mut self, group: &str, seq: u64) -> GroupResult {
        self.report_group("demo", group, seq, true).await;
        self.next(|word| match word {
            down::What::GroupResult(result) => Ok(result),
            other => Err(other),
        })
        .await
    }

    pub async fn report_group(&mut self, app: &str, group: &str, seq: u64, present: bool) {
        self.calls += 1;
        let (call, app, group) = (self.calls, app.to_owned(), group.to_owned());
        self.send(up::What::Group(GroupReport { call, app, group, seq, present })).await;
    }

    pub async fn kick(&mut self) -> Kick {
        match self.word().await {
            Some(down::What::Kick(kick)) => kick,
            other => panic!("a kick was to come, not {other:?}"),
        }
    }

    pub async fn kick_done(&self, kick: &Kick, matched: bool) {
        self.send(up::What::KickDone(KickDone { call: kick.call, matched })).await;
    }

    pub async fn delivery(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.waiting.pop_front() {
                return delivery;
            }
            self.read_deliveries().await;
        }
    }

    async fn read_deliveries(&mut self) {
        let message = within(self.deliveries.message()).await;
        let message = message.expect("no error").expect("the stream is open");
        self.waiting.extend(message.deliveries);
        self.answers.extend(message.answers);
    }

    /// Asks without waiting for the answer; its call number.
    pub async fn send_ask(&mut self, what: ask::What) -> u64 {
        self.calls += 1;
        let asks = vec![Ask { call: self.calls, what: Some(what) }];
        let message = DeliverUp { asks, ..DeliverUp::default() };
        self.reports.send(message).await.expect("the stream is open");
        self.calls
    }

    /// The answer to a question.
    pub async fn answer(&mut self, call: u64) -> Answer {
        loop {
            if let Some(at) = self.answers.iter().position(|answer| answer.call == call) {
                return self.answers.remove(at).expect("it was just found");
            }
            self.read_deliveries().await;
        }
    }

    pub async fn ask(&mut self, what: ask::What) -> Answer {
        let call = self.send_ask(what).await;
        self.answer(call).await
    }

    /// Asks for what lies above a position.
    pub async fn pull(&mut self, session: &Session, business: u32, after: (u64, u64)) -> Answer {
        let (term, seq) = after;
        let (entries_max, bytes_max) = (32, 256 * 1024);
        let session = Some(session.named());
        let takes_compressed = self.takes_compressed;
        let pull = Pull { session, business, term, seq, entries_max, bytes_max, takes_compressed };
        self.ask(ask::What::Pull(pull)).await
    }

    /// Acknowledges up to a position.
    pub async fn ack(&mut self, session: &Session, business: u32, upto: (u64, u64)) -> Answer {
        let upto = vec![at(business, upto)];
        self.ask(ask::What::Ack(Ack { session: Some(session.named()), upto })).await
    }

    /// Asks for a group's history above a position.
    pub async fn pull_history(&mut self, group: &str, after: (u64, u64)) -> Answer {
        let (term, seq) = after;
        let (app, group) = ("demo".to_owned(), group.to_owned());
        let (entries_max, bytes_max) = (64, 256 * 1024);
        let takes_compressed = self.takes_compressed;
        let pull = PullHistory { app, group, term, seq, entries_max, bytes_max, takes_compressed };
        self.ask(ask::What::History(pull)).await
    }

    pub async fn report(&self, report: DeliveryReport) {
        let message = DeliverUp { reports: vec![report], ..Default::default() };
        self.reports.send(message).await.expect("the stream is open");
    }

    /// Takes the next delivery and says this of each of its targets.
    pub async fn deliver(&mut self, outcome: u32) -> Delivery {
        let delivery = self.delivery().await;
        let outcomes = vec![outcome; delivery.targets.len()];
        let (id, done) = (delivery.id, true);
        self.report(DeliveryReport { id, outcomes, done, ..Default::default() }).await;
        delivery
    }

    /// Takes the next delivery to a group, for as many members.
    pub async fn deliver_group(&mut self, members: u64) -> Delivery {
        let delivery = self.delivery().await;
        let (id, written, done) = (delivery.id, members, true);
        self.report(DeliveryReport { id, members, written, done, ..Default::default() }).await;
        delivery
    }
}

/// A first login of one installation of a device in demo.
pub fn bind(device: &str, slot: u32, attempt: u64, businesses: &[u32]) -> Bind {
    Bind {
        call: 0,
        app: "demo".into(),
        device: device.into(),
        slot,
        generation: 1,
        instance: vec![7; 16].into(),
        attempt,
        businesses: businesses.to_vec(),
        epoch: 0,
        cursors: Vec::new(),
    }
}

/// The same session, told of again.
pub fn announcement(session: &Session, businesses: &[u32]) -> Bind {
    let bind = bind(&session.device, session.slot, session.attempt, businesses);
    Bind { epoch: session.epoch, ..bind }
}

pub fn superseded(kick: &Kick, session: &Session) -> bool {
    (kick.device.as_str(), kick.slot, kick.epoch, kick.code)
        == (
            session.device.as_str(),
            session.slot,
            session.epoch,
            u32::from(CloseCode::Superseded.number()),
        )
}

/// A wire that can be cut, so that both ends see it break and neither says goodbye.
pub struct Wire {
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                pipes.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, tasks }
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn cut(mut self) {
        self.tasks.abort_all();
    }
}
