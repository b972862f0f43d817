"""Groups that keep a history, and live groups that say how many a member missed."""

import os
import random
import threading
import time

import pytest

from backend import PushError, floor, place, push, tail, text
from hawser_wire import messages, page
from hawser_wire.device import PROTOCOLS
from hawser_wire.program import START
from house import until
from world import fresh

wire = messages.wire
HISTORY = page.ABILITY["HISTORY"]
SEED = int(os.environ.get("HAWSER_SEED") or 0) or random.SystemRandom().randrange(1, 2**31)


def say(world, group, body, **more):
    answer = world.push.Multicast(group=group, message=text(body), **more)
    return place(answer.stored)


def numbers(bodies) -> list[int]:
    return [int(body) for body in bodies]


def member(world, group, protocol="tcp", program=None):
    """A program that is in."""
    program = program or world.program()
    world.enter(program, protocol)
    joined = program.join(group)
    assert page.ERROR_NAME[joined.status] == "ok" and joined.history
    return program


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pushes_of_a_history_group_have_positions_and_reach_its_members(world, protocol):
    group = world.group(history={})
    program = member(world, group, protocol)
    told = [say(world, group, f"{n}") for n in range(30)]
    assert told == sorted(set(told)) and told[0] > START
    assert numbers(program.wait_for(group, 30)) == list(range(30))
    assert [at for _, at, _ in program.handed] == told
    info = world.push.DescribeGroup(group=group)
    assert tail(info) == told[-1] and floor(info) < told[0] and floor(info) > START
    assert info.history.entries_max == 1_000 and info.history.age_ms_max == 300_000
    assert not program.asked_again and not program.words


def test_the_answer_says_where_it_is_kept_and_how_durably(world):
    group = world.group(history={})
    answer = world.push.Multicast(group=group, message=text("x"), push_id=b"once")
    assert answer.stored.durability == push.DURABILITY_DISK and not answer.stored.repeated
    again = world.push.Multicast(group=group, message=text("x"), push_id=b"once")
    assert again.stored.repeated and place(again.stored) == place(answer.stored)
    with pytest.raises(PushError) as refused:
        world.push.Multicast(group=group, message=text("y"), push_id=b"once")
    assert refused.value.code == "push_id_reused"
    live = world.push.Multicast(group=world.group(), message=text("x"))
    assert place(live.stored) == START


def test_a_repeated_push_id_reaches_a_member_once(world):
    group = world.group(history={})
    program = member(world, group)
    for _ in range(3):
        say(world, group, "1", push_id=b"once")
    say(world, group, "2")
    assert numbers(program.wait_for(group, 2)) == [1, 2]


def test_a_new_member_begins_with_what_comes_now(world):
    group = world.group(history={})
    told = [say(world, group, f"{n}") for n in range(5)]
    program = world.program()
    world.enter(program)
    joined = program.join(group)
    assert (joined.tail_term, joined.tail_seq) == told[-1]
    say(world, group, "5")
    assert numbers(program.wait_for(group, 1)) == [5]
    assert not program.asked_again


@pytest.mark.parametrize("before, after", [("tcp", "quic"), ("quic", "wss"), ("wss", "tls"), ("tls", "ws"), ("ws", "tcp")])
def test_after_a_reconnect_what_was_missed_comes_first(world, before, after):
    group = world.group(history={})
    program = member(world, group, before)
    say(world, group, "0")
    program.wait_for(group, 1)
    program.current.drop()
    for n in range(1, 120):
        say(world, group, f"{n}")
    member(world, group, after, program)
    say(world, group, "120")
    assert numbers(program.wait_for(group, 121)) == list(range(121))
    assert not program.words


def test_a_member_of_an_empty_history_misses_nothing_either(world):
    group = world.group(history={})
    program = world.program()
    world.enter(program)
    joined = program.join(group)
    assert (joined.tail_term, joined.tail_seq) > START, "an empty history is a place too"
    program.current.drop()
    for n in range(3):
        say(world, group, f"{n}")
    member(world, group, "tls", program)
    assert numbers(program.wait_for(group, 3)) == [0, 1, 2]
    assert not program.words


