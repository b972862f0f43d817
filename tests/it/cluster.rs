//! The services as separate processes that show each other certificates: what comes in at their internal ports,
//! and what operators see and do.

use crate::process::{Said, Service, hawser, run};
use hawser_chassis::peers::{PeerFiles, Peers, Role, issue};
use hawser_proto::rpc::control as wire;
use hawser_proto::rpc::control::control_client::ControlClient;
use hawser_proto::rpc::node::node_client::NodeClient;
use hawser_proto::rpc::node::{ControlUp, DeliverUp, Hello};
use hawser_sdk::{Client, Proof};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

const PATIENCE: Duration = Duration::from_secs(30);
const ADMIN: &str = "the-admin-token-of-this-test";

/// Free ports, all different.
fn ports<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("it is bound"))
}

/// Control, a router and two access nodes.
struct Cluster {
    folder: TempDir,
    control: SocketAddr,
    control_internal: SocketAddr,
    push: SocketAddr,
    router_internal: SocketAddr,
    /// Ended in this order.
    services: Vec<Service>,
}

impl Cluster {
    fn start() -> Self {
        Self::start_with("")
    }

    /// With more settings of control.
    fn start_with(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = folder.path().to_str().expect("UTF-8");
        let certificates = run(&["certificates", "create", "--dir", &format!("{at}/tls")]);
        assert_eq!(certificates.code, Some(0), "{}", certificates.err);
        let [control, control_internal, push, router_internal, a1, a2] = ports();
        let [admin_c, admin_r, admin_1, admin_2] = ports();
        std::fs::write(folder.path().join("admin"), ADMIN).expect("written");
        std::fs::write(folder.path().join("master"), "5a".repeat(32)).expect("written");
        let tls = |role: &str| {
            format!(
                "[internal_tls]\nca = \"{at}/tls/ca.pem\"\ncertificate = \"{at}/tls/{role}.pem\"\n\
                 key = \"{at}/tls/{role}.key\"\n"
            )
        };
        let admin =
            |listen: SocketAddr| format!("[admin]\nlisten = \"{listen}\"\nlog = \"warn\"\n");
        let write = |name: &str, text: String| {
            let path = folder.path().join(format!("{name}.toml"));
            std::fs::write(&path, text).expect("written");
            path
        };
        let of_control = write(
            "control",
            format!(
                "listen = \"{control}\"\ninternal_listen = \"{control_internal}\"\n\
                 data_dir = \"{at}/control\"\nadmin_token = \"file:{at}/admin\"\n\
                 master_key = \"file:{at}/master\"\nallow_open_access = true\n\
                 node_report_interval = \"200ms\"\nsigning_activation_delay = \"1s\"\n{settings}{}{}",
                tls("control"),
                admin(admin_c)
            ),
        );
        let of_router = write(
            "router",
            format!(
                "name = \"r1\"\npush_listen = \"{push}\"\ninternal_listen = \"{router_internal}\"\n\
                 data_dir = \"{at}/router\"\ncontrol = \"https://{control_internal}\"\n\
                 node_lease = \"2s\"\n{}{}",
                tls("router"),
                admin(admin_r)
            ),
        );
        // What two nodes share stands in the file, what they differ in on the command line and in the environment.
        let of_access = write(
            "access",
            format!(
                "control = \"https://{control_internal}\"\nrouters = [\"https://{router_internal}\"]\n\
                 callbacks = \"any\"\n{}",
                tls("access")
            ),
        );
        let mut services = Vec::new();
        for (name, listen, admin) in [("a1", a1, admin_1), ("a2", a2, admin_2)] {
            let mut command = hawser();
            command
                .args(["access", "--set", &format!("node={name}")])
                .args(["--set", &format!("listen.tcp=[\"{listen}\"]")])
                .env("HAWSER_ACCESS_ADMIN__LISTEN", admin.to_string())
                .env("HAWSER_ACCESS_ADMIN__LOG", "warn");
            services.push(Service::start(name, command, &of_access, admin));
        }
        let role = |name: &str| {
            let mut command = hawser();
            command.arg(name);
            command
        };
        services.push(Service::start("router", role("router"), &of_router, admin_r));
        services.push(Service::start("control", role("control"), &of_control, admin_c));
        for service in &mut services {
            service.until_ready();
        }
        Self { folder, control, control_internal, push, router_internal, services }
    }

    /// A command as the operator.
    async fn operate(&self, line: &[&str]) -> Said {
        let (control, push) = (format!("http://{}", self.control), format!("http://{}", self.push));
        let mut command = hawser();
        command.args(line).args(["--json", "--data-dir"]).arg(self.folder.path().join("none"));
        command.envs([("HAWSER_CONTROL", control.as_str()), ("HAWSER_TOKEN", ADMIN)]);
        command.env("HAWSER_PUSH", push);
        let running = tokio::task::spawn_blocking(move || Said::by(command));
        timeout(2 * PATIENCE, running).await.expect("in time").expect("no panic")
    }

