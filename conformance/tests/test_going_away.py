"""Drains as devices see them: WIRE.md, "Going away" and "Resume tickets", against two access nodes and a
router under a control of ours."""

import threading
import time

import pytest

import own_control
from backend import PushApi, outcome, text
from hawser_wire import access, device, messages, page
from hawser_wire.mover import ABILITIES, Mover
from house import running, until
from operator_api import Control
from own_control import GO_AWAY_SECONDS
from world import World, fresh

control = messages.control
DEVICES = 24
RATE = 12


@pytest.fixture(scope="module")
def cluster(backend):
    with own_control.cluster("away", "chat", nodes=2, endpoints=[backend.endpoint]) as made:
        made.api = PushApi(made.push, made.own.business_key).until_known()
        yield made


@pytest.fixture
def away(cluster):
    made = Away(cluster)
    yield made
    made.release()


class Away:
    """Devices of the app `away`, and what control tells its nodes."""

    order = 0

    def __init__(self, cluster):
        self.cluster = cluster
        self.devices = []

    @property
    def points(self) -> list[dict]:
        return [self.cluster.point(protocol, node) for node in self.cluster.nodes for protocol in ("tcp", "ws")]

    def link(self, node: str = "a1", protocol: str = "tcp", name: str | None = None) -> device.Device:
        made = device.Device(device.dial(protocol, self.cluster.point(protocol, node), ""), "away", name or fresh("away"))
        self.devices.append(made)
        return made

    def token(self, name: str, **claims) -> str:
        return self.cluster.own.token(name, **claims)

    def mover(self, name: str | None = None, points=None) -> Mover:
        name = name or fresh("mover")
        made = Mover("away", name, self.token(name), points or self.points).start()
        self.devices.append(made)
        return made

    def tell(self, node: str, drain: bool = False, alternatives=(), **more) -> None:
        """What a node hears with its next report."""
        answer = control.ReportResponse(**more)
        for point in alternatives:
            answer.alternatives.add(protocol=point["protocol"], host=point["host"], port=point["port"])
        if drain:
            Away.order += 1
            answer.drain.CopyFrom(control.DrainOrder(id=Away.order, sessions_per_second=RATE))
        self.cluster.own.orders[node] = answer

    def drain(self, node: str, alternatives=()) -> None:
        self.tell(node, drain=True, alternatives=alternatives)

    def undrain(self, node: str) -> None:
        own = self.cluster.own
        if own.orders.pop(node, None) is None:
            return
        # The answer to the next report takes the order back, the one after that says so.
        seen = own.reports_of[node]
        until(lambda: own.reports_of[node] >= seen + 2 and not own.last_report[node].draining, 10, f"{node} to take devices again")

    def release(self) -> None:
        for made in self.devices:
            made.stop() if isinstance(made, Mover) else made.drop()
        for node in self.cluster.nodes:
            self.undrain(node)


class Traffic:
    """Pushes and requests for many devices, until it is told to stop."""

    def __init__(self, api, movers, group):
        self.api, self.movers, self.group = api, movers, group
        self.stored = {mover.program.device: [] for mover in movers}
        self.refused: list = []
        self.asked = 0
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._guarded, args=(what,), daemon=True) for what in (self._push, self._ask)]
        self.failures: list = []
        for thread in self.threads:
            thread.start()

    def _guarded(self, what) -> None:
        number = 0
        try:
            while not self.stop.wait(0.002):
                number += 1
                what(number)
        except BaseException as failure:
            self.failures.append(failure)

    def _push(self, number: int) -> None:
        mover = self.movers[number % len(self.movers)]
        name, body = mover.program.device, b"%d" % number
        if number % 3 == 0:
            answer = self.api.store(name, body, push_id=body)
            assert outcome(answer.outcome) == "stored"
            self.stored[name].append(body)
        elif number % 3 == 1:
            # Whatever becomes of it, it is not made again.
            self.api.Unicast(device=name, message=text(b"v" + body), push_id=b"v" + body)
        else:
            self.api.Multicast(group=self.group, message=text(b"g" + body), push_id=b"g" + body)

    def _ask(self, number: int) -> None:
        mover = self.movers[number % len(self.movers)]
        self.asked += 1
        try:
            answer = mover.request("chat", "echo", b"%d" % number)
            if answer.params.status:
                self.refused.append(page.ERROR_NAME[answer.params.status])
        except Exception as failure:
            self.refused.append(f"{type(failure).__name__} {failure}")

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)
        assert self.failures == []


