"""What the tests stand on: one house for all of them, an app with two businesses, and devices."""

import pytest

import backend as backends
import house as houses
from operator_api import Control
from world import World

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
