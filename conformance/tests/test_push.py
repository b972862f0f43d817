"""Pushes: to one device, to many, to a group, to everyone."""

import itertools
import os
import threading
import time

import pytest

from backend import PushError, outcome, push, text
from world import World, fresh
from hawser_wire import page
from hawser_wire.device import PROTOCOLS
from house import until


def totals(answer) -> dict:
    return {outcome(entry.outcome): entry.count for entry in answer.totals}


def test_a_push_to_nobody_is_offline(world):
    answer = world.push.Unicast(device=fresh("nobody"), message=text("hello"))
    assert outcome(answer.outcome) == "offline"
    assert answer.push_id, "an id was made up"


def test_a_device_that_does_not_serve_the_business_is_offline_for_it(world):
    made = world.connect(businesses=["live"])
    assert outcome(world.api["chat"].Unicast(device=made.device, message=text("x")).outcome) == "offline"
    assert outcome(world.api["live"].Unicast(device=made.device, message=text("y")).outcome) == "written"
    assert made.next_push().body == b"y"
    made.no_push()


def test_a_device_that_left_is_offline(world):
    made = world.connect()
    made.bye()
    until(lambda: outcome(world.push.Unicast(device=made.device, message=text("x")).outcome) == "offline", 5, "offline")


def test_pushes_of_answered_calls_arrive_in_their_order(world):
    made = world.connect(protocol="wss")
    for n in range(100):
        assert outcome(world.push.Unicast(device=made.device, message=text(str(n))).outcome) == "written"
    assert [int(made.next_push().body) for _ in range(100)] == list(range(100))


def test_a_batch_with_a_body_each_tells_an_outcome_for_each_in_order(world):
    online = [world.connect(protocol=protocol) for protocol in PROTOCOLS]
    pairs = [(made.device, made) for made in online] + [(fresh("away"), None) for _ in range(7)]
    targets = [push.Target(device=name, message=text(f"for {name}", n=str(n))) for n, (name, _) in enumerate(pairs)]
    order = sorted(range(len(targets)), key=lambda n: (n * 7) % 12)
    answer = world.push.BatchUnicast(targets=[targets[n] for n in order])
    wanted = ["written" if pairs[n][1] else "offline" for n in order]
    assert [outcome(it) for it in answer.outcomes] == wanted
    assert totals(answer) == {"written": 5, "offline": 7}
    for name, made in pairs:
        if made:
            assert made.next_push().body == f"for {name}".encode()
            made.no_push()


def test_a_batch_with_one_body_reaches_every_device_once(world):
    online = [world.connect() for _ in range(5)]
    names = [made.device for made in online] + [fresh("away")]
    body = os.urandom(500)
    answer = world.push.BatchUnicast(devices=names, message=push.Message(body=body), push_id=b"one-for-all")
    assert sum(totals(answer).values()) == len(names)
    assert [outcome(it) for it in answer.outcomes] == ["written"] * 5 + ["offline"]
    for made in online:
        got = made.next_push()
        assert (got.body, got.params.push_id) == (body, b"one-for-all")
        made.no_push()


def test_a_batch_of_a_thousand_is_taken_and_one_more_is_not(world):
    made = world.connect()
    most = int(page.LIMIT["targets_per_call_max"])
    names = [made.device] + [f"away-{n}" for n in range(most - 1)]
    answer = world.push.BatchUnicast(devices=names, message=text("x"))
    assert len(answer.outcomes) == most and sum(totals(answer).values()) == most
    assert made.next_push().body == b"x"
    with pytest.raises(PushError) as refused:
        world.push.BatchUnicast(devices=[*names, "more"], message=text("x"))
    assert refused.value.code == "too_large"


def test_a_device_named_twice_in_a_batch_gets_both_in_order(world):
    made = world.connect()
    targets = [push.Target(device=made.device, message=text(f"{n}")) for n in range(20)]
    answer = world.push.BatchUnicast(targets=targets)
    assert totals(answer) == {"written": 20}
    assert [int(made.next_push().body) for _ in range(20)] == list(range(20))