def test_a_drained_node_is_left_at_the_set_rate_and_nobody_notices(away):
    cluster = away.cluster
    group = fresh("room")
    cluster.api.CreateGroup(group=group)
    movers = [away.mover() for _ in range(DEVICES)]
    assert all(page.ERROR_NAME[mover.join(group).status] == "ok" for mover in movers)
    traffic = Traffic(cluster.api, movers, group)
    away.drain("a1", [cluster.point("tcp", "a2")])
    began = time.monotonic()
    for mover in movers:
        mover.wait_moved()
    took = time.monotonic() - began
    time.sleep(1.0)  # traffic where they are now
    traffic.end()

    for mover in movers:
        assert [point["node"] if "node" in point else point["port"] for _, point in mover.logins] == \
            ["a1", cluster.of_node["a2"]["tcp"]], "each device moved once, to where it was told"
        assert mover.lost_at is None, "and had a connection all the time"
        assert mover.shown == ["token", "ticket"]
        assert len(set(mover.heard)) == len(mover.heard), "nothing volatile twice"
        stored = traffic.stored[mover.program.device]
        assert mover.program.wait_for("chat", len(stored)) == stored, "all that was stored, once and in order"
    assert traffic.refused == [], f"of {traffic.asked} requests"
    assert traffic.asked > 200
    moved = sorted(logins[1][0] for logins in (mover.logins for mover in movers))
    busiest = max(sum(at <= other < at + 1 for other in moved) for at in moved)
    # A bucket may be full at the start; after that the rate holds.
    assert busiest <= 1.2 * RATE + 2, f"{busiest} in a second"
    assert took >= DEVICES / RATE - 1.5
    until(lambda: cluster.own.last_report["a1"].connections == 0, 10, "the node to be empty")
    report = cluster.own.last_report["a1"]
    assert (report.draining, report.drain_order) == (True, Away.order)
    assert report.drain_told == DEVICES


def test_go_away_says_how_long_and_where(away):
    named = [away.cluster.point("ws", "a2"), away.cluster.point("tcp", "a2")]
    made = away.link()
    made.login(away.token(made.device), abilities=ABILITIES)
    assert made.login_ok.abilities == ABILITIES
    away.drain("a1", named)
    told = made.next_notice()
    assert told.name == "GO_AWAY"
    assert 0 < told.params.deadline_ms <= GO_AWAY_SECONDS * 1000
    assert [(it.protocol, it.host, it.port, it.server_name) for it in told.params.alternatives] == \
        [(it["protocol"], it["host"], it["port"], "") for it in named]
    # It is served as before, until the deadline.
    made.ping(1)
    assert made.request("chat", "echo", b"still").body == b"still"
    group = fresh("late")
    away.cluster.api.CreateGroup(group=group)
    assert page.ERROR_NAME[made.join(group).status] == "ok"
    answer = away.cluster.api.Unicast(device=made.device, message=text(b"here"))
    assert outcome(answer.outcome) == "written" and made.next_push().body == b"here"
    assert made.wait_closed(GO_AWAY_SECONDS + 5) == "draining"
    assert [it.port for it in made.close_frame.alternatives] == [it["port"] for it in named]
    assert [it.name for it in made.frames].count("GO_AWAY") == 1


@pytest.mark.parametrize("abilities", [0, page.ABILITY["INBOX"] | page.ABILITY["HISTORY"], page.ABILITY["RESUME"]])
def test_a_device_without_the_ability_is_closed_when_its_turn_comes(away, abilities):
    """A device of the release before: no GO_AWAY, no ticket unless it asked for one."""
    made = away.link()
    made.login(away.token(made.device), abilities=abilities)
    assert made.login_ok.abilities == abilities
    assert bool(made.login_ok.resume_ticket) == bool(abilities & page.ABILITY["RESUME"])
    away.drain("a1", [away.cluster.point("tcp", "a2")])
    assert made.wait_closed() == "draining"
    assert "GO_AWAY" not in [it.name for it in made.frames]
    assert [it.port for it in made.close_frame.alternatives] == [away.cluster.of_node["a2"]["tcp"]]


def test_a_request_in_flight_is_answered_before_a_device_without_the_ability_goes(away):
    made = away.link()
    made.login(away.token(made.device))
    request_id = made.start_request("chat", "sleep", b"1200")
    away.drain("a1")
    assert made.answer("RESPONSE", request_id).body == b"slept"
    assert made.wait_closed() == "draining"


