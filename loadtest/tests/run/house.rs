//! A deployment in this process: the three services on free ports, with an app, a business and its key.

use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_chassis::tls::{Certificate, DevCertificates};
use hawser_control::MasterKey;
use hawser_proto::id::NodeId;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prometheus::Registry;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) const APP: &str = "shop";
pub(crate) const BUSINESS: &str = "orders";
const ADMIN: &str = "hat_of-this-test";
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that runs; it ends with it.
pub(crate) struct House {
    pub(crate) control: String,
    pub(crate) push: String,
    pub(crate) key: String,
    /// Of its certificate, and it with its key.
    pub(crate) trust: PathBuf,
    pub(crate) chain: PathBuf,
    pub(crate) chain_key: PathBuf,
    /// Of the app.
    pub(crate) client_secret: String,
    http: Client<HttpConnector, Full<bytes::Bytes>>,
    _control: hawser_control::Running,
    _router: hawser_router::Running,
    _access: hawser_access::Running,
    data: TempDir,
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let at = listener.local_addr().expect("bound");
    (listener, at)
}

impl House {
    /// Starts it; the business answers at this address.
    pub(crate) async fn start(business: SocketAddr) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let peers = Peers::secret(&Secret::new(&"0f".repeat(32))).expect("a secret");
        let tls = DevCertificates::load_or_make(&data.path().join("tls")).expect("certificates");
        let (control_http, control) = listener().await;
        let (control_internal, internal) = listener().await;
        let (push_listener, push) = listener().await;
        let (router_internal, router_at) = listener().await;
        let control_url = format!("http://{control}");

        let mut config = hawser_control::Config::new(
            data.path().join("control"),
            Secret::new(ADMIN),
            peers.clone(),
            MasterKey::from_hex(&"ab".repeat(32)).expect("a key"),
        );
        config.public_url = Some(control_url.clone());
        config.allow_open_access = true;
        config.signing_activation_delay = Duration::from_secs(1);
        config.reconnect_window = Duration::from_millis(200);
        let listeners =
            hawser_control::Listeners { http: control_http, internal: control_internal };
        let registry = Registry::new();
        let running = hawser_control::start(config, listeners, &registry).await.expect("control");
        let internal_url = format!("http://{internal}");
        let mut config = hawser_router::Config::new(
            "r1",
            data.path().join("router"),
            &internal_url,
            peers.clone(),
        );
        config.callbacks = hawser_chassis::callback::Callbacks::any();
        let listeners = hawser_router::Listeners { push: push_listener, internal: router_internal };
        let router = hawser_router::start(config, listeners, &registry).await.expect("router");
        let routers = [format!("http://{router_at}")];
        let node = NodeId::new("a1").expect("an id");
        let mut config = hawser_access::Config::new(node, &internal_url, &routers, peers);
        config.certificate = Some(Certificate::load(&tls.chain, &tls.key).expect("a certificate"));
        config.callbacks = hawser_chassis::callback::Callbacks::any();
        let listeners = hawser_access::Listeners {
            tcp: vec![listener().await.0],
            tls: vec![listener().await.0],
            ws: vec![listener().await.0],
            wss: vec![listener().await.0],
            quic: vec![UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")],
        };
        let access = hawser_access::start(config, listeners, &registry).await.expect("access");
        let mut house = Self {
            control: control_url,
            push: format!("http://{push}"),
            key: String::new(),
            trust: tls.ca,
            chain: tls.chain,
            chain_key: tls.key,
            client_secret: String::new(),
            http: Client::builder(TokioExecutor::new()).build_http(),
            _control: running,
            _router: router,
            _access: access,
            data,
        };
        house.furnish(business).await;
        house
    }

    /// A folder of its own.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.data.path()
    }

    async fn furnish(&mut self, business: SocketAddr) {
        let proof = json!({"hmac": true, "jwt": false, "open": true});
        let app = self.post("/v1/apps", &json!({"app": APP, "proof": proof})).await;
        let app = app.expect("an app");
        app["client_secret"].as_str().expect("shown once").clone_into(&mut self.client_secret);
        let businesses = format!("/v1/apps/{APP}/businesses");
        let endpoints = [format!("http://{business}")];
        let body = json!({"business": BUSINESS, "endpoints": endpoints});
        self.post(&businesses, &body).await.expect("a business");
        let scopes = json!({"scopes": ["push", "group", "presence", "admin"]});
        let made = self.post(&format!("{businesses}/{BUSINESS}/keys"), &scopes).await;
        let made = made.expect("a key");
        made["key"].as_str().expect("shown once").clone_into(&mut self.key);
        let device = json!({"app": APP, "device": "first", "proof": {"type": "open"}});
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.post("/v1/access", &device).await {
            assert!(Instant::now() < deadline, "no access point: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// From now on no device comes in without a signature.
    pub(crate) async fn close_to_strangers(&self) {
        let proof = json!({"proof": {"hmac": true, "jwt": false, "open": false}});
        let closed = self.call("PATCH", &format!("/v1/apps/{APP}"), &proof).await;
        closed.expect("it is changed");
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.call("POST", path, body).await
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.control))
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {ADMIN}"))
            .body(Full::new(body.to_string().into()))
            .map_err(|error| error.to_string())?;
        let answer = self.http.request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
        let body = body.to_bytes();
        if !status.is_success() {
            return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)));
        }
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }
}