def test_a_stream_answers_each_message_in_order_and_survives_a_bad_one(world):
    made = world.connect(protocol="tls")

    def requests():
        for tag in range(1, 51):
            if tag % 10 == 0:
                yield push.BatchUnicastRequest(tag=tag, devices=[""], message=text("x"))
            else:
                yield push.BatchUnicastRequest(tag=tag, devices=[made.device, fresh("away")], message=text(str(tag)))

    answers = list(world.push.stream(requests()))
    assert [it.tag for it in answers] == list(range(1, 51))
    for it in answers:
        if it.tag % 10 == 0:
            assert page.ERROR_NAME[it.error] == "invalid_argument" and it.error_message
        else:
            assert it.error == 0 and totals(it) == {"written": 1, "offline": 1}
    assert [int(made.next_push().body) for _ in range(45)] == [n for n in range(1, 51) if n % 10]


def test_a_stream_answers_while_it_is_open(world):
    made = world.connect()
    gate = threading.Semaphore(0)
    done = threading.Event()

    def requests():
        for tag in range(1, 4):
            yield push.BatchUnicastRequest(tag=tag, devices=[made.device], message=text("x"))
            assert gate.acquire(timeout=10)
        done.set()

    answers = world.push.stream(requests())
    for tag in range(1, 4):
        assert next(answers).tag == tag
        gate.release()
    assert next(answers, None) is None
    assert done.is_set()


def test_a_multicast_reaches_every_member_on_every_transport_once_and_alike(world):
    group = world.group()
    members = [world.connect(protocol=protocol) for protocol in PROTOCOLS for _ in range(3)]
    beside = [world.connect(protocol=protocol) for protocol in PROTOCOLS]
    for made in members:
        assert made.join(group).status == 0
    body = os.urandom(2000)
    answer = world.push.Multicast(group=group, message=push.Message(body=body, metadata={"k": "v"}), push_id=b"m-1")
    assert (answer.members, answer.written + answer.queued, answer.dropped) == (15, 15, 0)
    assert answer.push_id == b"m-1"
    assert sum(node.members for node in answer.nodes) == 15 and not any(node.unknown for node in answer.nodes)
    seen = set()
    for made in members:
        got = made.next_push()
        assert got.name == "GROUP_PUSH" and got.params.group == group
        assert got.params.business == made.number("chat")
        seen.add((got.params.SerializeToString(deterministic=True), got.body))
        made.no_push()
    [(_, same)] = seen
    assert same == body
    for made in beside:
        made.no_push()


def test_a_multicast_to_an_empty_group_and_to_none(world):
    answer = world.push.Multicast(group=world.group(), message=text("x"))
    assert (answer.members, answer.written) == (0, 0)
    with pytest.raises(PushError) as refused:
        world.push.Multicast(group=fresh("none"), message=text("x"))
    assert refused.value.code == "group_not_found"


def test_a_broadcast_is_paced_and_tells_how_far_it_is(house, control, backend):
    tenant = World(house, control, backend, businesses=("chat", "live"))
    made = [tenant.connect(protocol=PROTOCOLS[n % 5]) for n in range(30)]
    deaf = tenant.connect(businesses=["live"])
    began = time.monotonic()
    # 30 devices, 10 a second.
    progress = tenant.push.Broadcast(message=text("all"), targets_per_second=10, push_id=b"b-1")
    took = time.monotonic() - began
    assert 1.5 < took < 8, f"30 targets, 10 a second, took {took:.1f} s"
    assert len(progress) >= 2, "progress about once a second"
    assert [it.done for it in progress] == [False] * (len(progress) - 1) + [True]
    steps = [it.written + it.queued for it in progress]
    assert steps == sorted(steps)
    last = progress[-1]
    assert (last.targets, last.written + last.queued, last.dropped) == (30, 30, 0)
    assert last.push_id == b"b-1"
    for it in made:
        got = it.next_push()
        assert got.name == "PUSH" and got.body == b"all"
        it.no_push()
    deaf.no_push()
    tenant.release()


def test_a_broadcast_stays_in_its_app(world, other):
    here, there = world.connect(), other.connect()
    last = world.push.Broadcast(message=text("ours"))[-1]
    assert last.done and last.written + last.queued >= 1
    assert here.next_push().body == b"ours"
    there.no_push()
    other.release()