def test_who_was_away_for_too_long_is_told_and_goes_on_from_the_floor(world):
    group = world.group(history={"entries_max": 10})
    program = member(world, group)
    say(world, group, "0")
    program.wait_for(group, 1)
    program.current.drop()
    for n in range(1, 40):
        say(world, group, f"{n}")
    info = world.push.DescribeGroup(group=group)
    member(world, group, "ws", program)
    program.wait_word(group, "reset")
    say(world, group, "40")
    until(lambda: program.bodies(group)[-1:] == [b"40"], 10, "the newest")
    got = numbers(program.bodies(group))[1:]
    assert got == list(range(got[0], 41)) and 25 <= got[0] <= 30
    assert floor(info) > START and not program.asked_again


def test_a_history_forgets_by_age(world):
    group = world.group(history={"age_ms_max": 1_000})
    program = member(world, group)
    say(world, group, "0")
    program.wait_for(group, 1)
    program.current.drop()
    say(world, group, "1")
    time.sleep(1.5)
    say(world, group, "2")
    member(world, group, "tls", program)
    program.wait_word(group, "reset")
    assert numbers(program.wait_for(group, 2)) == [0, 2]


def test_a_recover_brings_everything_above_again(world):
    group = world.group(history={})
    made = world.connect(abilities=HISTORY)
    made.join(group)
    told = [say(world, group, f"{n}") for n in range(10)]
    first = [made.next_push() for _ in range(10)]
    assert [(it.params.term, it.params.seq) for it in first] == told
    assert [(it.params.prev_term, it.params.prev_seq) for it in first][1:] == told[:-1]
    made.recover(group, told[6])
    assert numbers(made.next_push().body for _ in range(3)) == [7, 8, 9]
    made.no_push()
    # So does a JOIN that names a position, of a group that it is in already.
    joined = made.join(group, told[7])
    assert page.ERROR_NAME[joined.status] == "ok"
    assert numbers(made.next_push().body for _ in range(2)) == [8, 9]
    say(world, group, "10")
    assert numbers([made.next_push().body]) == [10]


@pytest.mark.parametrize("lie", [(2**64 - 1, 2**64 - 1), (2**62, 1), "seq"], ids=str)
def test_a_position_above_the_history_goes_on_from_its_tail(world, lie):
    group = world.group(history={})
    told = [say(world, group, f"{n}") for n in range(3)]
    program = world.program()
    world.enter(program)
    program.last[group] = (told[-1][0], told[-1][1] + 1000) if lie == "seq" else lie
    assert page.ERROR_NAME[program.join(group).status] == "ok"
    program.wait_word(group, "reset")
    say(world, group, "3")
    assert numbers(program.wait_for(group, 1)) == [3]


def test_a_recover_above_the_history_is_answered_with_its_tail(world):
    group = world.group(history={})
    made = world.connect(abilities=HISTORY)
    made.join(group)
    told = [say(world, group, f"{n}") for n in range(3)]
    assert numbers(made.next_push().body for _ in range(3)) == [0, 1, 2]
    made.recover(group, (2**62, 1))
    reset = made.next_notice()
    assert reset.name == "GROUP_RESET" and reset.params.group == group
    assert (reset.params.floor_term, reset.params.floor_seq) == told[-1]
    assert (reset.params.tail_term, reset.params.tail_seq) == told[-1]
    say(world, group, "3")
    assert numbers([made.next_push().body]) == [3]


def test_recover_of_what_it_is_not_in_is_ignored(world):
    history, live, left = world.group(history={}), world.group(), world.group(history={})
    say(world, history, "0")
    say(world, left, "0")
    made = world.connect(abilities=HISTORY)
    made.join(live)
    made.join(left)
    made.leave(left)
    for group in (history, live, left, fresh("none"), "", "not\na form"):
        made.recover(group, (1, 1))
    made.no_push()
    assert made.notices.empty()
    made.join(history)
    say(world, history, "1")
    assert made.next_push().body == b"1"


