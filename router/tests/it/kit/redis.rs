//! A Redis server of the test's own, and routers that share it.

use super::control::FakeControl;
use super::store::Faulty;
use super::{Client, PATIENCE, router};
use hawser_chassis::secret::Secret;
use hawser_proto::rpc::push::push_client::PushClient;
use hawser_router::{Config, Running, StoreConfig};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The server's program, or a reason to skip.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("REDIS_SERVER").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("redis-server")).find(|it| it.is_file())
    });
    if found.is_none() {
        let missing = "redis-server is missing: install it (Debian: apt-get install redis-server), \
                       or name it in REDIS_SERVER";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
        eprintln!("SKIPPED, {missing}");
    }
    found
}

/// One server process that ends with the value.
pub struct Redis {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Redis {
    fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let child = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server");
        let redis = Self { child, port, _folder: folder };
        let end = Instant::now() + PATIENCE;
        while redis.ping().is_err() {
            assert!(Instant::now() < end, "the server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(redis)
    }

    fn ping(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(b"PING\r\n")?;
        stream.read_exact(&mut [0; 7])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of several routers.
pub struct Member {
    pub router: Running,
    pub registry: prometheus::Registry,
    pub store: Arc<Faulty>,
    _folder: TempDir,
}

impl Member {
    pub fn internal(&self) -> String {
        format!("http://{}", self.router.internal_addr())
    }

    pub async fn client(&self) -> Client {
        let uri = format!("http://{}", self.router.push_addr());
        PushClient::connect(uri).await.expect("the push API listens")
    }

    pub async fn complete(&self) {
        super::complete(&self.registry).await;
    }
}

/// Routers on one store.
pub struct Cluster {
    pub control: FakeControl,
    pub first: Member,
    pub second: Member,
    pub redis: Redis,
}

impl Cluster {
    /// Two routers that do everything. `None`: there is no server to share.
    pub async fn start() -> Option<Self> {
        Self::with(|_, _| {}).await
    }

    /// The same, each configured in another way.
    pub async fn with(configure: impl Fn(usize, &mut Config)) -> Option<Self> {
        let redis = Redis::start()?;
        let control = FakeControl::start().await;
        let first = member(&control, &redis, |config| configure(1, config)).await;
        let second = member(&control, &redis, |config| configure(2, config)).await;
        Some(Self { control, first, second, redis })
    }

    /// One router more, on the same store.
    pub async fn another(&self) -> Member {
        member(&self.control, &self.redis, |config| "router-3".clone_into(&mut config.name)).await
    }
}

async fn member(
    control: &FakeControl,
    redis: &Redis,
    configure: impl FnOnce(&mut Config),
) -> Member {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let registry = prometheus::Registry::new();
    let url = Secret::new(&format!("redis://127.0.0.1:{}/0", redis.port));
    let (router, store) = router(control, folder.path(), &registry, |config| {
        config.store = StoreConfig::RedisSingle { url };
        config.store_call_timeout = Duration::from_secs(1);
        configure(config);
    })
    .await;
    Member { router, registry, store, _folder: folder }
}
