"""Requests of devices, answered by a business server in another language."""

import threading
import time

import pytest

from backend import Backend, business, outcome, text
from world import fresh
from hawser_wire import messages, page
from hawser_wire.device import PROTOCOLS
from house import until

wire = messages.wire


def status(got) -> str:
    return page.ERROR_NAME[got.params.status]


def drain(calls):
    while not calls.empty():
        calls.get_nowait()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_business_sees_who_asks_and_how(world, protocol):
    drain(world.backend.calls)
    client = wire.Client(sdk="conformance/1", platform="native", network="wifi", app_version="3.2")
    name = fresh("asks")
    made = world.connect(name, protocol=protocol, client=client)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    made.request("live", "echo", b"body", metadata={"room": "lobby"}, traceparent=trace, deadline_ms=2000)
    seen = world.backend.next_call()
    assert (seen.app, seen.business, seen.device) == (world.name, "live", name)
    assert (seen.method, seen.body, dict(seen.metadata)) == ("echo", b"body", {"room": "lobby"})
    assert seen.traceparent.split("-")[1] == trace.split("-")[1], "the trace goes on"
    assert 0 < seen.deadline_ms <= 2000
    assert seen.request_id > 0
    session = seen.session
    assert session.connection_id == made.login_ok.connection and session.epoch == made.login_ok.epoch
    assert abs(session.login_time_ms - time.time() * 1000) < 60_000
    assert (session.transport, session.remote_ip) == (protocol, "127.0.0.1")
    assert (session.platform, session.sdk, session.app_version) == ("native", "conformance/1", "3.2")
    assert dict(session.attributes) == {}


def test_what_the_business_writes_into_the_session_is_there_at_the_next_request(world):
    made, beside = world.connect(), world.connect()
    assert [made.request("chat", "count", b"n").body for _ in range(3)] == [b"0", b"1", b"2"]
    assert beside.request("chat", "count", b"n").body == b"0", "another device has its own"
    assert made.request("live", "count", b"n").body == b"0", "another business has its own"
    assert dict(made.request("chat", "attributes").params.metadata) == {"n": "3"}
    made.request("chat", "forget", b"n")
    assert dict(made.request("chat", "attributes").params.metadata) == {}
    assert dict(made.request("live", "attributes").params.metadata) == {"n": "1"}


def test_the_session_ends_with_the_connection(world):
    name = fresh("again")
    world.connect(name).request("chat", "count", b"n")
    assert world.connect(name).request("chat", "count", b"n").body == b"0"


def test_attributes_above_their_limit_are_refused_and_the_old_ones_stay(world):
    made = world.connect()
    made.request("chat", "count", b"n")
    assert status(made.request("chat", "too_many_attributes")) == "business_failed"
    assert dict(made.request("chat", "attributes").params.metadata) == {"n": "1"}


@pytest.mark.parametrize("said, told", [
    ("DEADLINE_EXCEEDED", "deadline_exceeded"), ("UNAVAILABLE", "unavailable"), ("RESOURCE_EXHAUSTED", "overloaded"),
    ("PERMISSION_DENIED", "permission_denied"), ("NOT_FOUND", "not_found"), ("INVALID_ARGUMENT", "invalid_argument"),
    ("UNKNOWN", "business_failed"), ("ABORTED", "business_failed"), ("INTERNAL", "business_failed"), ("UNIMPLEMENTED", "business_failed"),
])
def test_an_error_of_the_business_becomes_the_devices_status(world, said, told):
    got = world.connect().request("chat", "fail", said.encode())
    assert status(got) == told
    assert got.body == b"" and len(got.params.message.encode()) <= page.LIMIT["reason_bytes_max"]


def test_a_deadline_of_the_device_shortens_the_wait(world):
    made, began = world.connect(), time.monotonic()
    assert status(made.request("chat", "sleep", b"5000", deadline_ms=300)) == "deadline_exceeded"
    assert 0.25 < time.monotonic() - began < 2
    made.ping(1)


def test_a_deadline_of_the_business_holds_when_the_device_names_a_longer_one(world):
    world.app.create_business("brief", [world.backend.endpoint], request_timeout_ms=300)
    made = served(world, "brief")
    began = time.monotonic()
    assert status(made.request("brief", "sleep", b"5000", deadline_ms=60_000)) == "deadline_exceeded"
    assert 0.25 < time.monotonic() - began < 2


def served(world, name):
    """A device that serves a business which was made just now."""

    def ready():
        made = world.connect()
        return made if name in {entry.name for entry in made.login_ok.businesses} else made.bye() and None

    return until(ready, 5, f"the node to know {name}")


