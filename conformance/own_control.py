"""A control of our own, and an access node and a router that believe it: it signs whatever a test wants,
which the real one never would."""

import collections
import contextlib
import hashlib
import json
import pathlib
import queue
import secrets
import socket
import tempfile
import threading
import time
from concurrent import futures

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import house as houses
from hawser_wire import messages
from hawser_wire.access import b64

control = messages.control
SECRET = "a-cluster-secret-of-the-suite"
# What a device is given to be elsewhere.
GO_AWAY_SECONDS = 4


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(key: Ed25519PrivateKey, header: dict, claims: dict) -> str:
    """A compact JWT, with any header."""
    text = ".".join(b64(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{b64(key.sign(text.encode()))}"


class OwnControl(messages.control_grpc.ControlServicer):
    """hawser.control.v1 with one app, one business and a few signing keys."""

    def __init__(self, app: str, business: str, endpoints=()):
        self.app, self.business, self.endpoints = app, business, list(endpoints)
        # A key of the business, for the push API.
        self.business_key = f"hbk_{secrets.token_urlsafe(32)}"
        # Keys of resume tickets, by their number.
        self.ticket_keys = {7: secrets.token_bytes(32)}
        # What each node is told in answer to its reports.
        self.orders: dict[str, control.ReportResponse] = {}
        self.last_report: dict[str, control.NodeReport] = {}
        self.reports_of: collections.Counter = collections.Counter()
        self.keys = {"good": Ed25519PrivateKey.generate(), "old": Ed25519PrivateKey.generate(), "early": Ed25519PrivateKey.generate()}
        self.refreshes = "grant"
        self.watchers: list[queue.Queue] = []
        self.lock = threading.Lock()
        self.reports = 0
        self.revision = 1
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        messages.control_grpc.add_ControlServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def snapshot(self):
        now = int(time.time() * 1000)
        until = {"good": 0, "old": now - 120_000, "early": 0}
        after = {"good": 0, "old": 0, "early": now + 3_600_000}
        return control.Snapshot(
            apps=[control.App(app=self.app, enabled=True, allowed_origins=["*"], heartbeat_ms=25_000, idle_timeout_ms=35_000, frame_bytes_max=65_536)],
            businesses=[control.Business(app=self.app, business=self.business, number=1, request_timeout_ms=5000, expected_requests_per_second=100,
                                         enabled=True, endpoints=self.endpoints)],
            keys=[control.BusinessKey(sha256=hashlib.sha256(self.business_key.encode()).digest(), key_id="k", app=self.app, business=self.business,
                                      scopes=[control.SCOPE_PUSH, control.SCOPE_GROUP, control.SCOPE_PRESENCE, control.SCOPE_ADMIN])],
            ticket_keys=[control.TicketKey(kid=kid, key=key, active_from_ms=1, verify_until_ms=0) for kid, key in self.ticket_keys.items()],
            signing_keys=[control.SigningKey(kid=kid, public_key=public(key), active_from_ms=after[kid], verify_until_ms=until[kid])
                          for kid, key in self.keys.items()],
        )

    def Watch(self, request, context):  # noqa: N802
        changes: queue.Queue = queue.Queue()
        with self.lock:
            self.watchers.append(changes)
            yield control.Update(revision=self.revision, snapshot=self.snapshot())
        context.add_callback(lambda: changes.put(None))
        while (change := changes.get()) is not None:
            yield change

    def change(self, **entity) -> None:
        with self.lock:
            self.revision += 1
            for changes in self.watchers:
                changes.put(control.Update(revision=self.revision, change=control.Change(**entity)))

    def Report(self, request, context):  # noqa: N802
        self.reports += 1
        self.last_report[request.node] = request
        self.reports_of[request.node] += 1
        answer = control.ReportResponse(next_report_ms=250)
        if request.node in self.orders:
            answer.MergeFrom(self.orders[request.node])
        return answer

    def ReportRouter(self, request, context):  # noqa: N802
        return control.RouterReportResponse(next_report_ms=500)

    def RefreshToken(self, request, context):  # noqa: N802
        if self.refreshes != "grant":
            context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        now = int(time.time())
        token = self.token(request.device, exp=now + 3600)
        return control.RefreshTokenResponse(token=token, issued_at_ms=now * 1000, refresh_at_ms=(now + 2700) * 1000, expires_at_ms=(now + 3600) * 1000)

    def token(self, device: str, kid: str = "good", key: Ed25519PrivateKey | None = None, header: dict | None = None, **claims) -> str:
        """A token as the page wants it, but for what is named. None leaves a claim out."""
        now = int(time.time())
        claims = {"iss": "hawser-control", "aud": "hawser-access", "sub": device, "app": self.app, "jti": f"t-{time.monotonic_ns()}",
                  "iat": now, "exp": now + 3600} | claims
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"typ": "JWT", "alg": "EdDSA", "kid": kid} | (header or {})
        header = {name: value for name, value in header.items() if value is not None}
        return sign(key or self.keys.get(kid) or self.keys["good"], header, claims)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Cluster:
    """Where the processes listen."""

    def __init__(self, folder: pathlib.Path, own: OwnControl, nodes: int):
        self.own = own
        self.nodes = [f"a{number + 1}" for number in range(nodes)]
        self.ports = {name: free_port() for name in ("push", "internal", "router_admin")}
        self.of_node = {node: {name: free_port() for name in ("tcp", "ws", "admin")} for node in self.nodes}
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        (folder / "router.toml").write_text(f"""
name = "r1"
push_listen = "{at['push']}"
internal_listen = "{at['internal']}"
data_dir = "{folder}/router"
control = "http://127.0.0.1:{own.port}"
cluster_secret = "env:HAWSER_CLUSTER_SECRET"
callbacks = "any"
[admin]
listen = "{at['router_admin']}"
log = "warn"
""", encoding="utf-8")
        for node in self.nodes:
            of_node = {name: f"127.0.0.1:{port}" for name, port in self.of_node[node].items()}
            (folder / f"access-{node}.toml").write_text(f"""
node = "{node}"
control = "http://127.0.0.1:{own.port}"
routers = ["http://{at['internal']}"]
cluster_secret = "env:HAWSER_CLUSTER_SECRET"
# The tests fail far more often than any device, all from one address.
accepts_per_second = 20000
failed_logins_max = 100000
callbacks = "any"
[drain]
go_away_deadline = "{GO_AWAY_SECONDS}s"
[listen]
tcp = ["{of_node['tcp']}"]
ws = ["{of_node['ws']}"]
[admin]
listen = "{of_node['admin']}"
log = "warn"
""", encoding="utf-8")

    def point(self, protocol: str, node: str = "a1") -> dict:
        return {"protocol": protocol, "host": "127.0.0.1", "port": self.of_node[node][protocol], "node": node}

    @property
    def push(self) -> str:
        return f"http://127.0.0.1:{self.ports['push']}"

    def metrics(self, node: str) -> dict[str, float]:
        return houses.read_metrics(f"http://127.0.0.1:{self.of_node[node]['admin']}")


@contextlib.contextmanager
def cluster(app: str, business: str, nodes: int = 1, endpoints=()):
    """Access nodes and a router as processes of their own, under a control of ours."""
    own = OwnControl(app, business, endpoints)
    with tempfile.TemporaryDirectory(prefix="hawser-conformance-") as folder:
        folder = pathlib.Path(folder)
        made = Cluster(folder, own, nodes)
        processes = []
        try:
            for role, name in [("router", "router"), *(("access", f"access-{node}") for node in made.nodes)]:
                arguments = [role, "--config", str(folder / f"{name}.toml")]
                processes.append(houses.Process(arguments, folder / f"{name}.log", HAWSER_CLUSTER_SECRET=SECRET))

            def ready():
                for process in processes:
                    if not process.alive():
                        raise RuntimeError(process.log.read_text(encoding="utf-8")[-2000:])
                return len(own.last_report) == nodes and len(own.watchers) >= 1 + nodes

            houses.until(ready, 20, "access nodes and a router to find our control")
            made.processes = dict(zip(["router", *made.nodes], processes))
            yield made
        finally:
            codes = [process.stop() for process in reversed(processes)]
            own.server.stop(None)
        assert [process.complaints() for process in processes] == [[]] * len(processes)
        assert codes == [0] * len(processes)
