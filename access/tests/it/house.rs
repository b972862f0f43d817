//! One node with everything around it.

use crate::fakes::business::Business;
use crate::fakes::control::Control;
use crate::fakes::device::Device;
use crate::fakes::dial::{self, Dial};
use crate::fakes::router::{Route, Router};
use crate::fakes::{secret, tokens};
use crate::{PATIENCE, eventually};
use hawser_access::{Config, Listeners, Running};
use hawser_chassis::callback::Callbacks;
use hawser_chassis::peers::Peers;
use hawser_proto::frame::{DeviceFrame, NodeFrame, ability};
use hawser_proto::id::{NodeId, Position};
use hawser_proto::params;
use hawser_proto::rpc::control::{self as wire, change::Entity};
use hawser_proto::rpc::node::Delivery;
use prometheus::Registry;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The app of most tests, and the number of its business `chat`.
pub const APP: &str = "demo";
pub const CHAT: u32 = 1;
/// A business of the same app that no endpoint serves.
pub const DEAF: u32 = 2;

pub struct House {
    pub control: Control,
    /// The first one; most tests have no other.
    pub router: Arc<Router>,
    pub routers: Vec<Arc<Router>>,
    pub business: Business,
    pub node: Running,
    registry: Registry,
}

pub fn app(name: &str) -> wire::App {
    wire::App {
        app: name.into(),
        enabled: true,
        allowed_origins: vec!["https://demo.example".into()],
        ..Default::default()
    }
}

pub fn business(app: &str, name: &str, number: u32, endpoints: &[&str]) -> wire::Business {
    wire::Business {
        app: app.into(),
        business: name.into(),
        number,
        endpoints: endpoints.iter().map(|&it| it.to_owned()).collect(),
        enabled: true,
        ..Default::default()
    }
}

/// Listeners on free ports, one of each kind.
pub async fn listeners() -> Listeners {
    let tcp = || async { vec![TcpListener::bind("127.0.0.1:0").await.unwrap()] };
    Listeners {
        tcp: tcp().await,
        tls: tcp().await,
        ws: tcp().await,
        wss: tcp().await,
        quic: vec![std::net::UdpSocket::bind("127.0.0.1:0").unwrap()],
    }
}

/// The settings of a node in a test: deadlines that tests do not wait for are long.
pub fn config(control: &Control, router: &Router) -> Config {
    let node = NodeId::new("node-1").unwrap();
    let peers = Peers::secret(&secret()).unwrap();
    let mut config = Config::new(node, &control.uri, std::slice::from_ref(&router.uri), peers);
    config.certificate = Some(dial::certificate());
    config.connections_max = 1_000;
    config.callbacks = Callbacks::any();
    config.lanes = 2;
    config.wheel_tick = Duration::from_millis(20);
    config.linger = Duration::from_millis(300);
    config.first_frame_timeout = PATIENCE;
    config.login_timeout = PATIENCE;
    config
}

pub fn snapshot(business_uri: &str) -> wire::Snapshot {
    wire::Snapshot {
        apps: vec![app(APP), app("other")],
        businesses: vec![
            business(APP, "chat", CHAT, &[business_uri]),
            business(APP, "deaf", DEAF, &[]),
            business("other", "chat", 1, &[business_uri]),
        ],
        signing_keys: vec![tokens::published("k1", tokens::OURS)],
        ..Default::default()
    }
}