    async fn done(&self, line: &[&str]) -> Value {
        let said = self.operate(line).await;
        assert_eq!(said.code, Some(0), "{line:?}: {}", said.err);
        said.json()
    }

    /// Asks until the answer is as wished.
    async fn until(&self, line: &[&str], is_wished: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let answer = self.done(line).await;
                if is_wished(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {line:?}"))
    }

    fn peers(&self, role: Role) -> PeerFiles {
        files(&self.folder.path().join("tls"), role)
    }

    fn end(self) {
        for service in self.services {
            // What it says are mostly words on services that went before it.
            let (code, said) = service.terminate();
            assert_eq!(code, Some(0), "{said}");
        }
    }
}

fn files(folder: &Path, role: Role) -> PeerFiles {
    PeerFiles {
        ca: folder.join("ca.pem"),
        certificate: folder.join(format!("{}.pem", role.name())),
        key: folder.join(format!("{}.key", role.name())),
    }
}

fn channel(at: SocketAddr, ca: &Path, role: Role, shown: Option<(PathBuf, PathBuf)>) -> Channel {
    let read = |path: &Path| std::fs::read(path).expect("a PEM file");
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(ca)))
        .domain_name(role.domain());
    if let Some((chain, key)) = shown {
        tls = tls.identity(Identity::from_pem(read(&chain), read(&key)));
    }
    let endpoint = Endpoint::from_shared(format!("https://{at}")).expect("an address");
    endpoint.tls_config(tls).expect("certificates").connect_lazy()
}

fn code<T>(outcome: Result<T, Status>) -> Option<Code> {
    outcome.err().map(|status| status.code())
}

/// What both streams of a router's internal port answer.
async fn streams(channel: Channel) -> [Option<Code>; 2] {
    let mut client = NodeClient::new(channel);
    let hello = Some(Hello { node: "stranger".into(), boot: 1, ..Default::default() });
    let up = ControlUp { hello: hello.clone(), ..Default::default() };
    let control = client.control(tokio_stream::once(up)).await;
    let deliver =
        client.deliver(tokio_stream::once(DeliverUp { hello, ..Default::default() })).await;
    [code(control), code(deliver)]
}