def test_an_order_that_is_taken_back_ends_the_drain(away):
    away.drain("a1")
    until(lambda: away.cluster.own.last_report["a1"].draining, 10, "the node to drain")
    away.undrain("a1")
    made = away.link()
    made.login(away.token(made.device), abilities=ABILITIES)
    made.ping(1)


def test_two_drains_in_a_row_are_two_moves(away):
    mover = away.mover()
    away.drain("a1", [away.cluster.point("tcp", "a2")])
    mover.wait_moved(1)
    away.undrain("a1")
    away.drain("a2", [away.cluster.point("tcp", "a1")])
    mover.wait_moved(2)
    assert mover.lost_at is None and len(mover.logins) == 3
    assert mover.shown == ["token", "ticket", "ticket"]


def test_the_window_of_control_reaches_the_device(away):
    away.tell("a1", reconnect_window_ms=12_345)

    def told():
        made = away.link()
        made.login(away.token(made.device))
        return made.login_ok.reconnect_window_ms == 12_345

    until(told, 10, "LOGIN_OK to say the new window")


def test_an_operator_drains_a_node_of_a_running_house(backend, tmp_path):
    with running(tmp_path / "data") as house:
        tenant = World(house, Control(house.control, house.admin_token), backend)
        stays = [tenant.connect() for _ in range(6)]
        drained = house.cli("node", "drain", "dev", "--rate", "20/s", "--wait")
        assert drained.returncode == 0, drained.stderr
        assert [made.wait_closed() for made in stays] == ["draining"] * len(stays)
        nobody = access.call(house.control, {"app": tenant.name, "device": "late", "proof": tenant.proof("late")})
        assert nobody.json()["code"] == "no_access_point"
        assert house.cli("node", "undrain", "dev").returncode == 0
        until(lambda: access.call(house.control, {"app": tenant.name, "device": "late", "proof": tenant.proof("late")}).is_success,
              10, "control to hand the node out again")
        tenant.connect("late").ping(1)
        tenant.release()


# Tickets.


def resumed(made: device.Device, ticket: bytes, token: str = "", attempt: int = 2):
    """What LOGIN with a ticket leads to: LOGIN_OK, or the name of a close code."""
    try:
        return made.login(token, attempt, resume_ticket=ticket, abilities=ABILITIES)
    except device.Closed as closed:
        return closed.code


@pytest.fixture
def granted(away):
    """A device that has logged in with its token, and has a ticket."""
    made = away.link()
    made.login(away.token(made.device), abilities=ABILITIES)
    assert 0 < len(made.login_ok.resume_ticket) <= page.LIMIT["resume_ticket_bytes_max"]
    return made


def again(away, granted, node="a1", name=None):
    """A new link of the same installation."""
    made = away.link(node, name=name or granted.device)
    made.instance = granted.instance
    return made


def test_a_ticket_opens_the_session_that_its_token_would(away, granted):
    ok = granted.login_ok
    for attempt, node in [(2, "a1"), (3, "a2"), (4, "a1")]:
        back = again(away, granted, node)
        answer = resumed(back, ok.resume_ticket, attempt=attempt)
        assert not isinstance(answer, str), answer
        assert (answer.token_refresh_at_ms, answer.token_expires_at_ms) == (ok.token_refresh_at_ms, ok.token_expires_at_ms)
        assert list(answer.businesses) == list(ok.businesses)
        assert answer.epoch > ok.epoch and answer.resume_ticket
        assert back.request("chat", "echo", b"in").body == b"in"
        assert back.refresh().status == 0
    metrics = away.cluster.metrics("a1")
    by_ticket = [value for name, value in metrics.items() if "login" in name and 'proof="ticket"' in name]
    assert by_ticket and sum(by_ticket) >= 2


def test_a_ticket_narrows_as_its_token_does(away):
    made = away.link()
    made.login(away.token(made.device, biz=["other"]), abilities=ABILITIES)
    assert not [it for it in made.login_ok.businesses if it.status == 0]
    back = again(away, made)
    answer = resumed(back, made.login_ok.resume_ticket)
    assert not [it for it in answer.businesses if it.status == 0]


