//! A control to call, and the calls.

use crate::schema;
use bytes::Bytes;
use hawser_chassis::grpc::{ShowBearer, channel};
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_control::{Config, Listeners, MasterKey, Running};
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::control_client::ControlClient;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

pub(crate) const ADMIN: &str = "the-admin-token-of-tests";
pub(crate) const CLUSTER: &str = "the-cluster-secret-of-tests";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) type Rpc = ControlClient<InterceptedService<Channel, ShowBearer>>;

/// A running control and a client for it.
pub(crate) struct Server {
    pub(crate) running: Running,
    pub(crate) registry: prometheus::Registry,
    pub(crate) document: Value,
    client: Client<HttpConnector, Full<Bytes>>,
    folder: Option<TempDir>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body, of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Checks that it is a problem with this code.
    #[track_caller]
    pub(crate) fn refused(&self, code: &str) {
        assert_eq!(self.body["code"], code, "{} {}", self.status, self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], self.status.as_u16());
    }
}

pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config::new(
        folder.to_owned(),
        Secret::new(ADMIN),
        Peers::secret(&Secret::new(CLUSTER)).unwrap(),
        MasterKey::new([9; 32]),
    );
    config.allow_open_access = true;
    config.signing_activation_delay = Duration::ZERO;
    config
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let mut server = Self::start_on(config).await;
        server.folder = Some(folder);
        server
    }

    /// On a folder that outlives the server.
    pub(crate) async fn start_on(config: Config) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0");
        let listeners =
            Listeners { http: listen().await.unwrap(), internal: listen().await.unwrap() };
        let registry = prometheus::Registry::new();
        let running = hawser_control::start(config, listeners, &registry).await.unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut server = Self { running, registry, document: Value::Null, client, folder: None };
        server.document = server.raw(Method::GET, "/openapi.json", &[], "").await.expect(200);
        server
    }

    pub(crate) async fn stop(self) {
        // The client's idle connections end with it.
        drop(self.client);
        assert!(self.running.shutdown(PATIENCE).await, "control stops in time");
    }

    /// A request as given; the answer unchecked.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let uri = format!("http://{}{path}", self.running.http_addr());
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = tokio::time::timeout(PATIENCE, self.client.request(request));
        let (parts, body) = response.await.unwrap().unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let is_json = parts
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.to_str().unwrap().ends_with("json"));
        let body = if is_json {
            serde_json::from_slice(&bytes).unwrap()
        } else {
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// A call with a bearer token; the answer is held against the document.
    #[track_caller]
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> impl Future<Output = Answer> {
        let method: Method = method.parse().unwrap();
        let path = path.to_owned();
        let bearer = format!("Bearer {token}");
        async move {
            let mut headers = Vec::new();
            if !token.is_empty() {
                headers.push(("authorization", bearer.as_str()));
            }
            if body.is_some() {
                headers.push(("content-type", "application/json"));
            }
            let text = body.map_or_else(String::new, |body| body.to_string());
            let answer = self.raw(method.clone(), &path, &headers, text).await;
            schema::check_answer(&self.document, method.as_str(), &path, &answer);
            answer
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, ADMIN, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, ADMIN, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, ADMIN, None).await
    }

    /// A new app that takes every proof.
    pub(crate) async fn app(&self, name: &str) -> Value {
        let body = json!({"app": name, "proof": {"open": true}});
        self.post("/v1/apps", body).await.expect(201)
    }

    pub(crate) async fn access(&self, body: Value) -> Answer {
        self.call("POST", "/v1/access", "", Some(body)).await
    }

    /// Admits a device without proof.
    pub(crate) async fn open_access(&self, app: &str, device: &str) -> Value {
        let body = json!({"app": app, "device": device, "proof": {"type": "open"}});
        self.access(body).await.expect(200)
    }

    pub(crate) fn rpc(&self) -> Rpc {
        let uri = format!("http://{}", self.running.internal_addr());
        let show = ShowBearer::new(&Secret::new(CLUSTER)).unwrap();
        ControlClient::with_interceptor(channel(&uri).unwrap(), show)
    }

    /// Reports a free access node with every protocol.
    pub(crate) async fn report_node(&self, name: &str) {
        self.rpc().report(node(name)).await.unwrap();
    }
}

pub(crate) fn node(name: &str) -> wire::NodeReport {
    let point = |(protocol, port): (&str, u32)| wire::AccessPoint {
        protocol: protocol.into(),
        host: "127.0.0.1".into(),
        port,
        server_name: if matches!(protocol, "tcp" | "ws") { "" } else { "localhost" }.into(),
    };
    let all = [("tcp", 1), ("tls", 2), ("quic", 3), ("ws", 4), ("wss", 5)];
    wire::NodeReport {
        node: name.into(),
        boot: 0xabc,
        cluster: "main".into(),
        region: "r1".into(),
        access_points: all.map(point).to_vec(),
        connections: 25,
        connections_max: 100,
        ..Default::default()
    }
}

/// Asks again until the answer is there; for what becomes true by itself within moments.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let search = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never: {what}"))
}
