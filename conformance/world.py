"""An app with businesses, and the ways into it: what most tests stand on."""

import itertools
import secrets

import backend as backends
from hawser_wire import access, device
from hawser_wire import program as programs
from house import until

_count = itertools.count(1)


def fresh(prefix: str) -> str:
    """A name that no other test has."""
    return f"{prefix}-{next(_count)}-{secrets.token_hex(3)}"


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

    def program(self, name=None, cursors=None):
        """A device program that follows the rules of positions; `enter` connects it."""
        return programs.Program(self.name, name or fresh("program"), cursors)

    def enter(self, program, protocol="tcp", businesses=(), granted=None):
        """A new connection of a program."""
        granted = granted or self.ask(program.device)
        to = device.dial(protocol, granted.point(protocol), self.house.ca)
        made = device.Device(to, self.name, program.device, program.instance, program=program)
        made.access = granted
        self.devices.append(made)
        fields = program.login_fields()
        program.entering(made, fields["cursors"])
        made.login(granted.token, businesses=businesses, **fields)
        return made

    def group(self, name=None, business=None, history=None):
        """A new group; `history` are the fields of its History."""
        name = name or fresh("group")
        kept = {} if history is None else {"history": backends.push.History(**history)}
        (self.api[business] if business else self.push).CreateGroup(group=name, **kept)
        return name

    def release(self):
        for made in self.devices:
            made.drop()
        self.devices.clear()
