//! `hawser dev`: the three services in one process, with a demo app, a demo business and a demo page.
//! The services are started as everywhere else; there is no second code path for one machine.

mod chat;
mod demo;
mod page;
mod ports;
mod secrets;

use crate::admin;
use crate::bind;
use crate::credentials::write_private;
use crate::failure::{Failure, Outcome, chain};
use crate::output::Output;
use crate::push_api::PushApi;
use crate::role::store::{Store, StoreArg};
use chat::Chat;
use clap::Args;
use demo::{APP, BUSINESS, GROUP};
use hawser_chassis::admin::{Readiness, routes};
use hawser_chassis::callback::Callbacks;
use hawser_chassis::private;
use hawser_chassis::shutdown::{Tasks, terminated};
use hawser_chassis::telemetry::{self, LogFormat};
use hawser_chassis::tls::{Certificate, DevCertificates};
use hawser_proto::id::NodeId;
use ports::{Addresses, Ports, Sockets};
use prometheus::Registry;
use secrets::Secrets;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// How long each service may take to end: above the longest time that control gives to a request which is
/// still on its way in.
const PATIENCE: Duration = Duration::from_secs(12);
/// A new signing key is known everywhere at once when everything is here.
const SIGNING_ACTIVATION_DELAY: Duration = Duration::from_secs(1);
/// Load tests come from this machine too, all at once.
const ACCEPTS_PER_SECOND: u32 = 20_000;
/// Whoever waits for the end of this process waits for nothing else.
const DRAIN_PER_SECOND: u32 = 100_000;
/// Whoever writes a client fails more often than any device, and all from one address.
const FAILED_LOGINS_MAX: u32 = 100_000;
/// There are few devices to spread.
const RECONNECT_WINDOW: Duration = Duration::from_secs(1);

/// Arguments of `hawser dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    store: StoreArg,
    /// What to log, in the form of RUST_LOG
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log: String,
}

/// Runs until the process is told to stop.
pub(crate) async fn run(output: Output, data_dir: &Path, args: DevArgs) -> Outcome {
    telemetry::init(&args.log, LogFormat::Text);
    private::from_now_on();
    private::data_folder(data_dir).map_err(|failure| {
        Failure::usage(format!("cannot make {}: {failure}", data_dir.display()))
    })?;
    let sockets = args.ports.bind()?;
    let store = args.store.read()?.unwrap_or(Store::Embedded);
    // Boxed: three services begin in it.
    let house = Box::pin(House::start(data_dir, sockets, store)).await?;
    let end = terminated();
    house.announce(output, data_dir)?;
    end.await;
    house.shutdown().await
}

/// Everything that runs.
struct House {
    control: hawser_control::Running,
    router: hawser_router::Running,
    access: hawser_access::Running,
    /// The small servers beside the services.
    tasks: Tasks,
    readiness: Readiness,
    addresses: Addresses,
}

impl House {
    async fn start(data_dir: &Path, sockets: Sockets, store: Store) -> Outcome<Self> {
        let secrets = Secrets::load_or_make(data_dir)?;
        let tls = DevCertificates::load_or_make(&data_dir.join("tls"))
            .map_err(|failure| Failure::usage(chain(&failure)))?;
        let certificate = Certificate::load(&tls.chain, &tls.key)
            .map_err(|failure| Failure::usage(chain(&failure)))?;
        let addresses = Addresses::of(&sockets, tls.ca.display().to_string())?;
        let control_internal = format!("http://{}", bind::address(&sockets.control_internal)?);
        let router_internal = format!("http://{}", bind::address(&sockets.router_internal)?);
        let endpoint = format!("http://{}", bind::address(&sockets.business)?);
        let (registry, readiness, tasks) =
            (telemetry::registry(), Readiness::default(), Tasks::new());
        let admin_routes = routes(registry.clone(), readiness.clone());
        admin::serve(&tasks, "admin", sockets.admin, admin_routes);
        admin::serve(
            &tasks,
            "demo page",
            sockets.page,
            page::routes(&addresses, &invocation(data_dir)),
        );
        let (key_holder, push) = watch::channel::<Option<PushApi>>(None);
        Chat::new(push, GROUP).serve(&tasks, sockets.business);

        let listeners =
            hawser_control::Listeners { http: sockets.control, internal: sockets.control_internal };
        let control = start_control(data_dir, &addresses, &secrets, listeners, &registry).await?;
        let listeners =
            hawser_router::Listeners { push: sockets.push, internal: sockets.router_internal };
        let router =
            start_router(data_dir, &control_internal, &secrets, store, listeners, &registry)
                .await?;
        let listeners = hawser_access::Listeners {
            tcp: vec![sockets.tcp],
            tls: vec![sockets.tls],
            ws: vec![sockets.ws],
            wss: vec![sockets.wss],
            quic: vec![sockets.quic],
        };
        let mut config = hawser_access::Config::new(
            NodeId::new("dev").map_err(Failure::usage)?,
            &control_internal,
            &[router_internal],
            secrets.peers.clone(),
        );
        config.certificate = Some(certificate);
        config.callbacks = Callbacks::any();
        config.accepts_per_second = ACCEPTS_PER_SECOND;
        config.failed_logins_max = FAILED_LOGINS_MAX;
        // There is no other node to go to.
        config.go_away_deadline = Duration::ZERO;
        config.drain_per_second = DRAIN_PER_SECOND;
        config.patience = PATIENCE;
        let access = hawser_access::start(config, listeners, &registry)
            .await
            .map_err(|failure| cannot_start("access", &failure))?;

        let house = Self { control, router, access, tasks, readiness, addresses };
        match house.furnish(&secrets, &endpoint, data_dir, &key_holder).await {
            Ok(()) => Ok(house),
            Err(failure) => {
                // What was started is ended properly; the first failure is the one to tell.
                let _ = house.shutdown().await;
                Err(failure)
            }
        }
    }