impl House {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(vec![Router::start().await], change).await
    }

    /// A node between several routers.
    pub async fn start_on(routers: Vec<Arc<Router>>, change: impl FnOnce(&mut Config)) -> Self {
        let house = Self::begin_on(routers, change).await;
        house.ready().await;
        house
    }

    /// The same, and not waited for.
    pub async fn begin_on(routers: Vec<Arc<Router>>, change: impl FnOnce(&mut Config)) -> Self {
        let business = Business::start().await;
        let control = Control::start(snapshot(&business.uri)).await;
        let router = routers[0].clone();
        let mut settings = config(&control, &router);
        settings.routers = routers.iter().map(|router| router.uri.clone()).collect();
        change(&mut settings);
        let registry = Registry::new();
        let node = hawser_access::start(settings, listeners().await, &registry).await.unwrap();
        Self { control, router, routers, business, node, registry }
    }

    pub async fn ready(&self) {
        eventually("the node is ready", || self.node.is_ready().then_some(())).await;
        for router in &self.routers {
            router.deliver_sender().await;
            eventually("a router is told all", || (router.hellos() > 0).then_some(())).await;
        }
    }

    /// Changes the catalogue, and waits until the node has heard.
    pub async fn put(&self, entity: Entity) {
        self.control.put(entity);
        self.caught_up().await;
    }

    pub async fn caught_up(&self) {
        let revision = self.control.revision() as i64;
        eventually("the catalogue arrives", || {
            (self.metric("hawser_access_catalogue_revision", &[]) == revision).then_some(())
        })
        .await;
    }

    // === Devices ===

    pub async fn dial(&self, how: Dial) -> Device {
        dial::dial(how, self.node.address(how.name()).unwrap(), &[]).await
    }

    /// A logged-in device, and what it was told.
    pub async fn login(&self, how: Dial, name: &str) -> (Device, params::LoginOk) {
        let mut device = self.dial(how).await;
        let login = device.login_frame(APP, name, tokens::token(APP, name));
        device.send(&DeviceFrame::Login(login)).await;
        let ok = device.login_ok().await;
        (device, ok)
    }

    /// A logged-in device that has all abilities, and its cursor of `chat`.
    pub async fn able(&self, how: Dial, name: &str, cursor: Position) -> (Device, params::LoginOk) {
        let mut device = self.dial(how).await;
        let mut login = device.login_frame(APP, name, tokens::token(APP, name));
        login.abilities = ability::ALL;
        let Position { term, seq } = cursor;
        login.cursors.push(params::Cursor { business: "chat".into(), term, seq });
        device.send(&DeviceFrame::Login(login)).await;
        let ok = device.login_ok().await;
        assert_eq!(ok.abilities, ability::ALL);
        (device, ok)
    }

    pub async fn device(&self, name: &str) -> Device {
        self.login(Dial::Tcp, name).await.0
    }

    pub fn route(&self, name: &str) -> Route {
        self.router.route(APP, name).expect("the device is bound")
    }

    // === Pushes ===

    pub fn push_group(&self, group: &str, body: &[u8]) -> Delivery {
        let params = params::GroupPush {
            push_id: b"g".to_vec().into(),
            business: CHAT,
            group: group.into(),
            ..Default::default()
        };
        Delivery {
            boot: self.node.boot().0,
            app: APP.into(),
            business: CHAT,
            frame: NodeFrame::GroupPush(params, body.to_vec().into()).encode(),
            group: group.into(),
            ..Default::default()
        }
    }

    // === Metrics ===

    /// The value of a metric, over all series that have these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        metric(&self.registry, name, labels)
    }

    pub async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: i64) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.metric(name, labels);
            if seen == value {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{name} is {seen}, wanted {value}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Every gauge of the node is back to nothing, and no task is left.
    pub async fn ends_clean(self) {
        for gauge in [
            "hawser_access_connections",
            "hawser_access_sessions",
            "hawser_access_groups",
            "hawser_downlink_unacked",
        ] {
            self.metric_is(gauge, &[], 0).await;
        }
        assert!(self.node.shutdown(PATIENCE).await, "a task was left");
    }
}

/// The value of a metric, over all series that have these labels.
pub fn metric(registry: &Registry, name: &str, labels: &[(&str, &str)]) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let series = family.map_or(&[][..], |family| family.get_metric());
    let is_meant = |metric: &&prometheus::proto::Metric| {
        labels.iter().all(|(name, value)| {
            metric.get_label().iter().any(|pair| pair.name() == *name && pair.value() == *value)
        })
    };
    let value = |metric: &prometheus::proto::Metric| {
        // Whole numbers, all of them; a gauge may have gone below zero.
        (metric.get_counter().get_value() + metric.get_gauge().get_value()) as i64
    };
    series.iter().filter(is_meant).map(value).sum()
}

/// A PUSH of `chat`.
pub fn push_frame(body: &[u8]) -> bytes::Bytes {
    let params =
        params::Push { push_id: b"p".to_vec().into(), business: CHAT, ..Default::default() };
    NodeFrame::Push(params, body.to_vec().into()).encode()
}

/// A PUSH of `chat` to all of these.
pub fn push_to(routes: &[Route], body: &[u8]) -> Delivery {
    Delivery {
        boot: routes[0].boot,
        app: routes[0].app.clone(),
        business: CHAT,
        frame: push_frame(body),
        targets: routes.iter().map(Route::target).collect(),
        ..Default::default()
    }
}