@pytest.mark.parametrize("method, fields", [
    ("Unicast", dict(device="", message=text("x"))),
    ("Unicast", dict(device="a" * 129, message=text("x"))),
    ("Unicast", dict(device="a\nb", message=text("x"))),
    ("Unicast", dict(device="d", message=text("x"), push_id=b"p" * 129)),
    ("Unicast", dict(device="d")),
    ("Unicast", dict(device="d", message=text("x", **{f"k{n}": "v" for n in range(33)}))),
    ("Unicast", dict(device="d", message=text("x", k="v" * 4096))),
    ("Unicast", dict(device="d", message=push.Message(traceparent="t" * 129))),
    ("BatchUnicast", dict()),
    ("BatchUnicast", dict(devices=["d"])),
    ("BatchUnicast", dict(targets=[push.Target(device="d")])),
    ("BatchUnicast", dict(devices=["d"], message=text("x"), targets=[push.Target(device="d", message=text("x"))])),
    ("Multicast", dict(group="", message=text("x"))),
    ("Broadcast", dict()),
    ("CreateGroup", dict(group="")),
    ("CreateGroup", dict(group="g" * 129)),
    ("CreateGroup", dict(group="\x00")),
    ("JoinGroup", dict(group="", devices=["d"])),
    ("GetPresence", dict(devices=[""])),
    ("DescribeDevice", dict(device="")),
    ("Disconnect", dict(device="")),
], ids=lambda it: it if isinstance(it, str) else ",".join(it) or "nothing")
def test_a_call_with_a_field_out_of_its_range_is_refused(world, method, fields):
    with pytest.raises(PushError) as refused:
        getattr(world.push, method)(**fields)
    assert refused.value.code in ("invalid_argument", "too_large"), refused.value


def test_a_multicast_of_nothing_is_refused(world):
    with pytest.raises(PushError) as refused:
        world.push.Multicast(group=world.group())
    assert refused.value.code == "invalid_argument"


def test_a_call_above_the_limit_is_refused_with_the_published_code(world):
    made = world.connect()
    body = b"x" * int(page.LIMIT["push_call_bytes_max"])
    with pytest.raises(PushError) as refused:
        world.push.Unicast(device=made.device, message=push.Message(body=body))
    assert refused.value.code == "too_large"
    assert outcome(world.push.Unicast(device=made.device, message=text("small")).outcome) == "written"
    assert made.next_push().body == b"small"


def test_a_push_above_a_devices_frame_limit_does_not_reach_it_and_is_not_called_written(world):
    made = world.connect()
    size = made.login_ok.frame_bytes_max
    try:
        told = outcome(world.push.Unicast(device=made.device, message=push.Message(body=b"x" * size)).outcome)
    except PushError as refused:
        told = refused.code
    assert told in ("too_large", "overflow", "denied"), told
    made.no_push()
    body = b"y" * (size - 200)
    assert outcome(world.push.Unicast(device=made.device, message=push.Message(body=body)).outcome) == "written"
    assert made.next_push().body == body


def test_an_app_may_allow_larger_frames(house, control, backend):
    tenant = World(house, control, backend, frame_bytes_max=1 << 20)
    for protocol in ("tcp", "wss", "quic"):
        made = tenant.connect(protocol=protocol)
        assert made.login_ok.frame_bytes_max == 1 << 20
        body = os.urandom((1 << 20) - 300)
        assert outcome(tenant.push.Unicast(device=made.device, message=push.Message(body=body)).outcome) == "written"
        assert made.next_push().body == body
        got = made.request("chat", "echo", body[:-200])
        assert got.params.status == 0 and got.body == body[:-200]
    tenant.release()


def test_a_device_that_reads_slowly_overflows_alone(world):
    group = world.group()
    slow, quick = world.link("tcp"), world.connect()
    slow.login(slow.access.token)
    for made in (slow, quick):
        made.join(group)
    # Stops reading: the reader thread waits for this lock.
    with slow.link.lock:
        body = os.urandom(30_000)
        seen = []
        for n in itertools.count():
            seen.append(outcome(world.push.Unicast(device=slow.device, message=push.Message(body=body)).outcome))
            if seen[-1] == "overflow" or n > 400:
                break
        assert seen[-1] == "overflow", f"{len(seen)} pushes of 30 kB were taken for a device that reads nothing"
        assert set(seen[:-1]) == {"written"}
        answer = world.push.Multicast(group=group, message=push.Message(body=body))
        assert (answer.members, answer.written, answer.dropped) == (2, 1, 1)
        assert quick.next_push().body == body
    # It reads again, and gets all that was taken, whole.
    for _ in seen[:-1]:
        assert slow.next_push().body == body
    slow.no_push()
