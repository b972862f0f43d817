//! What an access node is told at start. Every bound of the node stands here, with its reason.

use crate::curse::Curse;
use hawser_chassis::callback::Callbacks;
use hawser_chassis::peers::Peers;
use hawser_chassis::tls::Certificate;
use hawser_proto::id::NodeId;
use hawser_proto::limits;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one access node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node, unique in the cluster.
    pub node: NodeId,
    /// Name of the cluster of access nodes this one belongs to.
    pub cluster: String,
    /// Where it stands; control's placement may ask for it.
    pub region: String,
    /// Whose network it stands in; control's placement may ask for it.
    pub carrier: String,
    /// Control's internal port, `http://host:port`, or `https` with certificates.
    pub control: String,
    /// The routers' internal ports: each `http://host:port` (or `https`), or `dns:http://name:port`, which
    /// stands for all addresses of the name, looked up again every 15 s.
    pub routers: Vec<String>,
    /// How control and routers are dialled.
    pub peers: Peers,
    /// Which addresses may be called for businesses: those of the internet only, unless more are allowed.
    pub callbacks: Callbacks,
    /// Shown to devices on TLS, QUIC and secure WebSocket. Needed when there is such a listener.
    pub certificate: Option<Certificate>,
    /// Host that devices are told to dial; `None`: the address each listener is bound to.
    pub advertised_host: Option<String>,
    /// Name the certificate is checked against by devices.
    pub server_name: String,
    /// Connections held at once; each costs about 1.5 KiB here and 5 KiB in the kernel.
    pub connections_max: u32,
    /// Share of `connections_max` that may not have logged in yet, in percent. More would let
    /// strangers fill the node.
    pub unauthenticated_percent_max: u32,
    /// Connections taken in per second, and at once; others are refused before any work is done for
    /// them. A handshake costs a core about half a millisecond, and those who are here come first.
    pub accepts_per_second: u32,
    /// Logins that may fail at once from one address (IPv4, or an IPv6 /64), before it is refused. Good
    /// logins are not counted: a carrier puts thousands of devices behind one address.
    pub failed_logins_max: u32,
    /// One more may fail each time this has passed.
    pub failed_login_interval: Duration,
    /// Addresses whose failed logins are remembered; each costs about 50 bytes.
    pub failed_login_addresses_max: usize,
    /// Workers of the downlink task group; 0: one per core.
    pub lanes: usize,
    /// Messages that may wait for one lane. A lane works off thousands a second; more waiting than
    /// this means it is stuck behind fan-outs, and pushes are better reported as dropped.
    pub lane_queue_max: usize,
    /// Idle deadlines are seen this much later at the most.
    pub wheel_tick: Duration,
    /// Deadline of one TLS or QUIC handshake.
    pub handshake_timeout: Duration,
    /// Deadline of one WebSocket upgrade.
    pub upgrade_timeout: Duration,
    /// From the link being ready to a whole LOGIN frame.
    pub first_frame_timeout: Duration,
    /// From accept to LOGIN_OK.
    pub login_timeout: Duration,
    /// Advice to devices, unless their app says otherwise.
    pub heartbeat: Duration,
    /// Silence after which a session is closed, unless its app says otherwise.
    pub idle_timeout: Duration,
    /// How long a link may take no byte while some are waiting.
    pub write_timeout: Duration,
    /// One call to a router.
    pub router_call_timeout: Duration,
    /// After a wake-up may have been lost, all sessions are asked for what waits for them within this time.
    pub sweep_within: Duration,
    /// And, whether anything was lost or not, once within this one.
    pub sweep_interval: Duration,
    /// Sessions that the store has forgotten are announced at this rate: losing the store must not be a
    /// storm of logins.
    pub announcements_per_second: u32,
    /// Sessions told to go a second when this node drains by itself. What is lost here comes to the other
    /// nodes as logins: the sum of what they take (`accepts_per_second`) bounds it.
    pub drain_per_second: u32,
    /// How long a device that was told to go has to be elsewhere; zero: nobody is told, each is closed when
    /// its turn comes.
    pub go_away_deadline: Duration,
    /// What the process that runs this node will pass to `Running::shutdown`. The connections there are compared
    /// with it now and then: more than can go at the rate within it would be a storm at every restart.
    pub patience: Duration,
    /// Where the last catalogue is kept, so that a start while control is away knows it; `None`: nowhere.
    pub data_dir: Option<PathBuf>,
    /// How long the end of a connection may take: the last bytes out, the peer's end seen.
    pub linger: Duration,
    /// Kernel send buffer of one connection, in bytes (the kernel doubles it). Without it the bound
    /// on what one slow device holds would be fiction.
    pub send_buffer_bytes: usize,
    /// Which of the last-moment checks are on. All of them, but for the test that proves each.
    #[doc(hidden)]
    pub guards: Guards,
    /// Where to panic: nowhere, but in the tests of what follows.
    #[doc(hidden)]
    pub curse: Curse,
}

/// The checks of a push against the connection in its slot, at the last moment before the write.
#[derive(Clone, Copy, Debug)]
#[doc(hidden)]
pub struct Guards {
    /// The push names this process's boot id.
    pub boot: bool,
    /// The push names the slot's present generation.
    pub generation: bool,
    /// The push names the app and device of the session.
    pub identity: bool,
    /// The push names the session's epoch.
    pub epoch: bool,
}

impl Guards {
    /// Everything on.
    pub const ALL: Self = Self { boot: true, generation: true, identity: true, epoch: true };
}

impl Config {
    /// Defaults for everything but names, addresses, and how services know each other.
    pub fn new(node: NodeId, control: &str, routers: &[String], peers: Peers) -> Self {
        Self {
            node,
            cluster: "default".into(),
            region: String::new(),
            carrier: String::new(),
            control: control.to_owned(),
            routers: routers.to_vec(),
            peers,
            callbacks: Callbacks::public(),
            certificate: None,
            advertised_host: None,
            server_name: "localhost".into(),
            connections_max: 200_000,
            unauthenticated_percent_max: 20,
            accepts_per_second: 1_500,
            failed_logins_max: 40,
            failed_login_interval: Duration::from_millis(50),
            failed_login_addresses_max: 65_536,
            lanes: 0,
            lane_queue_max: 4_096,
            wheel_tick: Duration::from_millis(250),
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            upgrade_timeout: limits::UPGRADE_TIMEOUT,
            first_frame_timeout: limits::FIRST_FRAME_TIMEOUT,
            login_timeout: limits::LOGIN_TIMEOUT,
            heartbeat: limits::HEARTBEAT,
            idle_timeout: limits::IDLE_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
            router_call_timeout: limits::NODE_CALL_TIMEOUT,
            sweep_within: limits::SWEEP_WITHIN,
            sweep_interval: Duration::from_mins(10),
            announcements_per_second: 500,
            drain_per_second: limits::DRAIN_PER_SECOND_DEFAULT,
            go_away_deadline: limits::GO_AWAY_DEADLINE,
            patience: Duration::from_secs(50),
            data_dir: None,
            linger: Duration::from_secs(1),
            send_buffer_bytes: 64 * 1024,
            guards: Guards::ALL,
            curse: Curse::default(),
        }
    }
}
