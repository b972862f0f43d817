"""What the tests stand on: one house for all of them, an app with two businesses, and devices."""

import itertools
import secrets

import pytest

import backend as backends
import house as houses
from hawser_wire import access, device
from house import until
from operator_api import Control

_count = itertools.count(1)


def fresh(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{next(_count)}-{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def house():
    with houses.running() as house:
        yield house


@pytest.fixture(scope="session")
def control(house):
    """Control, as the operator."""
    return Control(house.control, house.admin_token)


@pytest.fixture(scope="session")
def backend():
    made = backends.usual_backend()
    yield made
    made.stop()


class World:
    """An app with businesses, and the ways into it."""

    def __init__(self, house, control, backend, businesses=("chat",), **settings):
        self.house = house
        self.backend = backend
        self.app = control.create_app(fresh("app"), **settings)
        self.name = self.app.name
        self.keys = {}
        self.api = {}
        self.devices = []
        for business in businesses:
            self.add_business(business, [backend.endpoint])
        self.until_nodes_know()

    def add_business(self, name, endpoints, **settings):
        self.app.create_business(name, endpoints, **settings)
        self.keys[name] = self.app.create_key(name, *backends.ALL_SCOPES)
        self.api[name] = backends.PushApi(self.house.at["push"], self.keys[name]["key"]).until_known()

    def until_nodes_know(self):
        """A device can come in, with every business."""

        def known():
            try:
                made = self.connect(fresh("first"))
            except device.Closed as closed:
                assert closed.code == "app_unavailable", closed
                return False
            served = {entry.name for entry in made.login_ok.businesses}
            made.bye()
            return served == set(self.keys)

        until(known, 10, "the access node to know a new app")

    @property
    def push(self):
        """The push API of the first business."""
        return next(iter(self.api.values()))

    def proof(self, name):
        return access.hmac_proof(self.app.client_secret, self.name, name)

    def ask(self, name, **more):
        return access.ask(self.house.control, self.name, name, self.proof(name), **more)

    def link(self, protocol="tcp", name=None, origin=None, heartbeat=False):
        """A device whose link is ready and that has not logged in."""
        name = name or fresh("stranger")
        granted = self.ask(name)
        made = device.Device(device.dial(protocol, granted.point(protocol), self.house.ca, origin), self.name, name, heartbeat=heartbeat)
        made.access = granted
        self.devices.append(made)
        return made

    def connect(self, name=None, protocol="tcp", businesses=(), **more):
        """A device that has logged in."""
        name = name or fresh("device")
        granted = self.ask(name)
        made = device.connect(granted, protocol, self.name, name, self.house.ca, businesses, **more)
        made.access = granted
        self.devices.append(made)
        return made

    def group(self, name=None, business=None):
        """A new group."""
        name = name or fresh("group")
        (self.api[business] if business else self.push).CreateGroup(group=name)
        return name

    def release(self):
        for made in self.devices:
            made.drop()
        self.devices.clear()


@pytest.fixture(scope="session")
def _world(house, control, backend):
    return World(house, control, backend, businesses=("chat", "live"))


@pytest.fixture
def world(_world):
    """The app of most tests; the devices of a test are gone after it."""
    yield _world
    _world.release()


@pytest.fixture(scope="session")
def other(house, control, backend):
    """Another tenant."""
    made = World(house, control, backend, businesses=("chat",))
    yield made
    made.release()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
