"""A device: WIRE.md, "States" and "Frames". One thread reads and sorts what comes; the calls wait for
their answers with a deadline."""

import os
import queue
import threading
import time

from . import frame, link, messages, page
from .access import Access
from .frame import Frame

wire = messages.wire
PROTOCOLS = ("tcp", "tls", "quic", "ws", "wss")
ANSWER_SECONDS = 10.0
_POLL_SECONDS = 0.05


class Closed(Exception):
    """The node closed with this code (or the link was cut: `cut`) while something else was awaited."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


def dial(protocol: str, point: dict, ca: str, origin: str | None = None):
    """A link to an access point."""
    host, port, name = point["host"], point["port"], point.get("server_name", "")
    url = f"{protocol}://{name or host}:{port}/"
    if protocol == "tcp":
        return link.dial_tcp(host, port)
    if protocol == "tls":
        return link.dial_tls(host, port, name, ca)
    if protocol == "quic":
        return link.Quic(host, port, name, ca)
    if protocol == "ws":
        return link.WebSocket(link.dial_tcp(host, port), url, origin)
    if protocol == "wss":
        return link.WebSocket(link.dial_tls(host, port, name, ca, "http/1.1"), url, origin)
    raise ValueError(protocol)


def close_name(params) -> str:
    return page.CLOSE_NAME.get(params.code, str(params.code))


class Device:
    """A device on a link. What no call waits for is kept: `pushes`, `notices` (what the node says unasked:
    JOINED, LEFT, GAP, MISSED, GROUP_RESET, GO_AWAY), and `frames`, everything in the order it came.

    It takes stored pushes as they come and acknowledges nothing by itself. With a `program` (see there)
    it follows the rules: what has a position, and what speaks of positions, goes to that. With a `mover`
    (see there) everything is offered to that first."""

    def __init__(self, to, app: str = "", device: str = "", instance: bytes | None = None, heartbeat: bool = True, program=None,
                 mover=None):
        self.link = to
        self.program = program
        self.mover = mover
        self.app = app
        self.device = device
        self.instance = instance or os.urandom(16)
        self.heartbeat = heartbeat
        self.heartbeat_s = page.LIMIT["heartbeat"]
        self.login_ok = None
        self.close_frame = None
        self.ended: link.LinkEnded | None = None
        self.broken: Exception | None = None
        self.frames: list[Frame] = []
        self.pushes: queue.Queue = queue.Queue()
        self.notices: queue.Queue = queue.Queue()
        self._answers: dict[tuple, Frame] = {}
        self._news = threading.Condition()
        self._last_sent = time.monotonic()
        self._next_id = 0
        self._reader = frame.Reader("node", int(page.LIMIT["login_frame_bytes_max"]))
        threading.Thread(target=self._read, name=f"device {device}", daemon=True).start()

    # What comes.

    def _read(self) -> None:
        try:
            while True:
                data = self.link.recv(_POLL_SECONDS)
                if data is None:
                    self._beat()
                if self.program is not None:
                    self.program.tick(self)
                if data is None:
                    continue
                if isinstance(self.link, link.WebSocket):
                    self._sort(self._reader.message(data))
                    continue
                # One frame may change the limit of the next.
                for got in self._reader.feed(data):
                    self._sort(got)
        except link.LinkEnded as ended:
            self.ended = ended
        except Exception as failure:  # a bad frame of a node, above all: the tests must hear of it
            self.broken = failure
            self.ended = link.LinkEnded(clean=False)
        self.link.close()
        if self.mover is not None:
            self.mover.ended(self)
        with self._news:
            self._news.notify_all()

    def _beat(self) -> None:
        if not self.heartbeat or self.login_ok is None or self.close_frame is not None:
            return
        if time.monotonic() - self._last_sent >= self.heartbeat_s:
            self.send("PING", wire.Ping(nonce=0))

    def _sort(self, got: Frame) -> None:
        with self._news:
            if self.close_frame is not None:
                raise AssertionError(f"{got.name} after CLOSE")
            self.frames.append(got)
            if got.name == "LOGIN_OK":
                assert self.login_ok is None, "LOGIN_OK comes once"
                self.login_ok = got.params
                if self.program is not None:
                    self.program.logged_in(self)
                self.heartbeat_s = got.params.heartbeat_ms / 1000
                self._reader.limit = got.params.frame_bytes_max
                self._reader.zstd = bool(got.params.abilities & page.ABILITY["ZSTD"])
            elif got.name == "CLOSE":
                self.close_frame = got.params
            elif self.mover is not None and self.mover.takes(self, got):
                pass
            elif self.program is not None and self.program.takes(self, got):
                pass
            elif got.name in ("PUSH", "GROUP_PUSH"):
                self.pushes.put(got)
            elif got.name in ("GAP", "MISSED", "GROUP_RESET", "GO_AWAY"):
                self.notices.put(got)
            elif got.name == "PONG":
                self._answers["PONG", got.params.nonce] = got
            elif got.name in ("JOINED", "LEFT") and got.params.request_id == 0:
                self.notices.put(got)
            elif got.name != "skipped":
                key = (got.name, got.params.request_id)
                assert key not in self._answers, f"two {got.name} to one request"
                self._answers[key] = got
            self._news.notify_all()

    def _await(self, ready, timeout: float, what: str):
        end = time.monotonic() + timeout
        with self._news:
            while True:
                found = ready()
                if found is not None:
                    return found
                if self.broken is not None:
                    raise self.broken
                if self.close_frame is not None:
                    raise Closed(close_name(self.close_frame))
                if self.ended is not None:
                    raise Closed("cut")
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"no {what} within {timeout} s")
                self._news.wait(left)

    def wait_closed(self, timeout: float = ANSWER_SECONDS) -> str:
        """The name of the code the node closes with, or `cut` when the link ends without CLOSE. Checks
        that the transport's own close, where it has one, carries the same number."""
        end = time.monotonic() + timeout
        with self._news:
            while self.ended is None:
                left = end - time.monotonic()
                if left <= 0:
                    told = close_name(self.close_frame) if self.close_frame else "nothing"
                    raise TimeoutError(f"the link goes on after {timeout} s; CLOSE told: {told}")
                self._news.wait(left)
        if self.broken is not None:
            raise self.broken
        if self.close_frame is None:
            return "cut"
        if self.ended.code is not None:
            assert self.ended.code == self.close_frame.code, "the transport tells another code than CLOSE"
        return close_name(self.close_frame)

    def close_frame_code(self, timeout: float = ANSWER_SECONDS) -> str:
        """Number and name, as the vectors write them."""
        name = self.wait_closed(timeout)
        return f"{page.CLOSE[name]} {name}"

    # What goes.

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are; on a WebSocket one binary message."""
        self._last_sent = time.monotonic()
        self.link.send(data)

    def send(self, name, params=None, body: bytes = b"", **wrong) -> None:
        self.send_raw(frame.encode(name, params, body, **wrong))

    def next_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def login_params(self, token: str, attempt: int = 1, businesses=(), **more):
        return wire.Login(app=self.app, device=self.device, token=token, instance=self.instance,
                          attempt=attempt, businesses=list(businesses), **more)

    def login(self, token: str, attempt: int = 1, businesses=(), **more):
        """LOGIN and its LOGIN_OK; raises Closed with the code of a refusal."""
        self.send("LOGIN", self.login_params(token, attempt, businesses, **more))
        return self.wait_login()

    def wait_login(self):
        return self._await(lambda: self.login_ok, page.LIMIT["login_timeout"] + 1, "LOGIN_OK")

    def number(self, business: str) -> int:
        """The number of a business that is served."""
        found = {entry.name: entry for entry in self.login_ok.businesses}[business]
        assert found.status == 0, page.ERROR_NAME.get(found.status)
        return found.number

    def answer(self, name: str, request_id: int, timeout: float = ANSWER_SECONDS) -> Frame:
        return self._await(lambda: self._answers.pop((name, request_id), None), timeout, name)

    def start_request(self, business: str | int, method: str, body: bytes = b"", **more) -> int:
        number = business if isinstance(business, int) else self.number(business)
        request_id = self.next_id()
        self.send("REQUEST", wire.Request(request_id=request_id, business=number, method=method, **more), body)
        return request_id

    def request(self, business: str | int, method: str, body: bytes = b"", **more) -> Frame:
        return self.answer("RESPONSE", self.start_request(business, method, body, **more))

    def join(self, group: str, last: tuple = (0, 0)):
        request_id = self.next_id()
        self.send("JOIN", wire.Join(request_id=request_id, group=group, last_term=last[0], last_seq=last[1]))
        return self.answer("JOINED", request_id).params

    def leave(self, group: str):
        request_id = self.next_id()
        self.send("LEAVE", wire.Leave(request_id=request_id, group=group))
        return self.answer("LEFT", request_id).params

    def ack(self, business: str | int, position: tuple) -> None:
        """All up to there was handled, whether that is true or not."""
        self.send("ACK", wire.Ack(inboxes=[self._at(business, position)]))

    def resync(self, business: str | int, after: tuple) -> None:
        self.send("RESYNC", wire.Resync(after=self._at(business, after)))

    def recover(self, group: str, last: tuple) -> None:
        self.send("RECOVER", wire.Recover(group=group, term=last[0], seq=last[1]))

    def _at(self, business: str | int, position: tuple):
        number = business if isinstance(business, int) else self.number(business)
        return wire.InboxPosition(business=number, term=position[0], seq=position[1])

    def refresh(self):
        request_id = self.next_id()
        self.send("REFRESH", wire.Refresh(request_id=request_id))
        return self.answer("REFRESHED", request_id).params

    def ping(self, nonce: int) -> None:
        self.send("PING", wire.Ping(nonce=nonce))
        self.pong(nonce)

    def pong(self, nonce: int) -> None:
        self._await(lambda: self._answers.pop(("PONG", nonce), None), ANSWER_SECONDS, "PONG")

    def bye(self) -> str:
        self.send("BYE", wire.Close())
        return self.wait_closed()

    def next_push(self, timeout: float = ANSWER_SECONDS) -> Frame:
        try:
            return self.pushes.get(timeout=timeout)
        except queue.Empty:
            state = close_name(self.close_frame) if self.close_frame else self.broken or "online"
            raise TimeoutError(f"no push for {self.device} within {timeout} s ({state})") from None

    def no_push(self) -> None:
        """Nothing has come: a PING goes there and back first, so what was written before is here."""
        self.ping(time.monotonic_ns())
        assert self.pushes.empty(), f"{self.device} got {self.pushes.queue[0]}"

    def next_notice(self, timeout: float = ANSWER_SECONDS) -> Frame:
        try:
            return self.notices.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no word for {self.device} within {timeout} s") from None

    def drop(self) -> None:
        """Ends the link without a word."""
        self.link.close()


def connect(access: Access, protocol: str, app: str, device: str, ca: str, businesses=(), attempt: int = 1,
            instance: bytes | None = None, heartbeat: bool = True, program=None, **more) -> Device:
    """Dials and logs in; `more` goes into LOGIN."""
    made = Device(dial(protocol, access.point(protocol), ca), app, device, instance, heartbeat, program)
    made.login(access.token, attempt, businesses, **more)
    return made
