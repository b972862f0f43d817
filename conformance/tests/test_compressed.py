"""Compressed bodies: a device that shows the ability is sent fewer bytes, every other one the plain body."""

import json

import pytest

from backend import PushError, outcome, place, push
from hawser_wire import page
from hawser_wire.device import PROTOCOLS
from world import fresh

ZSTD = page.ABILITY["ZSTD"]
INBOX = page.ABILITY["INBOX"]
TABLE = json.dumps([{"team": f"team {n % 7}", "points": n, "live": n % 2 == 0} for n in range(200)]).encode()
MESSAGE = push.Message(body=TABLE, compress=True)


def check(made, got, is_able):
    assert got.body == TABLE, made.device
    assert got.was_compressed == is_able
    assert (got.size < len(TABLE) / 3) if is_able else (got.size > len(TABLE))
    made.no_push()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_multicast_is_compressed_for_those_who_understand_it_and_plain_for_all_others(world, protocol):
    group = world.group()
    able, plain = (world.connect(protocol=protocol, abilities=bits) for bits in (ZSTD, INBOX))
    assert (able.login_ok.abilities, plain.login_ok.abilities) == (ZSTD, INBOX)
    for made in (able, plain):
        assert made.join(group).status == 0
    answer = world.push.Multicast(group=group, message=MESSAGE)
    assert (answer.members, answer.dropped) == (2, 0)
    for made in (able, plain):
        check(made, made.next_push(), made is able)


def test_nothing_is_compressed_that_was_not_to_be_or_does_not_pay(world):
    made = world.connect(abilities=ZSTD)
    for message in (push.Message(body=TABLE), push.Message(body=b'{"points":1}', compress=True)):
        assert outcome(world.push.Unicast(device=made.device, message=message).outcome) == "written"
        got = made.next_push()
        assert got.body == message.body and not got.was_compressed


def test_a_batch_and_a_push_to_one_are_compressed_too(world):
    able, plain = (world.connect(abilities=bits) for bits in (ZSTD, 0))
    world.push.BatchUnicast(devices=[able.device, plain.device], message=MESSAGE)
    for made in (able, plain):
        check(made, made.next_push(), made is able)
        assert outcome(world.push.Unicast(device=made.device, message=MESSAGE).outcome) == "written"
        check(made, made.next_push(), made is able)


@pytest.mark.parametrize("abilities", [INBOX | ZSTD, INBOX])
def test_a_stored_push_comes_in_the_form_the_device_understands_after_the_login_and_at_once(world, abilities):
    name, is_able = fresh("device"), bool(abilities & ZSTD)

    def store(push_id):
        answer = world.push.Unicast(device=name, message=MESSAGE, push_id=push_id, **{"class": push.CLASS_STORED})
        assert outcome(answer.outcome) == "stored"
        return place(answer.stored)

    first = store(b"first")
    made = world.connect(name, abilities=abilities)
    for position in (first, None):
        position = position or store(b"second")
        got = made.next_push()
        assert (got.params.term, got.params.seq) == position
        check(made, got, is_able)
        made.ack("chat", position)


@pytest.mark.parametrize("abilities", [page.ABILITY["HISTORY"] | ZSTD, page.ABILITY["HISTORY"]])
def test_a_history_is_recovered_in_the_form_the_member_understands(world, abilities):
    group = world.group(history={})
    first = place(world.push.Multicast(group=group, message=push.Message(body=b"first"), push_id=b"1").stored)
    world.push.Multicast(group=group, message=MESSAGE, push_id=b"2")
    made = world.connect(abilities=abilities)
    assert made.join(group, first).status == 0
    check(made, made.next_push(), bool(abilities & ZSTD))


def test_the_frame_limit_counts_the_plain_body(world):
    made = world.connect(abilities=ZSTD)
    room = made.login_ok.frame_bytes_max
    fits = push.Message(body=b"a" * (room - 200), compress=True)
    assert outcome(world.push.Unicast(device=made.device, message=fits).outcome) == "written"
    got = made.next_push()
    assert got.body == fits.body and got.size < 1000
    with pytest.raises(PushError) as refused:
        world.push.Unicast(device=made.device, message=push.Message(body=b"a" * room, compress=True))
    assert refused.value.code == "too_large"
