"""A device that changes its transport, and servers that are killed: nothing stored is lost, nothing comes
twice. Whatever is chosen at random follows from HAWSER_SEED, which is printed."""

import os
import random
import threading
import time

import pytest

from backend import PushApi, PushError, outcome, place
from hawser_wire import device, page
from hawser_wire.device import PROTOCOLS
from hawser_wire.link import LinkEnded
from hawser_wire.program import Program
from house import House, until
from operator_api import Control
from world import World

SEED = int(os.environ.get("HAWSER_SEED") or 0) or random.SystemRandom().randrange(1, 2**31)
SAY = f"HAWSER_SEED={SEED}"
WINDOW_ENTRIES = int(page.LIMIT["inbox_window_entries"])


class Sender:
    """Stores pushes for one device, each with an id of its own, until it is told to stop. A call of which
    nothing is known is made again with the same id, as the API's page says. `kept` is what was answered
    as stored, in order."""

    def __init__(self, api, name: str, pace: float):
        self.api, self.name, self.pace = api, name, pace
        self.kept: list[bytes] = []
        self.places: list[tuple] = []
        self.repeated = 0
        self.stop = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.stop.wait(self.pace):
                self._one(b"%d" % len(self.kept))
        except BaseException as failure:
            self.failure = failure

    def _one(self, body: bytes) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                answer = self.api().store(self.name, body, push_id=body)
                if outcome(answer.outcome) == "stored":
                    self.kept.append(body)
                    self.places.append(place(answer.stored))
                    self.repeated += answer.stored.repeated
                    return
                assert outcome(answer.outcome) == "unknown", outcome(answer.outcome)
            except PushError as failure:
                assert failure.code in (None, "unavailable", "unauthenticated", "overloaded", "deadline_exceeded"), failure
            assert time.monotonic() < end, f"{body!r} could not be stored within a minute"
            time.sleep(0.02)

    def end(self) -> list[bytes]:
        self.stop.set()
        self.thread.join(70)
        if self.failure is not None:
            raise self.failure
        assert self.places == sorted(set(self.places)), "positions rise"
        return self.kept


def crash(program: Program) -> Program:
    """The program dies and starts again: what was not saved is gone."""
    again = Program(program.app, program.device, program.cursors)
    again.instance, again.attempt = program.instance, program.attempt
    return again


def test_a_device_that_moves_between_transports_at_random_loses_and_repeats_nothing(world):
    print(SAY)
    chance = random.Random(SEED)
    program = world.program()
    sender = Sender(lambda: world.push, program.device, 0.001)
    made = None
    for _ in range(40):
        way = chance.choice(("cut", "bye", "take over", "take over"))
        if made is not None and way == "cut":
            made.drop()
        if made is not None and way == "bye":
            made.bye()
        program.holding = chance.random() < 0.3
        made = world.enter(program, chance.choice(PROTOCOLS))
        time.sleep(chance.random() * 0.2)
        program.resume()
    kept = sender.end()
    assert program.wait_for("chat", len(kept), 30) == kept, SAY
    made.no_push()
    assert program.bodies("chat") == kept and not program.words, SAY
    until(lambda: world.push.DescribeInbox(device=program.device).entries == 0, 10, "the inbox to be empty")


def test_a_program_that_dies_between_handler_and_cursor_repeats_no_more_than_that(world):
    """What was handled and not saved comes again; nothing is lost."""
    print(SAY)
    chance = random.Random(SEED)
    program = world.program()
    sender = Sender(lambda: world.push, program.device, 0.001)
    handled: list[bytes] = []
    older: list[tuple] = []
    for _ in range(15):
        world.enter(program, chance.choice(PROTOCOLS))
        time.sleep(chance.random() * 0.3)
        with program.news:
            # Dead: neither saves nor acknowledges any more.
            program.current, lost = None, program.bodies("chat")
            saved = program.cursors.saved.get("chat", (0, 0))
            unsaved = [body for name, at, body in program.handed if at > saved]
        handled += lost
        assert len(unsaved) <= WINDOW_ENTRIES, SAY
        before, program = program, crash(program)
        known = {at for name, at, _ in before.handed if at <= saved}
        older.append((program, known))
    kept = sender.end()
    world.enter(program, chance.choice(PROTOCOLS))
    until(lambda: program.bodies("chat")[-1:] == kept[-1:] or handled[-1:] == kept[-1:], 30, "the newest")
    handled += program.bodies("chat")
    first_time = list(dict.fromkeys(handled))
    assert first_time == kept, SAY
    for later, known in older:
        assert not known & {at for _, at, _ in later.handed}, f"what was saved came again: {SAY}"
        assert not later.words, SAY


@pytest.mark.parametrize("rounds", [4])
def test_a_house_that_is_killed_loses_nothing_that_it_called_stored_on_disk(backend, tmp_path, rounds):
    print(SAY)
    chance = random.Random(SEED)
    house = House(tmp_path / "data")
    api = {}
    try:
        control = Control(house.control, house.admin_token)
        tenant = World(house, control, backend)
        key = tenant.keys["chat"]["key"]
        api["now"] = tenant.push
        program, idle = tenant.program(), tenant.program()
        sender = Sender(lambda: api["now"], program.device, 0.001)
        alone = Sender(lambda: api["now"], idle.device, 0.002)
        for number in range(rounds):
            enter(tenant, program, chance.choice(PROTOCOLS))
            time.sleep(0.2 + chance.random() * 0.5)
            house.child.kill()
            house.child.wait()
            assert house.complaints() == []
            house = House(tmp_path / "data")
            tenant.house = house
            api["now"] = PushApi(house.at["push"], key)
        api["now"].until_known()
        kept, theirs = sender.end(), alone.end()
        enter(tenant, program, chance.choice(PROTOCOLS))
        assert program.wait_for("chat", len(kept), 30) == kept, SAY
        enter(tenant, idle, chance.choice(PROTOCOLS))
        assert idle.wait_for("chat", len(theirs), 30) == theirs, SAY
        assert len(kept) > 50
        assert all(word == "term changed" for _, word, *_ in program.words + idle.words), SAY
    finally:
        code = house.stop()
    assert code == 0 and house.complaints() == []


def enter(tenant, program, protocol):
    """As soon as the house is ready for it."""
    end = time.monotonic() + 30
    while True:
        try:
            return tenant.enter(program, protocol)
        except (device.Closed, LinkEnded, OSError) as failure:
            assert time.monotonic() < end, failure
            time.sleep(0.1)