def test_a_request_to_a_number_that_is_not_served_is_unknown(world):
    made = world.connect(businesses=["chat"])
    assert status(made.request(9999, "echo")) == "unknown_business"
    assert status(made.request(0, "echo")) == "unknown_business"
    live = world.connect().number("live")
    assert status(made.request(live, "echo")) == "unknown_business", "known to the app, not served here"
    assert status(made.request("chat", "echo")) == "ok"


def test_a_business_without_an_endpoint_and_with_a_dead_one_is_unavailable(world):
    world.app.create_business("nowhere")
    world.app.create_business("dead", ["http://127.0.0.1:1"])
    made = served(world, "dead")
    assert status(made.request("nowhere", "echo")) == "unavailable"
    assert status(made.request("dead", "echo")) == "unavailable"
    assert status(made.request("chat", "echo")) == "ok"


def test_a_business_that_is_switched_off_is_disabled_and_comes_back(world, control):
    world.app.create_business("off", [world.backend.endpoint])
    made = served(world, "off")
    path = f"{world.app.path}/businesses/off"
    control.call("PATCH", path, {"enabled": False})
    until(lambda: status(made.request("off", "echo")) == "disabled", 5, "disabled")
    control.call("PATCH", path, {"enabled": True})
    until(lambda: status(made.request("off", "echo")) == "ok", 5, "enabled")


def test_answers_come_as_they_are_ready_and_match_their_requests(world):
    made = world.connect(protocol="ws")
    slow = made.start_request("chat", "sleep", b"700")
    ids = {made.start_request("chat", "echo", str(n).encode()): str(n).encode() for n in range(30)}
    for request_id, body in ids.items():
        assert made.answer("RESPONSE", request_id).body == body
    assert not any(got.name == "RESPONSE" and got.params.request_id == slow for got in made.frames), "nothing overtakes the quick ones"
    assert made.answer("RESPONSE", slow).body == b"slept"


def test_more_requests_in_flight_than_allowed_are_told_so_and_the_others_are_answered(world):
    made = world.connect()
    most = made.login_ok.requests_in_flight_max
    held = [made.start_request("chat", "sleep", b"1500") for _ in range(most)]
    more = [made.start_request("chat", "echo", b"x") for _ in range(5)]
    for request_id in more:
        assert status(made.answer("RESPONSE", request_id)) == "too_many_requests"
    for request_id in held:
        assert status(made.answer("RESPONSE", request_id)) in ("ok", "overloaded", "deadline_exceeded")
    assert status(made.request("chat", "echo", b"x")) == "ok"


def test_a_full_pool_answers_overloaded_and_other_businesses_go_on(world):
    release = threading.Event()
    stuck = Backend()

    @stuck.method
    def stick(request, context):
        release.wait(20)
        return business.HandleResponse()

    world.app.create_business("small", [stuck.endpoint], expected_requests_per_second=1, request_timeout_ms=20_000)
    first = served(world, "small")
    devices = [first] + [world.connect() for _ in range(9)]
    try:
        asked = [(made, made.start_request("small", "stick")) for made in devices for _ in range(made.login_ok.requests_in_flight_max)]

        def overloaded():
            return sum(status(got) == "overloaded" for made in devices for got in list(made.frames) if got.name == "RESPONSE")

        until(lambda: overloaded() > 0, 5, "overloaded")
        assert status(first.request("chat", "echo", b"x")) in ("ok", "too_many_requests")
        assert status(world.connect().request("chat", "echo", b"x")) == "ok"
    finally:
        release.set()
    seen = [status(made.answer("RESPONSE", request_id, 20)) for made, request_id in asked]
    assert set(seen) == {"ok", "overloaded"}, set(seen)
    stuck.stop()


def test_an_answer_above_the_frame_limit_is_told_and_not_sent(world):
    made = world.connect()
    got = made.request("chat", "large", str(made.login_ok.frame_bytes_max).encode())
    assert status(got) == "too_large" and got.body == b""
    assert status(made.request("chat", "large", b"60000")) == "ok"


def test_a_business_may_push_to_the_device_that_asks_before_it_answers(world):
    name = fresh("asks")

    @world.backend.method
    def push_then_answer(request, context):
        told = world.push.Unicast(device=request.device, message=text("before"))
        return business.HandleResponse(body=outcome(told.outcome).encode())

    made = world.connect(name)
    assert made.request("chat", "push_then_answer").body == b"written"
    assert made.next_push().body == b"before"
    assert [got.name for got in made.frames] == ["LOGIN_OK", "PUSH", "RESPONSE"]