/// What calls of control's internal port answer.
async fn calls(channel: Channel) -> [Option<Code>; 2] {
    let mut client = ControlClient::new(channel);
    let watcher = wire::WatchRequest { role: "access".into(), node: "stranger".into() };
    let report = wire::NodeReport { node: "stranger".into(), ..Default::default() };
    [code(client.watch(watcher).await), code(client.report(report).await)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_certificates_serves_and_its_internal_ports_are_shut() {
    let cluster = Cluster::start();
    let fresh = |nodes: &Value| nodes.as_array().is_some_and(|all| all.len() == 2);
    cluster.until(&["node", "list"], fresh).await;
    cluster.done(&["app", "create", "demo", "--proof", "open"]).await;
    cluster.done(&["business", "create", "chat", "--app", "demo"]).await;
    let key = cluster.done(&["business", "key", "create", "chat", "--app", "demo"]).await;
    let key = key["key"].as_str().expect("a key").to_owned();

    let client = Client::builder(&format!("http://{}", cluster.control), "demo", "phone-1")
        .proof(Proof::open())
        .business("chat")
        .build()
        .expect("a client");
    timeout(PATIENCE, client.connect()).await.expect("in time").expect("connected");
    let mut pushes = client.business("chat").pushes();
    let say = ["push", "unicast", "--device", "phone-1", "hello", "--key", &key];
    assert_eq!(cluster.done(&say).await["outcome"], "written");
    let heard = timeout(PATIENCE, pushes.next_push()).await.expect("in time").expect("a push");
    assert_eq!(heard.body.as_ref(), b"hello");

    // Who shows nothing, another CA's certificate, what devices see, or the wrong role.
    let own = cluster.folder.path().join("tls/ca.pem");
    let other = tempfile::tempdir().expect("a temporary folder");
    issue(other.path(), Duration::from_hours(1)).expect("certificates");
    let device =
        hawser_chassis::tls::DevCertificates::load_or_make(other.path().join("d").as_path())
            .expect("certificates");
    let pair = |files: PeerFiles| Some((files.certificate, files.key));
    for shown in [None, pair(files(other.path(), Role::Access)), Some((device.chain, device.key))] {
        let cut = |codes: [Option<Code>; 2]| {
            codes
                .iter()
                .all(|it| matches!(it, Some(Code::Unavailable | Code::Unknown | Code::Cancelled)))
        };
        let at = channel(cluster.router_internal, &own, Role::Router, shown.clone());
        let said = streams(at).await;
        assert!(cut(said), "{said:?}");
        let at = channel(cluster.control_internal, &own, Role::Control, shown);
        let said = calls(at).await;
        assert!(cut(said), "{said:?}");
    }
    let denied = Some(Code::PermissionDenied);
    for role in [Role::Control, Role::Router, Role::Operator] {
        let shown = pair(cluster.peers(role));
        let at = channel(cluster.router_internal, &own, Role::Router, shown.clone());
        assert_eq!(streams(at).await, [denied; 2], "{role:?}");
        let at = channel(cluster.control_internal, &own, Role::Control, shown);
        assert_eq!(calls(at).await, [denied; 2], "{role:?}");
    }
    // A business key, in the clear and over TLS; and a good certificate that asks for the wrong server.
    for scheme in ["http", "https"] {
        let uri = format!("{scheme}://{}", cluster.router_internal);
        let at = match scheme {
            "http" => hawser_chassis::grpc::channel(&uri).expect("an address"),
            _ => channel(cluster.router_internal, &own, Role::Router, None),
        };
        let up = ControlUp { hello: Some(Hello::default()), ..Default::default() };
        let mut request = Request::new(tokio_stream::once(up));
        let bearer = format!("Bearer {key}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", bearer);
        assert!(NodeClient::new(at).control(request).await.is_err(), "{scheme}");
    }
    let peers = Peers::tls(cluster.peers(Role::Access)).expect("certificates");
    let uri = format!("https://{}", cluster.router_internal);
    let wrong = peers.channel(&uri, Role::Control).expect("an address");
    let report = wire::NodeReport { node: "a9".into(), ..Default::default() };
    assert!(ControlClient::new(wrong).report(report).await.is_err());
    // None of it did any harm.
    assert_eq!(cluster.done(&say).await["outcome"], "written");
    let routers = cluster.until(&["router", "list"], |all| !all[0].is_null()).await;
    assert_eq!(routers[0]["push"], format!("http://{}", cluster.push));
    assert_eq!(routers[0]["functions"], json!(["logins", "push", "inbox"]));
    client.close().await;
    cluster.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_sends_its_device_to_the_other_and_takes_devices_again_when_told() {
    let cluster = Cluster::start();
    let fresh = |nodes: &Value| nodes.as_array().is_some_and(|all| all.len() == 2);
    cluster.until(&["node", "list"], fresh).await;
    cluster.done(&["app", "create", "demo", "--proof", "open"]).await;
    cluster.done(&["business", "create", "chat", "--app", "demo"]).await;
    let client = Client::builder(&format!("http://{}", cluster.control), "demo", "phone-1")
        .proof(Proof::open())
        .business("chat")
        .build()
        .expect("a client");
    timeout(PATIENCE, client.connect()).await.expect("in time").expect("connected");
    let holds = |nodes: &Value| {
        let all = nodes.as_array().expect("a list").iter();
        let mut node = all.filter(|node| node["connections"] == 1).map(|node| node["node"].clone());
        node.next_back()
    };
    let listed = cluster.until(&["node", "list"], |nodes| holds(nodes).is_some()).await;
    let first = holds(&listed).expect("one has it").as_str().expect("a name").to_owned();

    let said = cluster.operate(&["node", "drain", &first, "--rate", "100/s", "--wait"]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.json()["done"].as_str().expect("a sentence").contains(&first));
    assert!(said.err.contains(&first), "progress is told: {}", said.err);
    let is_elsewhere = |nodes: &Value| holds(nodes).is_some_and(|node| node != first.as_str());
    let listed = cluster.until(&["node", "list"], is_elsewhere).await;
    let of = |nodes: &Value, field: &str| {
        let all = nodes.as_array().expect("a list");
        all.iter().find(|node| node["node"] == first.as_str()).expect("it is there")[field].clone()
    };
    assert_eq!((of(&listed, "draining"), of(&listed, "connections")), (json!(true), json!(0)));
    assert_eq!(of(&listed, "drain")["per_second"], 100);

    cluster.done(&["node", "undrain", &first]).await;
    cluster.until(&["node", "list"], |nodes| of(nodes, "draining") == json!(false)).await;
    let said = cluster.operate(&["node", "undrain", &first]).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    let said = cluster.operate(&["node", "drain", "nobody", "--wait"]).await;
    assert!(said.code == Some(1) && said.err.contains("not_found"), "{}", said.err);
    client.close().await;
    cluster.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_died_is_never_called_drained() {
    let mut cluster = Cluster::start_with("node_freshness = \"3s\"\n");
    let fresh = |nodes: &Value| nodes.as_array().is_some_and(|all| all.len() == 2);
    cluster.until(&["node", "list"], fresh).await;
    // Killed, as its machine would be.
    drop(cluster.services.remove(0));
    let said = cluster.operate(&["node", "drain", "a1", "--wait"]).await;
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    assert!(said.err.contains("a1 has fallen silent"), "{}", said.err);
    let said = cluster.operate(&["node", "drain", "a1"]).await;
    assert_eq!((said.code, &said.json()["fresh"]), (Some(0), &json!(false)), "{}", said.err);
    assert!(said.err.contains("a1 is silent"), "{}", said.err);

    cluster.done(&["app", "create", "shop", "--proof", "hmac"]).await;
    let said = cluster.operate(&["token", "issue", "--app", "shop", "--device", "phone-1"]).await;
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("allow_open_access") && said.err.contains("app update shop"));
    cluster.end();
}
