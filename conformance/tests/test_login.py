"""Login, and what it says, on every transport."""

import os
import time

import pytest

from backend import outcome, push, text
from hawser_wire import device, messages, page
from hawser_wire.device import PROTOCOLS, Closed

from world import fresh

wire = messages.wire
every_transport = pytest.mark.parametrize("protocol", PROTOCOLS)


@every_transport
def test_a_device_logs_in_and_is_told_numbers_limits_and_times(world, protocol):
    before = time.time() * 1000
    made = world.connect(protocol=protocol)
    said = made.login_ok
    assert {entry.name for entry in said.businesses} == {"chat", "live"}
    assert all(entry.status == 0 and entry.number > 0 for entry in said.businesses)
    assert len({entry.number for entry in said.businesses}) == 2
    assert said.heartbeat_ms == page.LIMIT["heartbeat"] * 1000
    assert said.idle_timeout_ms == page.LIMIT["idle_timeout"] * 1000
    assert said.frame_bytes_max == page.LIMIT["frame_bytes_max_default"]
    assert said.groups_max == page.LIMIT["groups_per_connection_max"]
    assert said.requests_in_flight_max == page.LIMIT["requests_in_flight_max"]
    assert abs(said.server_time_ms - time.time() * 1000) < 60_000
    assert before < said.token_refresh_at_ms < said.token_expires_at_ms
    assert said.connection and said.epoch > 0
    assert said.abilities == 0


@every_transport
def test_a_ping_comes_back_and_a_goodbye_is_answered(world, protocol):
    made = world.connect(protocol=protocol)
    for nonce in (0, 1, 2**64 - 1):
        made.ping(nonce)
    assert made.bye() == "goodbye"
    assert made.ended.clean


@every_transport
def test_a_unicast_reaches_the_device_with_all_it_carries(world, protocol):
    made = world.connect(protocol=protocol)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = os.urandom(1000)
    message = push.Message(body=body, metadata={"kind": "order", "snow": "☃"}, traceparent=trace)
    answer = world.push.Unicast(device=made.device, message=message, push_id=b"order-17")
    assert outcome(answer.outcome) == "written"
    assert answer.push_id == b"order-17"
    got = made.next_push()
    assert got.name == "PUSH" and got.body == body
    assert got.params.push_id == b"order-17"
    assert got.params.business == made.number("chat")
    assert dict(got.params.metadata) == {"kind": "order", "snow": "☃"}
    assert got.params.traceparent == trace
    made.no_push()


@every_transport
def test_a_request_is_answered_by_the_business(world, protocol):
    made = world.connect(protocol=protocol)
    got = made.request("chat", "echo", b"hello", metadata={"a": "b"})
    assert (got.params.status, got.body, dict(got.params.metadata)) == (0, b"hello", {"a": "b"})


@every_transport
def test_frames_of_the_largest_size_pass_both_ways(world, protocol):
    made = world.connect(protocol=protocol)
    limit = made.login_ok.frame_bytes_max
    for size in (1, limit // 2, limit - 200):
        body = os.urandom(size)
        got = made.request("chat", "echo", body)
        assert got.params.status == 0 and got.body == body


@every_transport
def test_frames_behind_the_login_are_held_and_handled_in_order(world, protocol):
    made = world.link(protocol)
    made.send("LOGIN", made.login_params(made.access.token))
    for nonce in range(1, 6):
        made.send("PING", wire.Ping(nonce=nonce))
    made.send("JOIN", wire.Join(request_id=9, group="nobody made it"))
    made.wait_login()
    joined = made.answer("JOINED", 9)
    assert page.ERROR_NAME[joined.params.status] == "group_not_found"
    names = [got.name for got in made.frames]
    assert names[0] == "LOGIN_OK"
    assert [got.params.nonce for got in made.frames if got.name == "PONG"] == [1, 2, 3, 4, 5]


def test_businesses_are_answered_in_the_order_asked_known_or_not(world):
    made = world.connect(businesses=["live", "nothing", "chat"])
    said = [(entry.name, page.ERROR_NAME[entry.status], entry.number > 0) for entry in made.login_ok.businesses]
    assert said == [("live", "ok", True), ("nothing", "unknown_business", False), ("chat", "ok", True)]


def test_a_token_for_one_business_opens_no_other(world):
    name = fresh("narrow")
    granted = world.ask(name, businesses=["live"])
    made = device.connect(granted, "tcp", world.name, name, world.house.ca, ["chat", "live"])
    world.devices.append(made)
    said = [(entry.name, page.ERROR_NAME[entry.status]) for entry in made.login_ok.businesses]
    assert said == [("chat", "permission_denied"), ("live", "ok")]
    made.bye()
    again = device.connect(granted, "tcp", world.name, name, world.house.ca, attempt=2)
    world.devices.append(again)
    assert [entry.name for entry in again.login_ok.businesses] == ["live"], "an empty list is what the token allows"


def test_optional_flags_and_unknown_fields_are_ignored(world):
    made = world.connect()
    # Field 100, private use, and field 15, reserved: both must be skipped.
    unknown = bytes([0xA2, 0x06, 3]) + b"abc" + bytes([0x78, 1])
    raw = wire.Ping(nonce=7).SerializeToString() + unknown
    made.send("PING", raw, flags=0x00FF)
    made.pong(7)
    made.send(0x60, b"what ever", b"it is")
    made.send(0x7F, b"\xff\xff", b"")
    made.ping(8)


def test_a_newer_login_takes_over_and_the_older_one_is_told(world):
    name = fresh("twice")
    older = world.connect(name)
    newer = world.connect(name, protocol="ws")
    assert older.wait_closed() == "superseded"
    assert newer.login_ok.epoch > older.login_ok.epoch
    assert outcome(world.push.Unicast(device=name, message=text("for the newer")).outcome) == "written"
    assert newer.next_push().body == b"for the newer"
    assert older.pushes.empty()


@every_transport
def test_a_takeover_reaches_the_older_connection_on_every_transport(world, protocol):
    name = fresh("twice")
    older = world.connect(name, protocol=protocol)
    world.connect(name, protocol="tcp")
    assert older.wait_closed() == "superseded"


def test_an_attempt_that_is_not_newer_is_refused_and_harms_nobody(world):
    name, instance = fresh("late"), os.urandom(16)
    live = world.connect(name, instance=instance, attempt=5)
    for attempt in (5, 4, 1):
        with pytest.raises(Closed, match="stale_login"):
            world.connect(name, instance=instance, attempt=attempt)
    live.ping(1)
    # Another installation of the same device is never stale.
    newer = world.connect(name, attempt=1)
    assert live.wait_closed() == "superseded"
    newer.ping(1)


def test_the_highest_attempt_is_remembered_after_the_connection_is_gone(world):
    name, instance = fresh("late"), os.urandom(16)
    assert world.connect(name, instance=instance, attempt=9).bye() == "goodbye"
    with pytest.raises(Closed, match="stale_login"):
        world.connect(name, instance=instance, attempt=9)
    world.connect(name, instance=instance, attempt=10).ping(1)
