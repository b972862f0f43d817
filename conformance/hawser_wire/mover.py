"""A device that is online all the time: WIRE.md, "Going away" and "Resume tickets". It holds one connection,
and two while it moves; what has a position is its `program`'s affair."""

import threading
import time

from . import device as devices
from . import messages, page
from .link import LinkEnded
from .program import Program

wire = messages.wire
ABILITIES = sum(page.ABILITY[name] for name in ("INBOX", "HISTORY", "GO_AWAY", "RESUME"))
TICKET_SECONDS = page.LIMIT["resume_ticket_life"]
SETTLE_SECONDS = 1.0
TWO_MOVES_SECONDS = 10.0
JOIN_SECONDS = 2.0
NEW_TOKEN = range(4300, 4400)


class Refused(Exception):
    """A login was refused with this close code, or the link ended."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


class Mover:
    """`points` are control's access points, in order. What the app hears of volatile pushes is in `heard`;
    `shown` tells for each LOGIN whether it was by `ticket` or `token`; `words` is what it did, for people."""

    def __init__(self, app: str, name: str, token: str, points: list[dict], ca: str = ""):
        self.program = Program(app, name)
        self.token = token
        self.points = points
        self.ca = ca
        self.current: devices.Device | None = None
        self.old: devices.Device | None = None
        self.point: dict | None = None
        self.ticket: tuple[bytes, float] | None = None
        self.heard: list[bytes] = []
        self.shown: list[str] = []
        self.logins: list[tuple[float, dict]] = []
        self.words: list[str] = []
        self.failed: list[str] = []
        self.lost_at: float | None = None
        self.groups: set[str] = set()
        self.lock = threading.RLock()
        self.ready = threading.Condition(self.lock)
        self.moving: threading.Thread | None = None
        self.begins = [-TWO_MOVES_SECONDS] * 2
        self.holding = False
        self.in_flight = 0
        # Live group pushes: (group, push id) and the connection that brought it.
        self.echoes: dict[tuple, object] = {}
        self.is_over = False

    # Logging in.

    def start(self) -> "Mover":
        self.current = self._log_in(self.points[0], beside=False)
        return self

    def _log_in(self, point: dict, beside: bool) -> devices.Device:
        """The new connection, logged in. A refused ticket is followed by the token, once."""
        for by_ticket in (True, False):
            ticket = self._good_ticket() if by_ticket else None
            if by_ticket and ticket is None:
                continue
            try:
                return self._one_login(point, ticket, beside)
            except Refused as refused:
                if ticket is None or page.CLOSE.get(refused.code) not in NEW_TOKEN:
                    raise
                self.ticket = None
        raise AssertionError("unreachable")

    def _one_login(self, point: dict, ticket: bytes | None, beside: bool) -> devices.Device:
        program = self.program
        try:
            link = devices.dial(point["protocol"], point, self.ca)
        except OSError as failure:
            raise Refused(f"not reached: {failure}") from failure
        made = devices.Device(link, program.app, program.device, program.instance, program=program, mover=self)
        if beside:
            self._settle()
        fields = program.login_fields() | {"abilities": ABILITIES}
        if beside:
            program.moving_in(made, fields["cursors"])
        else:
            program.entering(made, fields["cursors"])
        self.shown.append("token" if ticket is None else "ticket")
        try:
            if ticket is None:
                made.login(self.token, **fields)
            else:
                made.login("", resume_ticket=ticket, **fields)
        except (devices.Closed, TimeoutError, LinkEnded, OSError) as failure:
            made.drop()
            raise Refused(getattr(failure, "code", None) or str(failure)) from failure
        self.logins.append((time.monotonic(), point))
        given = made.login_ok.resume_ticket
        self.ticket = (given, time.monotonic() + TICKET_SECONDS) if given else None
        with self.lock:
            self.point = point
        return made

    def _good_ticket(self) -> bytes | None:
        if self.ticket is None or self.ticket[1] <= time.monotonic():
            return None
        return self.ticket[0]

    def _settle(self) -> None:
        """Requests in flight are answered, new ones wait."""
        end = time.monotonic() + SETTLE_SECONDS
        with self.ready:
            self.holding = True
            while self.in_flight and (left := end - time.monotonic()) > 0:
                self.ready.wait(left)

    # What comes.

    def takes(self, device, got) -> bool:
        with self.lock:
            if got.name == "GO_AWAY":
                if device is self.current and self.moving is None:
                    self.moving = threading.Thread(target=self._move, args=(got.params,), daemon=True)
                    self.moving.start()
                return False
            if got.name == "PUSH" and not got.params.term:
                self.heard.append(got.body)
            elif got.name == "GROUP_PUSH" and not got.params.term:
                known = self.echoes.setdefault((got.params.group, got.params.push_id), device)
                if known is device:
                    self.heard.append(got.body)
            return False

    def ended(self, device) -> None:
        with self.ready:
            if device is self.old:
                self.old = None
            elif device is self.current and self.moving is None and not self.is_over:
                self.lost_at = time.monotonic()
                self.words.append("lost")
            self.ready.notify_all()

    # Moving.

    def _move(self, told) -> None:
        try:
            self._move_until(told, time.monotonic() + max(told.deadline_ms / 1000, 1.0))
        except BaseException as failure:  # shown by the test, which looks at `failed`
            self.failed.append(repr(failure))
        finally:
            with self.ready:
                self.holding = False
                self.moving = None
                self.ready.notify_all()

    def _move_until(self, told, until: float) -> None:
        self.begins = [self.begins[1], max(time.monotonic(), self.begins[0] + TWO_MOVES_SECONDS)]
        time.sleep(max(0.0, self.begins[1] - time.monotonic()))
        wait = 0.5
        while time.monotonic() < until and not self.is_over:
            for point in self._elsewhere(told.alternatives):
                try:
                    new = self._log_in(point, beside=True)
                except Refused as refused:
                    self.words.append(f"{point['port']}: {refused}")
                    with self.ready:
                        self.holding = False
                        self.ready.notify_all()
                    continue
                return self._arrived(new)
            time.sleep(wait)
            wait *= 2
        self.words.append("given up")

    def _elsewhere(self, named) -> list[dict]:
        """The alternatives that can be dialled, then control's points; never the one in use."""
        here = (self.point["host"], self.point["port"])
        found = []
        for it in named:
            if it.protocol in devices.PROTOCOLS and it.host and 0 < it.port < 65536:
                found.append({"protocol": it.protocol, "host": it.host, "port": it.port, "server_name": it.server_name or it.host})
        found.sort(key=lambda it: it["protocol"] != self.point["protocol"])
        found += [it for it in self.points if it.get("node") is None or it.get("node") != self.point.get("node")]
        return [it for it in found if (it["host"], it["port"]) != here]

    def _arrived(self, new: devices.Device) -> None:
        with self.ready:
            self.old, self.current = self.current, new
            self.holding = False
            self.ready.notify_all()
            old = self.old
        end = time.monotonic() + JOIN_SECONDS
        for group in sorted(self.groups):
            assert self.program.join(group).status == 0, group
        with self.ready:
            while old is self.old and self.in_flight and (left := end - time.monotonic()) > 0:
                self.ready.wait(left)
        if old is not None and old.ended is None:
            try:
                old.send("BYE", wire.Close())
            except (LinkEnded, OSError):
                pass
        time.sleep(0.2)
        if old is not None:
            old.drop()
        with self.lock:
            self.old = None

    # What the app does.

    def join(self, group: str):
        self.groups.add(group)
        return self.program.join(group)

    def request(self, business: str, method: str, body: bytes = b"", seconds: float = 10.0):
        """Waits while the device is on its way. Raises when the answer was lost."""
        end = time.monotonic() + seconds
        with self.ready:
            while self.holding and (left := end - time.monotonic()) > 0:
                self.ready.wait(left)
            at = self.current
            self.in_flight += 1
        try:
            return at.request(business, method, body)
        finally:
            with self.ready:
                self.in_flight -= 1
                self.ready.notify_all()

    def wait_moved(self, times: int = 1, seconds: float = 30.0) -> None:
        """So many logins after the first one, and a single connection again."""
        end = time.monotonic() + seconds
        with self.ready:
            while len(self.logins) <= times or self.moving is not None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{len(self.logins) - 1} of {times} moves within {seconds} s: {self.words} {self.failed}")
                self.ready.wait(left)
        assert self.failed == []

    def stop(self) -> None:
        self.is_over = True
        for it in (self.current, self.old):
            if it is not None:
                it.drop()