def test_forged_tickets_are_refused(away, granted):
    ticket = granted.login_ok.resume_ticket
    changed = [(f"byte {at} changed", ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :]) for at in range(0, len(ticket), 3)]
    for why, forged in [
        ("cut short", ticket[:-1]),
        ("half", ticket[: len(ticket) // 2]),
        ("one byte", b"\x00"),
        ("longer", ticket + b"\x00"),
        ("zeroes", bytes(len(ticket))),
        ("long", ticket * 9),
        *changed,
    ]:
        refused = resumed(again(away, granted), forged)
        assert refused in ("token_invalid", "token_expired"), f"{why}: {refused}"
    # The token beside it decides.
    answer = resumed(again(away, granted), changed[5][1], away.token(granted.device))
    assert not isinstance(answer, str), answer
    assert resumed(again(away, granted), changed[5][1], "rubbish", 3) == "token_invalid"


def test_a_ticket_is_its_devices_alone(away, granted):
    other = again(away, granted, name=fresh("thief"))
    assert resumed(other, granted.login_ok.resume_ticket) == "token_mismatch"
    elsewhere = again(away, granted)
    elsewhere.app = "elsewhere"
    assert resumed(elsewhere, granted.login_ok.resume_ticket) in ("app_unavailable", "token_mismatch")


def test_a_revocation_voids_tickets(away):
    made = away.link()
    made.login(away.token(made.device), abilities=ABILITIES)
    ticket = made.login_ok.resume_ticket
    before = int(time.time() * 1000) + 2000
    away.cluster.own.change(revocation=control.Revocation(app="away", device=made.device, issued_before_ms=before))
    assert made.wait_closed() == "token_revoked"
    for node in away.cluster.nodes:
        until(lambda: resumed(again(away, made, node), ticket, attempt=9) == "token_revoked", 5, "the node to know")
    # A token that was issued later is good, and so is its ticket; the old one stays void.
    later = away.token(made.device, iat=int(time.time()) + 3)
    back = again(away, made)
    answer = resumed(back, b"", later, 10)
    assert not isinstance(answer, str), answer
    assert not isinstance(resumed(again(away, made), answer.resume_ticket, attempt=11), str)
    assert resumed(again(away, made), ticket, attempt=12) == "token_revoked"


def test_a_ticket_whose_key_is_gone_is_expired(away, granted):
    own = away.cluster.own
    key = b"k" * 32
    now = int(time.time() * 1000)
    own.change(ticket_key=control.TicketKey(kid=8, key=key, active_from_ms=now - 1000))

    def with_new_key():
        made = away.link()
        made.login(away.token(made.device), abilities=ABILITIES)
        return made if made.login_ok.resume_ticket[:4] != granted.login_ok.resume_ticket[:4] else None

    made = until(with_new_key, 10, "tickets of the new key")
    # The old key's are still taken.
    assert not isinstance(resumed(again(away, granted), granted.login_ok.resume_ticket), str)
    with own.lock:
        own.revision += 1
        for changes in own.watchers:
            gone = control.Change(ticket_key=control.TicketKey(kid=8), removed=True)
            changes.put(control.Update(revision=own.revision, change=gone))
    until(lambda: resumed(again(away, made), made.login_ok.resume_ticket, attempt=2) == "token_expired", 10, "the key to be gone")


def test_a_frame_with_ticket_and_token_stays_within_the_limit(away, granted):
    made = again(away, granted)
    limit = int(page.LIMIT["login_frame_bytes_max"])
    made.send("LOGIN", made.login_params("", 2, resume_ticket=bytes(limit)))
    assert made.wait_closed() == "frame_too_large"


def test_a_device_that_is_refused_its_ticket_comes_in_with_the_token(away):
    mover = away.mover()
    mover.ticket = (b"worth nothing", time.monotonic() + 60)
    away.drain("a1", [away.cluster.point("tcp", "a2")])
    mover.wait_moved()
    assert mover.shown == ["token", "ticket", "token"]
    assert mover.lost_at is None and len(mover.logins) == 2


def test_pushes_to_a_moving_device_are_told_apart(away):
    """What a call answers as written was heard, whichever connection it went to."""
    mover = away.mover()
    name = mover.program.device
    written, stop = [], threading.Event()

    def run():
        number = 0
        while not stop.wait(0.001):
            number += 1
            body = b"%d" % number
            answer = away.cluster.api.Unicast(device=name, message=text(body))
            told = outcome(answer.outcome)
            assert told in ("written", "stale", "unknown", "offline"), told
            if told == "written":
                written.append(body)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    away.drain("a1", [away.cluster.point("tcp", "a2")])
    mover.wait_moved()
    time.sleep(0.3)
    stop.set()
    thread.join(10)
    mover.current.ping(99)
    assert len(set(mover.heard)) == len(mover.heard)
    missing = [body for body in written if body not in set(mover.heard)]
    assert missing == [], f"of {len(written)}"
