//! Servers of the tests' own, and pushes to them.

use crate::config::StoreConfig;
use crate::inbox::{Appended, Caps, Claimed, Limits, Login, NewEntry, Owner, Priority, Session};
use crate::key::Key;
use crate::store::redis::{Redis, Refusal};
use crate::store::{Durability, Store, StoreError};
use bytes::Bytes;
use hawser_chassis::secret::Secret;
use hawser_proto::id::{AppId, BootId, BusinessNo, NodeId, Position, SlotRef};
use prometheus::Registry;
use redis::aio::MultiplexedConnection;
use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(super) const CHAT: BusinessNo = BusinessNo(7);
/// An end for every wait of a test.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// As a router has it.
pub(super) const CALL: Duration = Duration::from_millis(500);

/// The server's program, or a reason to skip.
pub(super) fn program() -> Option<PathBuf> {
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

/// Whether the longer tests run, too.
pub(super) fn all() -> bool {
    let all = std::env::var_os("HAWSER_REDIS_ALL").is_some();
    if !all {
        eprintln!("SKIPPED: set HAWSER_REDIS_ALL=1 to run this");
    }
    all
}

/// One server process and its folder.
pub(super) struct Process {
    child: Option<Child>,
    pub(super) port: u16,
    folder: TempDir,
    program: PathBuf,
    arguments: Vec<String>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Process {
    /// Starts a server with these settings. `None`: there is no program.
    pub(super) async fn start(settings: &[&str]) -> Option<Self> {
        let program = program()?;
        let mut process = Self {
            child: None,
            port: free_port(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            program,
            arguments: settings.iter().map(|&it| it.to_owned()).collect(),
        };
        process.begin().await;
        Some(process)
    }

    /// A sentinel that watches a primary. `None`: there is no program.
    pub(super) async fn sentinel(name: &str, primary: u16, quorum: usize) -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor {name} 127.0.0.1 {primary} {quorum}\n\
             sentinel down-after-milliseconds {name} 600\n\
             sentinel failover-timeout {name} 3000\n"
        );
        fs::write(&file, text).expect("a file");
        let arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        let mut process = Self { child: None, port: free_port(), folder, program, arguments };
        process.begin().await;
        Some(process)
    }

    /// Starts it, again on what it kept.
    pub(super) async fn begin(&mut self) {
        let is_sentinel = self.arguments.iter().any(|it| it == "--sentinel");
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg("--port").arg(self.port.to_string());
        command.args(["--bind", "127.0.0.1", "--enable-debug-command", "yes"]);
        command.arg("--dir").arg(self.folder.path());
        if !is_sentinel {
            command.args(["--save", ""]);
        }
        if self.arguments.iter().any(|it| it == "--cluster-enabled") {
            // Not ten thousand above, which may be no port at all.
            let bus = self.folder.path().join("bus");
            let port = fs::read_to_string(&bus).unwrap_or_else(|_| free_port().to_string());
            fs::write(&bus, &port).expect("a file");
            command.args(["--cluster-port", &port]);
        }
        let log = fs::File::create(self.folder.path().join("log")).expect("a file");
        self.child = Some(command.stdout(log).stderr(Stdio::null()).spawn().expect("a server"));
        let end = Instant::now() + PATIENCE;
        // Anything that is said will do, also that a password is wanted.
        let is_early = |why: redis::RedisError| why.is_io_error() || why.code() == Some("LOADING");
        while self.try_ask(&["PING"]).await.is_err_and(is_early) {
            assert!(Instant::now() < end, "the server does not answer\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal, by name.
    pub(super) fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("a running server").id().to_string();
        let done = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(done.expect("kill").success());
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(super) fn single(&self) -> StoreConfig {
        StoreConfig::RedisSingle { url: Secret::new(&format!("redis://{}/0", self.address())) }
    }

    /// Connects and asks.
    pub(super) async fn try_ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(format!("redis://{}/", self.address()))?;
        let mut connection: MultiplexedConnection =
            client.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    }

    /// The same, and it must go well; as text.
    pub(super) async fn ask(&self, words: &[&str]) -> String {
        let answer = self.try_ask(words).await;
        let answer = answer.unwrap_or_else(|why| panic!("{words:?}: {why}\n{}", self.log()));
        text(&answer)
    }

    /// One line of INFO; nothing while it cannot be asked.
    pub(super) async fn info(&self, name: &str) -> String {
        let info = self.try_ask(&["INFO"]).await.map(|info| text(&info)).unwrap_or_default();
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_default().trim_end().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) | redis::Value::VerbatimString { text, .. } => {
            text.clone()
        }
        redis::Value::Int(number) => number.to_string(),
        redis::Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}

/// Waits, but not for ever.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn try_open(config: &StoreConfig) -> Result<Redis, Refusal> {
    let store = Redis::open(config, CALL, &Registry::new()).await?;
    Ok(store.expect("a place of Redis"))
}

pub(super) async fn open(config: &StoreConfig) -> Redis {
    try_open(config).await.unwrap_or_else(|why| panic!("{why}"))
}

/// With patience for a machine that is busy: for tests of answers, not of times.
pub(super) async fn open_patiently(config: &StoreConfig) -> Redis {
    let store = Redis::open(config, PATIENCE, &Registry::new()).await;
    store.unwrap_or_else(|why| panic!("{why}")).expect("a place of Redis")
}

pub(super) fn device(id: &str) -> Key {
    Key::device(&AppId::new("demo").expect("a name"), id).expect("an id")
}

pub(super) fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64
}

pub(super) fn entry(id: &str) -> NewEntry {
    NewEntry {
        push_id: Bytes::copy_from_slice(id.as_bytes()),
        digest: 1,
        expires_at_ms: now_ms() + 3_600_000,
        collapse_key: Bytes::new(),
        priority: Priority::Normal,
        blob: Bytes::copy_from_slice(id.as_bytes()),
    }
}

pub(super) const CAPS: Caps =
    Caps { entries_max: 1_000_000, bytes_max: 1 << 30, drops_oldest: false };

/// Stores a push; where, and how durably.
pub(super) async fn push(
    store: &Redis,
    device: &Key,
    id: &str,
    durability: Option<Durability>,
) -> Result<(Position, Durability), StoreError> {
    let done = store.append(device, CHAT, entry(id), CAPS, durability, now_ms()).await?;
    match done {
        (Appended::Stored { position, .. } | Appended::Repeated { position }, reached) => {
            Ok((position, reached))
        }
        (other, _) => panic!("not stored: {other:?}"),
    }
}

/// Tries until it is stored.
pub(super) async fn push_until_stored(store: &Redis, device: &Key, id: &str) -> Position {
    let end = Instant::now() + PATIENCE;
    loop {
        match push(store, device, id, None).await {
            Ok((position, _)) => return position,
            Err(why) => assert!(Instant::now() < end, "{id} is not stored: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Takes the session over, and tells the ids of all that waits.
pub(super) async fn read(store: &Redis, device: &Key) -> Vec<(Position, String)> {
    let owner = Owner {
        node: NodeId::new("node").expect("a name"),
        boot: BootId(1),
        at: SlotRef { slot: 1, generation: 1 },
    };
    let (instance, watchers) = (rand::random(), Vec::new());
    let login = Login { owner: owner.clone(), instance, attempt: 1, watchers };
    let claimed = store.claim(device, login, vec![], now_ms()).await.expect("a claim");
    let Claimed::Bound { epoch, .. } = claimed else { panic!("a stale claim") };
    let session = Session { owner, epoch };
    let limits = Limits { entries_max: 1_000_000, bytes_max: u32::MAX };
    let batch = store.fetch(device, &session, CHAT, Position::START, limits, now_ms()).await;
    let batch = batch.expect("a store").expect("the owner");
    let entry = |item: crate::inbox::Fetched| {
        let entry = item.entry?;
        Some((item.position, String::from_utf8(entry.blob.to_vec()).expect("text")))
    };
    batch.items.into_iter().filter_map(entry).collect()
}

/// What went well is there once; what is not known is there at most once; and nothing else is.
pub(super) fn judge(
    read: &[(Position, String)],
    stored: &[(Position, String)],
    sent: &HashSet<String>,
) {
    let mut seen = HashSet::new();
    for (_, id) in read {
        assert!(seen.insert(id), "{id} is there twice");
        assert!(sent.contains(id), "{id} was never sent");
    }
    for (position, id) in stored {
        let at = read.iter().find(|(_, of)| of == id).map(|(at, _)| *at);
        assert_eq!(at, Some(*position), "{id} is where it was said to be");
    }
    assert!(read.is_sorted(), "in order");
}
