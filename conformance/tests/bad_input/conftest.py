"""Healthy devices beside all the bad input: they must not notice anything of it."""

import threading
import time

import pytest

from backend import outcome, text
from hawser_wire.device import PROTOCOLS
from world import World

PACE_SECONDS = 0.05
STALL_SECONDS = 3.0


class Bystanders:
    """A device on every transport. Each is pushed to all the time, counts what comes, and now and then
    asks the business something."""

    def __init__(self, world):
        self.world = world
        self.devices = {protocol: world.connect(protocol=protocol, heartbeat=True) for protocol in PROTOCOLS}
        self.received = dict.fromkeys(PROTOCOLS, 0)
        self.checked = dict.fromkeys(PROTOCOLS, -1)
        self.failures: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._watch, args=(protocol,), daemon=True) for protocol in PROTOCOLS]
        for thread in self.threads:
            thread.start()

    def _watch(self, protocol: str) -> None:
        made, n = self.devices[protocol], 0
        try:
            while not self.stop.wait(PACE_SECONDS):
                told = outcome(self.world.push.Unicast(device=made.device, message=text(f"{made.device} {n}")).outcome)
                assert told == "written", f"push {n}: {told}"
                got = made.next_push(STALL_SECONDS)
                assert got.body == f"{made.device} {n}".encode(), f"push {n} came as {got.body!r}"
                if n % 20 == 0:
                    answer = made.request("chat", "echo", str(n).encode())
                    assert answer.params.status == 0 and answer.body == str(n).encode()
                self.received[protocol] = n = n + 1
        except BaseException as failure:
            self.failures.append(f"{protocol}: {failure!r}")

    def check(self) -> None:
        """They are well, and still served: each got something new since the last check."""
        before = self.checked
        end = time.monotonic() + STALL_SECONDS
        while any(self.received[it] == before[it] for it in PROTOCOLS) and not self.failures:
            assert time.monotonic() < end, f"no news for {[it for it in PROTOCOLS if self.received[it] == before[it]]}"
            time.sleep(0.01)
        assert not self.failures
        self.checked = dict(self.received)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(STALL_SECONDS + 1)


@pytest.fixture(scope="package")
def bystanders(house, control, backend):
    made = Bystanders(World(house, control, backend))
    yield made
    made.end()
    made.world.release()
    assert not made.failures


class Before:
    """What the process held before the table began."""

    def __init__(self, house):
        house.metrics()
        self.rss_kib = house.status_kib("VmRSS")
        self.descriptors = house.descriptors()
        self.gauges = gauges(house)


def gauges(house) -> dict[str, float]:
    """What must come back to where it was."""
    names = ("hawser_access_connections", "hawser_access_sessions", "hawser_access_groups")
    return {name: value for name, value in house.metrics().items() if name.split("{")[0] in names and value}


@pytest.fixture(scope="package")
def before(house, bystanders, stranger_world, other):
    stranger_world.release()
    return Before(house)


@pytest.fixture(scope="package")
def stranger_world(house, control, backend):
    """The app that bad input is aimed at."""
    made = World(house, control, backend, businesses=("chat", "live"))
    yield made
    made.release()


@pytest.fixture
def world(stranger_world):
    yield stranger_world
    stranger_world.release()


@pytest.fixture(autouse=True)
def harmless(house, bystanders, before):
    """After each test: the process runs, and the bystanders go on."""
    yield
    assert house.alive()
    bystanders.check()