    /// The demo app, its business, its key and its group.
    async fn furnish(
        &self,
        secrets: &Secrets,
        endpoint: &str,
        data_dir: &Path,
        key_holder: &watch::Sender<Option<PushApi>>,
    ) -> Outcome {
        let key = demo::seed(&self.addresses, &secrets.admin_token, endpoint, data_dir).await?;
        let push = demo::open_lobby(&self.addresses, &key).await?;
        key_holder.send_replace(Some(push));
        demo::until_devices_can_come(&self.addresses).await
    }

    fn announce(&self, output: Output, data_dir: &Path) -> Outcome {
        let at = &self.addresses;
        let told = serde_json::to_value(at).map_err(Failure::usage)?;
        write_private(&data_dir.join("dev.json"), format!("{told:#}\n").as_bytes())?;
        self.readiness.set(true);
        if output.json {
            // One line, so that whoever started this can read it and go on.
            println!("{told}");
            return Ok(());
        }
        let page = format!("{}/?device=web-1", at.page);
        let hawser = invocation(data_dir);
        println!("hawser runs; everything is in {}", data_dir.display());
        println!();
        println!("  control     {}", at.control);
        println!("  push API    {} (gRPC)", at.push);
        println!("  devices     tcp {}, tls {}, quic {}", at.tcp, at.tls, at.quic);
        println!("              {}, {}", at.ws, at.wss);
        println!("  metrics     {}/metrics", at.admin);
        println!();
        println!("Next: open {page}");
        println!("and in another terminal type");
        println!();
        println!("  {hawser} push unicast --app {APP} --device web-1 \"hello\"");
        println!("  {hawser} push multicast --app {APP} --group {GROUP} \"hello everyone\"");
        println!("  {hawser} business show {BUSINESS} --app {APP}");
        println!();
        println!("Ctrl-C ends it.");
        Ok(())
    }

    /// Ends everything, the outermost first: devices, then routes, then the catalogue.
    async fn shutdown(self) -> Outcome {
        self.readiness.set(false);
        let access = self.access.shutdown(PATIENCE).await;
        let router = self.router.shutdown(PATIENCE).await;
        let control = self.control.shutdown(PATIENCE).await;
        let beside = self.tasks.shutdown(PATIENCE).await;
        let late: Vec<&str> = [
            (access, "access"),
            (router, "router"),
            (control, "control"),
            (beside, "the page and the demo business"),
        ]
        .into_iter()
        .filter_map(|(ended, name)| (!ended).then_some(name))
        .collect();
        if late.is_empty() {
            return Ok(());
        }
        Err(Failure::not_done(format!("did not end in time: {}", late.join(", "))))
    }
}

async fn start_control(
    data_dir: &Path,
    at: &Addresses,
    secrets: &Secrets,
    listeners: hawser_control::Listeners,
    registry: &Registry,
) -> Outcome<hawser_control::Running> {
    let mut config = hawser_control::Config::new(
        data_dir.join("control"),
        secrets.admin_token.clone(),
        secrets.peers.clone(),
        secrets.master_key.clone(),
    );
    config.public_url = Some(at.control.clone());
    config.allow_open_access = true;
    config.signing_activation_delay = SIGNING_ACTIVATION_DELAY;
    config.reconnect_window = RECONNECT_WINDOW;
    hawser_control::start(config, listeners, registry)
        .await
        .map_err(|failure| cannot_start("control", &failure))
}

async fn start_router(
    data_dir: &Path,
    control: &str,
    secrets: &Secrets,
    store: Store,
    listeners: hawser_router::Listeners,
    registry: &Registry,
) -> Outcome<hawser_router::Running> {
    let mut config =
        hawser_router::Config::new("dev", data_dir.join("router"), control, secrets.peers.clone());
    config.store = store.into();
    config.callbacks = Callbacks::any();
    // There is no router of an older release beside this one.
    config.store_compressed = true;
    hawser_router::start(config, listeners, registry)
        .await
        .map_err(|failure| cannot_start("router", &failure))
}

/// How to call this binary from another terminal in the same folder, over the same data.
fn invocation(data_dir: &Path) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "hawser".to_owned());
    if data_dir == Path::new(crate::cli::DATA_DIR_DEFAULT) {
        return program;
    }
    format!("{program} --data-dir {}", data_dir.display())
}

fn cannot_start(name: &str, failure: &dyn std::error::Error) -> Failure {
    Failure::unreachable(format!("{name} cannot start: {}", chain(failure)))
}