def test_the_business_puts_a_device_in_and_the_device_asks_for_what_it_missed(world):
    group = world.group(history={})
    program = member(world, group)
    say(world, group, "0")
    program.wait_for(group, 1)
    program.current.drop()
    say(world, group, "1")
    say(world, group, "2")
    made = world.enter(program, "wss")
    world.push.JoinGroup(group=group, devices=[made.device])
    say(world, group, "3")
    assert numbers(program.wait_for(group, 4)) == [0, 1, 2, 3]
    assert not program.words


def test_a_device_without_the_ability_takes_a_history_group_for_a_live_one(world):
    group = world.group(history={})
    made = world.connect()
    joined = made.join(group)
    assert page.ERROR_NAME[joined.status] == "ok"
    say(world, group, "0")
    assert made.next_push().body == b"0"
    made.recover(group, (1, 1))
    assert made.wait_closed() == "unknown_kind"


def test_a_deleted_history_does_not_come_back_with_its_name(world):
    group = world.group(history={})
    program = member(world, group)
    for n in range(5):
        say(world, group, f"{n}")
    program.wait_for(group, 5)
    program.current.drop()
    world.push.DeleteGroup(group=group)
    world.group(group, history={})
    world.enter(program)
    program.join(group)
    say(world, group, "new")
    until(lambda: program.bodies(group)[-1:] == [b"new"], 10, "the new group's push")
    assert program.bodies(group)[5:] == [b"new"]


@pytest.mark.parametrize("count", [1, 7])
def test_a_live_group_tells_how_many_a_slow_member_missed(world, count):
    group = world.group()
    slow, quick = world.program(), world.connect()
    made = world.enter(slow)
    assert not slow.join(group).history
    quick.join(group)
    body, dropped, written = os.urandom(30_000), 0, 0
    # Stops reading: the reader thread waits for this lock.
    with made.link.lock:
        for _ in range(600):
            answer = world.push.Multicast(group=group, message=push.Message(body=body))
            dropped += answer.dropped
            written += 1
            quick.next_push()
            if dropped == count:
                break
    assert dropped == count
    for _ in range(written - dropped):
        assert made.next_push().body == body
    # It is told before the next push that fits; one may have fitted in between.
    answer = world.push.Multicast(group=group, message=text("after"))
    assert answer.dropped == 0
    assert made.next_push().body == b"after"
    missed = [it for it in slow.words if it[:2] == (group, "missed")]
    assert missed and sum(it[2] for it in missed) == dropped
    world.push.Multicast(group=group, message=text("more"))
    assert made.next_push().body == b"more"
    assert missed == slow.words, "told once"


def test_a_slow_member_of_a_history_gets_everything_in_order(world):
    group = world.group(history={})
    program = member(world, group)
    made, blocks = program.current, [os.urandom(30_000) for _ in range(60)]
    with made.link.lock:
        for block in blocks:
            world.push.Multicast(group=group, message=push.Message(body=block))
    assert program.wait_for(group, 60, 30) == blocks
    assert not program.words


def test_a_member_that_moves_at_random_loses_and_repeats_nothing(world):
    print(f"HAWSER_SEED={SEED}")
    chance = random.Random(SEED)
    group = world.group(history={"entries_max": 5_000})
    programs = [member(world, group, protocol) for protocol in PROTOCOLS]
    for program in programs:
        # The first push that all of them have: from here on nothing may be missing.
        program.start = program.last[group]
    stop, said = threading.Event(), []

    def talk():
        while not stop.wait(0.002):
            say(world, group, f"{len(said)}")
            said.append(len(said))

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        for _ in range(25):
            time.sleep(chance.random() * 0.15)
            program = chance.choice(programs)
            if chance.random() < 0.6:
                program.current.drop()
            member(world, group, chance.choice(PROTOCOLS), program)
    finally:
        stop.set()
        talking.join()
    for program in programs:
        assert numbers(program.wait_for(group, len(said), 30)) == said, f"HAWSER_SEED={SEED}"
        assert not program.words, f"HAWSER_SEED={SEED}"


def test_a_device_is_in_the_history_of_its_own_app_alone(world, other):
    group = world.group(history={})
    other.group(group, history={})
    here, there = member(world, group), member(other, group)
    say(world, group, "1")
    say(other, group, "2")
    assert numbers(here.wait_for(group, 1)) == [1]
    assert numbers(there.wait_for(group, 1)) == [2]
    other.release()
