"""Connections that never become a session: silent ones and slow ones, each within its deadline. They wait
side by side, so that the table takes as long as its longest row."""

import os
import queue
import socket
import ssl
import threading
import time

import pytest

from hawser_wire import device, frame, link, messages, page
from hawser_wire.device import PROTOCOLS
from world import World

wire = messages.wire
FIRST_FRAME = page.LIMIT["first_frame_timeout"]
HANDSHAKE = page.LIMIT["handshake_timeout"]
UPGRADE = page.LIMIT["upgrade_timeout"]
LOGIN = page.LIMIT["login_timeout"]
# Coarse clocks, and a machine with much to do.
SLACK = 2.0
TRICKLE_SECONDS = 0.1


def hello() -> bytes:
    """A true ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    made = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        made.do_handshake()
    return outgoing.read()


UPGRADE_REQUEST = (b"GET /a/rather/long/path?" + b"x" * 200 + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")


def trickle(send, data: bytes) -> None:
    """A byte now and then, until the other side has enough of it. The last one never comes."""
    for at in range(len(data) - 1):
        try:
            send(data[at : at + 1])
        except (OSError, link.LinkEnded):
            return
        time.sleep(TRICKLE_SECONDS)


def ended(bytes_: link.Bytes) -> str:
    """Reads until the end; what came before it."""
    got = b""
    while True:
        try:
            data = bytes_.recv(LOGIN + 5)
        except link.LinkEnded:
            return got
        assert data is not None, "nobody ends it"
        got += data


class Row:
    """One stranger: does its thing in a thread, and is asked how it ended, and after how long."""

    def __init__(self, world, act):
        self.outcome: queue.Queue = queue.Queue()
        threading.Thread(target=self._run, args=(world, act), daemon=True).start()

    def _run(self, world, act):
        began = time.monotonic()
        try:
            told = act(world)
        except BaseException as failure:
            told = failure
        self.outcome.put((told, time.monotonic() - began))

    def result(self):
        told, seconds = self.outcome.get(timeout=LOGIN + 10)
        if isinstance(told, BaseException):
            raise told
        return told, seconds


def address(world, protocol):
    point = world.ask("stranger").point(protocol)
    return point["host"], point["port"]


def silent(protocol):
    def act(world):
        made = world.link(protocol)
        told = made.wait_closed(LOGIN + 5)
        if told == "cut" and made.ended.code is not None:
            # QUIC without a stream: there is no way to send a frame, only a code.
            return page.CLOSE_NAME.get(made.ended.code, f"cut with {made.ended.code}")
        return told

    return act


def silent_socket(protocol):
    def act(world):
        raw = link.dial_tcp(*address(world, protocol))
        assert ended(raw) == b""
        return "cut"

    return act


def trickled_login(protocol):
    def act(world):
        made = world.link(protocol)
        login = frame.encode("LOGIN", made.login_params(made.access.token))
        if protocol in ("ws", "wss"):
            with made.link.lock:
                made.link.protocol.send_binary(login)
                login = b"".join(made.link.protocol.data_to_send())
            threading.Thread(target=trickle, args=(made.link.raw.send, login), daemon=True).start()
        else:
            threading.Thread(target=trickle, args=(made.link.send, login), daemon=True).start()
        told = made.wait_closed(LOGIN + 5)
        assert made.login_ok is None
        return told

    return act


def trickled_socket(protocol, data):
    def act(world):
        raw = link.dial_tcp(*address(world, protocol))
        threading.Thread(target=trickle, args=(raw.send, data), daemon=True).start()
        got = ended(raw)
        return "cut" if not got else got.split(b"\r\n")[0].decode("latin-1")

    return act


def trickled_upgrade_in_tls(world):
    point = world.ask("stranger").point("wss")
    raw = link.dial_tls(point["host"], point["port"], point["server_name"], world.house.ca, "http/1.1")
    threading.Thread(target=trickle, args=(raw.send, UPGRADE_REQUEST), daemon=True).start()
    got = ended(raw)
    return "cut" if not got else got.split(b"\r\n")[0].decode("latin-1")


def half_a_hello(world):
    raw = link.dial_tcp(*address(world, "tls"))
    raw.send(hello()[:100])
    return "cut" if not ended(raw) else "answered"


def websocket_pings_only(world):
    """Pings of the WebSocket are life, and no login."""
    made = world.link("ws")

    def ping():
        try:
            while True:
                made.link.ping(b"x")
                time.sleep(0.2)
        except (OSError, link.LinkEnded, Exception):
            pass

    threading.Thread(target=ping, daemon=True).start()
    return made.wait_closed(LOGIN + 5)


ROWS = {
    **{f"silent on {protocol}": (silent(protocol), {"login_timeout"}, FIRST_FRAME) for protocol in PROTOCOLS},
    **{f"trickles LOGIN on {protocol}": (trickled_login(protocol), {"login_timeout"}, FIRST_FRAME) for protocol in PROTOCOLS},
    "no TLS on tls": (silent_socket("tls"), {"cut"}, HANDSHAKE),
    "no TLS on wss": (silent_socket("wss"), {"cut"}, HANDSHAKE),
    "half a TLS hello": (half_a_hello, {"cut"}, HANDSHAKE),
    "trickles TLS": (trickled_socket("tls", hello()), {"cut"}, HANDSHAKE),
    "trickles TLS on wss": (trickled_socket("wss", hello()), {"cut"}, HANDSHAKE),
    "no upgrade on ws": (silent_socket("ws"), {"cut"}, UPGRADE),
    "trickles the upgrade": (trickled_socket("ws", UPGRADE_REQUEST), {"cut"}, UPGRADE),
    "trickles the upgrade in TLS": (trickled_upgrade_in_tls, {"cut"}, UPGRADE),
    "only WebSocket pings": (websocket_pings_only, {"login_timeout"}, FIRST_FRAME),
}


@pytest.fixture(scope="module")
def rows(stranger_world):
    return {name: Row(stranger_world, act) for name, (act, _, _) in ROWS.items()}


@pytest.fixture
def keep(stranger_world):
    """The rows share devices: nothing is released between them."""
    return stranger_world


@pytest.mark.parametrize("name", ROWS)
def test_who_never_logs_in_is_gone_in_time(rows, keep, name):
    _, codes, after = ROWS[name]
    told, seconds = rows[name].result()
    assert told in codes
    assert after - 0.3 <= seconds <= after + SLACK, f"after {seconds:.1f} s"


def test_a_crowd_of_silent_strangers_keeps_nobody_out(world):
    host, port = address(world, "tcp")
    crowd = [socket.create_connection((host, port), timeout=5) for _ in range(500)]
    try:
        began = time.monotonic()
        for protocol in PROTOCOLS:
            world.connect(protocol=protocol).ping(1)
        assert time.monotonic() - began < 3
        # They are told, then cut.
        crowd[-1].settimeout(FIRST_FRAME + SLACK + 1)
        [got] = frame.Reader("node", 4096).feed(crowd[-1].recv(4096))
        assert (got.name, device.close_name(got.params)) == ("CLOSE", "login_timeout")
        assert crowd[-1].recv(1) == b""
    finally:
        for sock in crowd:
            sock.close()


def test_a_stranger_may_come_in_at_the_last_moment(world):
    made = world.link()
    time.sleep(FIRST_FRAME - 0.8)
    made.login(made.access.token)


def test_a_session_that_stops_in_the_middle_of_a_frame_is_idle(house, control, backend):
    tenant = World(house, control, backend, heartbeat_ms=400, idle_timeout_ms=1200)
    for protocol in ("tcp", "ws"):
        made = tenant.connect(protocol=protocol, heartbeat=False)
        whole = frame.encode("REQUEST", wire.Request(request_id=1, business=1, method="echo"), os.urandom(1000))
        if protocol == "ws":
            made.link.protocol.send_binary(whole)
            whole = b"".join(made.link.protocol.data_to_send())
            made.link.raw.send(whole[:500])
        else:
            made.send_raw(whole[:500])
        assert made.wait_closed(5) == "idle_timeout"
    tenant.release()
