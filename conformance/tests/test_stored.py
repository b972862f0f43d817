"""Stored pushes: answered when they are kept, handed over once, there until they are handled."""

import os
import time

import pytest

from backend import PushError, floor, outcome, place, push, tail, text
from hawser_wire import messages, page
from hawser_wire.device import PROTOCOLS, Closed
from hawser_wire.program import ABILITIES, START
from house import until
from world import World, fresh

wire = messages.wire
INBOX = page.ABILITY["INBOX"]
WINDOW_ENTRIES = int(page.LIMIT["inbox_window_entries"])
WINDOW_BYTES = int(page.LIMIT["inbox_window_bytes"])
QUIET_SECONDS = 1.0


def positions(got) -> tuple:
    """Where a push is, and what lies before it."""
    return (got.params.term, got.params.seq), (got.params.prev_term, got.params.prev_seq)


def raw(world, name=None, protocol="tcp", **more):
    """A device that shows the ability and does nothing by itself."""
    return world.connect(name, protocol, abilities=INBOX, **more)


def take(made, count: int) -> list:
    return [made.next_push() for _ in range(count)]


def quiet(made, seconds: float = QUIET_SECONDS) -> None:
    """No push comes for a while."""
    with pytest.raises(TimeoutError):
        got = made.next_push(seconds)
        pytest.fail(f"{got.name} {got.params} came")


def bodies(frames) -> list[int]:
    return [int(got.body) for got in frames]


def entries(world, name, business=None) -> int:
    return (world.api[business] if business else world.push).DescribeInbox(device=name).entries


def drained(world, name, business=None) -> None:
    until(lambda: entries(world, name, business) == 0, 10, "the inbox to be empty")


# What the API answers.


def test_the_answer_says_stored_where_and_how_durably(world):
    name = fresh("away")
    first = world.push.store(name, "one", push_id=b"first")
    assert (outcome(first.outcome), first.push_id) == ("stored", b"first")
    assert first.stored.durability == push.DURABILITY_DISK, "the embedded store syncs by default"
    assert not first.stored.repeated and first.stored.error == 0
    second = world.push.store(name, "two", durability=push.DURABILITY_MEMORY)
    assert outcome(second.outcome) == "stored" and second.push_id
    assert second.stored.durability in (push.DURABILITY_MEMORY, push.DURABILITY_DISK)
    assert place(second.stored) > place(first.stored) > START
    info = world.push.DescribeInbox(device=name)
    assert (info.device, info.entries, tail(info)) == (name, 2, place(second.stored))
    assert floor(info) < place(first.stored) and info.bytes > 0 and info.overflowed == 0
    assert abs(info.oldest_ms / 1000 - time.time()) < 30


def test_an_inbox_that_never_held_anything_is_empty(world):
    info = world.push.DescribeInbox(device=fresh("never"))
    assert (info.entries, info.bytes, info.oldest_ms) == (0, 0, 0)
    assert world.push.PurgeInbox(device=fresh("never")).entries == 0


@pytest.mark.parametrize("options", [
    dict(collapse_key="k" * 129), dict(priority=9), dict(durability=9),
], ids=lambda it: next(iter(it)))
def test_options_out_of_their_range_are_refused(world, options):
    with pytest.raises(PushError) as refused:
        world.push.store("d", "x", **options)
    assert refused.value.code in ("invalid_argument", "too_large")


def test_a_store_without_a_replica_does_not_say_that_it_reached_one(world):
    answer = world.push.store(fresh("away"), "x", durability=push.DURABILITY_REPLICA)
    assert outcome(answer.outcome) == "stored"
    assert answer.stored.durability in (push.DURABILITY_MEMORY, push.DURABILITY_DISK), "what was reached"


def test_the_same_push_id_is_one_entry_and_names_it(world):
    made = raw(world)
    told = [world.push.store(made.device, "once", push_id=b"key") for _ in range(3)]
    assert {outcome(it.outcome) for it in told} == {"stored"}
    assert len({place(it.stored) for it in told}) == 1
    assert [it.stored.repeated for it in told] == [False, True, True]
    got = made.next_push()
    assert (got.body, got.params.push_id, positions(got)[0]) == (b"once", b"key", place(told[0].stored))
    made.ack("chat", positions(got)[0])
    drained(world, made.device)
    again = world.push.store(made.device, "once", push_id=b"key")
    assert again.stored.repeated and place(again.stored) == place(told[0].stored), "also after it was handled"
    made.no_push()
    # The same id for another device or by another business is another push.
    other = fresh("away")
    assert not world.push.store(other, "once", push_id=b"key").stored.repeated
    assert not world.api["live"].store(made.device, "once", push_id=b"key").stored.repeated


@pytest.mark.parametrize("change", ["body", "metadata"])
def test_a_push_id_with_another_content_is_refused(world, change):
    name = fresh("away")
    world.push.store(name, "one", push_id=b"key")
    message = text("two") if change == "body" else text("one", k="v")
    with pytest.raises(PushError) as refused:
        world.push.Unicast(device=name, message=message, push_id=b"key", **{"class": push.CLASS_STORED})
    assert refused.value.code == "push_id_reused"
    assert entries(world, name) == 1


def test_a_batch_is_stored_for_each_and_tells_each(world):
    online, away, used = world.enter(world.program()), fresh("away"), fresh("used")
    world.push.store(used, "another", push_id=b"batch-1")
    names = [away, online.device, used]
    stored = {"class": push.CLASS_STORED}
    answer = world.push.BatchUnicast(devices=names, message=text("news"), push_id=b"batch-1", **stored)
    assert [outcome(it) for it in answer.outcomes][:2] == ["stored", "stored"]
    assert [page.ERROR_NAME[it.error] for it in answer.stored] == ["ok", "ok", "push_id_reused"]
    assert outcome(answer.outcomes[2]) != "stored"
    assert online.program.wait_for("chat", 1) == [b"news"]
    late = world.program(away)
    world.enter(late)
    assert late.wait_for("chat", 1) == [b"news"]
    again = world.push.BatchUnicast(devices=names[:2], message=text("news"), push_id=b"batch-1", **stored)
    assert [place(it) for it in again.stored] == [place(it) for it in answer.stored[:2]]
    assert all(it.repeated for it in again.stored)
    others = [fresh("away") for _ in range(20)]
    targets = [push.Target(device=name, message=text(f"for {name}")) for name in others]
    answer = world.push.BatchUnicast(targets=targets, **stored)
    assert {outcome(it) for it in answer.outcomes} == {"stored"}
    for name in others[::7]:
        made = raw(world, name)
        assert made.next_push().body == f"for {name}".encode()
    # One id for the whole batch: a second content for the same device is another one.
    targets = [push.Target(device=away, message=text(f"{n}")) for n in range(2)]
    answer = world.push.BatchUnicast(targets=targets, **stored)
    assert [page.ERROR_NAME[it.error] for it in answer.stored] == ["ok", "push_id_reused"]
    assert late.wait_for("chat", 2) == [b"news", b"0"]


# To the device.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_stored_reaches_a_connected_device_at_once_in_order(world, protocol):
    program = world.program()
    world.enter(program, protocol)
    told = [world.push.store(program.device, f"{n}") for n in range(40)]
    assert program.wait_for("chat", 40, 5) == [str(n).encode() for n in range(40)]
    assert [at for _, at, _ in program.handed] == [place(it.stored) for it in told]
    drained(world, program.device)
    assert not program.words and not program.asked_again and not program.redelivered


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_was_stored_while_it_was_away_comes_after_the_login_in_order(world, protocol):
    program = world.program()
    told = [world.push.store(program.device, f"{n}") for n in range(100)]
    made = world.enter(program, protocol)
    [inbox] = made.login_ok.inboxes
    assert (inbox.business, (inbox.tail_term, inbox.tail_seq)) == (made.number("chat"), place(told[-1].stored))
    assert made.login_ok.abilities == ABILITIES
    assert program.wait_for("chat", 100) == [str(n).encode() for n in range(100)]
    drained(world, program.device)
    assert not program.words and not program.asked_again and not program.redelivered
    again = world.enter(program, protocol)
    again.no_push()
    assert len(program.handed) == 100


def test_the_frame_says_where_it_stands_and_until_when(world):
    made = raw(world)
    answer = world.push.store(made.device, "one", ttl_ms=60_000)
    first = made.next_push()
    at, before = positions(first)
    assert at == place(answer.stored) and before < at
    assert not first.params.redelivered
    assert abs(first.params.expires_at_ms / 1000 - time.time() - 60) < 10
    world.push.store(made.device, "two")
    second = made.next_push()
    assert positions(second)[1] == at, "prev is the one before"
    assert outcome(world.push.Unicast(device=made.device, message=text("volatile")).outcome) == "written"
    got = made.next_push()
    assert positions(got) == (START, START)


def test_only_what_is_acknowledged_leaves_the_inbox(world):
    made = raw(world)
    told = [place(world.push.store(made.device, f"{n}").stored) for n in range(10)]
    assert bodies(take(made, 10)) == list(range(10))
    assert entries(world, made.device) == 10
    made.ack("chat", told[3])
    until(lambda: entries(world, made.device) == 6, 5, "four to leave")
    info = world.push.DescribeInbox(device=made.device)
    assert (floor(info), tail(info)) == (told[3], told[9])
    made.ack("chat", told[2])
    made.send("ACK", wire.Ack())
    made.ping(1)
    assert entries(world, made.device) == 6
    made.drop()
    # Without a cursor: from the floor. What had been sent is flagged.
    again = raw(world, made.device)
    got = take(again, 6)
    assert bodies(got) == list(range(4, 10))
    assert all(it.params.redelivered for it in got)
    again.ack("chat", told[9])
    drained(world, made.device)


def test_a_cursor_in_the_login_is_an_acknowledgement(world):
    name = fresh("device")
    told = [place(world.push.store(name, f"{n}").stored) for n in range(10)]
    term, seq = told[6]
    made = raw(world, name, cursors=[wire.Cursor(business="chat", term=term, seq=seq)])
    got = take(made, 3)
    assert bodies(got) == [7, 8, 9] and positions(got[0])[1] == told[6]
    made.no_push()
    assert entries(world, name) == 3
    assert not any(it.params.redelivered for it in got), "no session was sent these before"


def test_a_resync_brings_everything_above_again(world):
    made = raw(world)
    told = [place(world.push.store(made.device, f"{n}").stored) for n in range(8)]
    take(made, 8)
    made.resync("chat", told[2])
    got = take(made, 5)
    assert bodies(got) == [3, 4, 5, 6, 7] and positions(got[0])[1] <= told[2]
    made.ack("chat", told[5])
    until(lambda: entries(world, made.device) == 2, 5, "six to leave")
    made.resync("chat", told[0])
    assert bodies(take(made, 2)) == [6, 7], "from what is acknowledged"
    made.no_push()


def test_the_window_shuts_and_opens_with_acknowledgements(world):
    made = raw(world)
    told = [place(world.push.store(made.device, f"{n}").stored) for n in range(WINDOW_ENTRIES + 30)]
    got = take(made, WINDOW_ENTRIES)
    quiet(made)
    assert bodies(got) == list(range(WINDOW_ENTRIES))
    # The other inbox has a window of its own.
    world.api["live"].store(made.device, "1000")
    assert bodies(take(made, 1)) == [1000]
    made.ack("chat", told[9])
    assert bodies(take(made, 10)) == list(range(WINDOW_ENTRIES, WINDOW_ENTRIES + 10))
    quiet(made)
    made.ack("chat", told[WINDOW_ENTRIES])
    assert bodies(take(made, 20)) == list(range(WINDOW_ENTRIES + 10, WINDOW_ENTRIES + 30))


def test_the_window_is_bounded_in_bytes_too(world):
    made = raw(world)
    size = 40_000
    told = [place(world.push.store(made.device, os.urandom(size)).stored) for _ in range(12)]
    within = WINDOW_BYTES // size
    got = take(made, within)
    quiet(made)
    made.ack("chat", told[within - 1])
    assert len(take(made, within)) == within
    assert [positions(it)[0] for it in got] == told[:within]


def test_larger_than_the_window_goes_alone(house, control, backend):
    tenant = World(house, control, backend, frame_bytes_max=1 << 20)
    program = tenant.program()
    blocks = [os.urandom(500_000) for _ in range(4)]
    for block in blocks:
        assert outcome(tenant.push.store(program.device, block).outcome) == "stored"
    made = tenant.enter(program, "wss")
    assert program.wait_for("chat", 4) == blocks
    assert made.broken is None and not program.words
    tenant.release()


def test_a_push_above_the_limit_of_this_connection_is_declared(house, control, backend):
    tenant = World(house, control, backend, frame_bytes_max=1 << 20)
    program = tenant.program()
    for body in (b"before", os.urandom(500_000), b"after"):
        assert outcome(tenant.push.store(program.device, body).outcome) == "stored"
    control.call("PATCH", tenant.app.path, {"frame_bytes_max": 65536})

    def smaller():
        made = tenant.connect()
        limit = made.login_ok.frame_bytes_max
        made.drop()
        return limit == 65536

    until(smaller, 10, "the new limit")
    tenant.enter(program)
    assert program.wait_for("chat", 2) == [b"before", b"after"]
    assert program.wait_word("chat", "gap too_large") == ("chat", "gap too_large", 1)
    drained(tenant, program.device)
    tenant.release()


def test_a_push_that_no_frame_can_hold_is_not_stored(world):
    name = fresh("away")
    try:
        told = outcome(world.push.store(name, b"x" * (1 << 20)).outcome)
    except PushError as refused:
        told = refused.code
    assert told in ("too_large", "overflow", "denied")
    assert entries(world, name) == 0


# Time, kinds, priorities, bounds.


def test_what_expired_before_it_was_stored_is_not_stored(world):
    name = fresh("away")
    answer = world.push.store(name, "late", expires_at_ms=int(time.time() * 1000) - 60_000)
    assert outcome(answer.outcome) == "expired"
    assert place(answer.stored) == START
    assert entries(world, name) == 0


def test_what_expires_in_the_inbox_does_not_come_and_holds_nothing_up(world):
    program = world.program()
    world.push.store(program.device, "stays")
    world.push.store(program.device, "goes", ttl_ms=300)
    soon = int(time.time() * 1000) + 300
    world.push.store(program.device, "goes too", expires_at_ms=soon, ttl_ms=60_000)
    world.push.store(program.device, "stays too")
    time.sleep(0.5)
    world.enter(program)
    assert program.wait_for("chat", 2) == [b"stays", b"stays too"]
    world.push.store(program.device, "later")
    assert program.wait_for("chat", 3)[-1] == b"later"
    drained(world, program.device)
    assert not program.asked_again
    assert {word for _, word, *_ in program.words} <= {"gap expired"}


def test_of_one_kind_only_the_newest_waits(world):
    program = world.program()
    for body, kind in [("a1", "a"), ("plain", ""), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a")]:
        world.push.store(program.device, body, collapse_key=kind)
    assert entries(world, program.device) == 3
    world.enter(program)
    assert program.wait_for("chat", 3) == [b"plain", b"b2", b"a3"]
    for body in ("a4", "a5"):
        world.push.store(program.device, body, collapse_key="a")
        program.wait_for("chat", 4 if body == "a4" else 5)
    drained(world, program.device)
    assert not program.asked_again
    assert {word for _, word, *_ in program.words} <= {"gap expired"}


def bounded(world, name, overflow):
    """A business whose inboxes hold five."""
    if name not in world.api:
        world.add_business(name, [world.backend.endpoint], inbox={"entries_max": 5, "overflow": overflow})

        def known():
            made = world.connect()
            served = {it.name for it in made.login_ok.businesses}
            made.drop()
            return name in served

        until(known, 10, "the node to know a new business")
    return world.api[name]


def test_inboxes_with_urgent_pushes_are_read_first_and_none_within_one(world):
    name, urgent = fresh("device"), push.PRIORITY_HIGH
    bounded(world, "ring", "drop_oldest")
    for n in range(5):
        world.api["ring"].store(name, f"{n}", priority=push.PRIORITY_LOW)
    for business in ("chat", "live"):
        for n in range(20):
            world.api[business].store(name, f"{n}", priority=urgent if n == 19 else push.PRIORITY_NORMAL)
    made = raw(world, name)
    got = take(made, 45)
    assert got[0].params.business != made.number("ring")
    for business, count in [("ring", 5), ("live", 20), ("chat", 20)]:
        assert bodies(it for it in got if it.params.business == made.number(business)) == list(range(count))


def test_a_full_inbox_refuses_what_comes(world):
    api, program = bounded(world, "narrow", "refuse"), world.program()
    told = [outcome(api.store(program.device, f"{n}", push_id=b"%d" % n).outcome) for n in range(7)]
    assert told == ["stored"] * 5 + ["overflow"] * 2
    assert entries(world, program.device, "narrow") == 5
    world.enter(program)
    assert program.wait_for("narrow", 5) == [b"0", b"1", b"2", b"3", b"4"]
    drained(world, program.device, "narrow")
    again = api.store(program.device, "5", push_id=b"5")
    assert outcome(again.outcome) == "stored" and not again.stored.repeated, "a refused one was never stored"
    assert program.wait_for("narrow", 6)[-1] == b"5"
    assert not program.words


def test_a_full_inbox_lets_the_oldest_go_and_says_so(world):
    api, program = bounded(world, "ring", "drop_oldest"), world.program()
    for n in range(12):
        assert outcome(api.store(program.device, f"{n}").outcome) == "stored"
    info = api.DescribeInbox(device=program.device)
    assert (info.entries, info.overflowed) == (5, 7)
    world.enter(program)
    assert program.wait_for("ring", 5) == [b"7", b"8", b"9", b"10", b"11"]
    _, _, count = program.wait_word("ring", "gap overflow")
    assert count >= 7, "how many, at most"
    assert not program.asked_again


def test_the_lowest_priority_leaves_first(world):
    api, program = bounded(world, "ring", "drop_oldest"), world.program()
    for n in range(5):
        api.store(program.device, f"high {n}", priority=push.PRIORITY_HIGH)
        if n == 2:
            api.store(program.device, "low", priority=push.PRIORITY_LOW)
    assert entries(world, program.device, "ring") == 5
    world.enter(program)
    assert program.wait_for("ring", 5) == [f"high {n}".encode() for n in range(5)]
    program.wait_word("ring", "gap overflow")
    assert not program.asked_again


def test_a_purge_empties_the_inbox_and_is_declared_to_who_is_behind(world):
    made = raw(world)
    told = [place(world.push.store(made.device, f"{n}").stored) for n in range(WINDOW_ENTRIES + 20)]
    take(made, WINDOW_ENTRIES)
    assert world.push.PurgeInbox(device=made.device).entries == WINDOW_ENTRIES + 20
    assert entries(world, made.device) == 0
    made.ack("chat", told[WINDOW_ENTRIES - 1])
    world.push.store(made.device, "after")
    gap = made.next_notice()
    assert gap.name == "GAP" and gap.params.reason == wire.GAP_REASON_PURGED
    assert (gap.params.after_term, gap.params.after_seq) <= told[WINDOW_ENTRIES - 1]
    assert (gap.params.upto_term, gap.params.upto_seq) >= told[-1] and gap.params.count >= 20
    got = made.next_push()
    assert got.body == b"after" and positions(got)[1] <= (gap.params.upto_term, gap.params.upto_seq)
    # A device that comes later goes on behind it.
    program = world.program()
    for n in range(3):
        world.push.store(program.device, f"{n}")
    assert world.push.PurgeInbox(device=program.device).entries == 3
    world.push.store(program.device, "new")
    world.enter(program)
    assert program.wait_for("chat", 1) == [b"new"]
    assert not program.asked_again


# Waiting for the device.


def test_a_call_may_wait_until_the_device_has_handled_it(world):
    program = world.program()
    world.enter(program, "quic")
    for n in range(3):
        assert outcome(world.push.store(program.device, f"{n}", wait_ack_ms=10_000).outcome) == "acked"
    assert len(program.handed) == 3
    began = time.monotonic()
    away = world.push.store(fresh("away"), "x", wait_ack_ms=1_000)
    assert outcome(away.outcome) == "stored" and time.monotonic() - began < 5
    made = raw(world)
    began = time.monotonic()
    assert outcome(world.push.store(made.device, "x", wait_ack_ms=1_000).outcome) == "stored"
    assert 0.9 < time.monotonic() - began < 5, "it waited for a device that does not say anything"
    assert entries(world, made.device) == 1


# Devices that are older, that lie, that come twice.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_device_without_the_ability_gets_none_and_loses_none(world, protocol):
    old = world.connect(protocol=protocol)
    assert old.login_ok.abilities == 0 and not old.login_ok.inboxes
    for n in range(5):
        assert outcome(world.push.store(old.device, f"{n}").outcome) == "stored"
    assert outcome(world.push.Unicast(device=old.device, message=text("volatile")).outcome) == "written"
    assert old.next_push().body == b"volatile"
    old.no_push()
    assert entries(world, old.device) == 5
    old.ack("chat", (1, 1))
    assert old.wait_closed() == "unknown_kind"
    program = world.program(old.device)
    world.enter(program, protocol)
    assert program.wait_for("chat", 5) == [b"0", b"1", b"2", b"3", b"4"]
    assert not program.words


def test_a_business_that_is_not_served_waits_for_a_connection_that_does(world):
    program = world.program()
    world.push.store(program.device, "for chat")
    made = world.enter(program, businesses=["live"])
    assert not made.login_ok.inboxes
    made.no_push()
    world.enter(program, businesses=["chat"])
    assert program.wait_for("chat", 1) == [b"for chat"]


def test_a_takeover_in_the_middle_repeats_and_loses_nothing(world):
    program = world.program()
    first = world.enter(program, "tls")
    program.holding = True
    for n in range(30):
        world.push.store(program.device, f"{n}")
    until(lambda: len(program.inboxes["chat"].queue) == 30 if "chat" in program.inboxes else False, 5, "all to come")
    second = world.enter(program, "ws")
    assert first.wait_closed() == "superseded"
    for n in range(30, 50):
        world.push.store(program.device, f"{n}")
    program.resume()
    assert program.wait_for("chat", 50) == [str(n).encode() for n in range(50)]
    drained(world, program.device)
    second.no_push()
    assert len(program.handed) == 50 and not program.words


def test_another_installation_goes_on_where_the_first_was(world):
    first = world.program()
    world.enter(first)
    for n in range(5):
        world.push.store(first.device, f"{n}")
    first.wait_for("chat", 5)
    drained(world, first.device)
    for n in range(5, 8):
        world.push.store(first.device, f"{n}")
    first.wait_for("chat", 8)
    drained(world, first.device)
    second = world.program(first.device)
    world.enter(second)
    world.push.store(first.device, "8")
    assert second.wait_for("chat", 1) == [b"8"]
    assert not second.words and not second.asked_again, "a cursor below the floor is no loss and no hole"


def now_ms() -> int:
    return int(time.time() * 1000)


def test_a_cursor_that_is_ahead_is_believed_and_harms_its_own_inbox_alone(world):
    beside, name = world.program(), fresh("liar")
    for n in range(3):
        world.push.store(name, f"{n}")
        world.push.store(beside.device, f"{n}")
        world.api["live"].store(name, f"live {n}")
    lie = wire.Cursor(business="chat", term=now_ms() + 60_000, seq=2**53 - 1)
    made = raw(world, name, cursors=[lie])
    states = {it.business: it.state for it in made.login_ok.inboxes}
    assert states[made.number("chat")] == wire.INBOX_STATE_TERM_CHANGED
    got = take(made, 3)
    assert [it.body for it in got] == [b"live 0", b"live 1", b"live 2"]
    made.no_push()
    drained(world, name, "chat")
    answer = world.push.store(name, "after the lie")
    assert place(answer.stored) > (lie.term, lie.seq), "whatever comes lies above"
    after = made.next_push()
    assert after.body == b"after the lie" and positions(after)[1] <= (lie.term, lie.seq)
    world.enter(beside)
    assert beside.wait_for("chat", 3) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("ahead, seq", [(3_600_000, 7), (2**62, 7), (0, 2**53)], ids=["an hour", "absurd", "number"])
def test_a_cursor_that_cannot_be_true_is_refused(world, ahead, seq):
    program = world.program()
    for n in range(3):
        world.push.store(program.device, f"{n}")
    program.cursors.saved["chat"] = (now_ms() + ahead, seq)
    program = world.program(program.device, program.cursors)
    world.enter(program)
    program.wait_word("chat", "cursor refused")
    assert program.wait_for("chat", 3) == [b"0", b"1", b"2"]
    drained(world, program.device)
    answer = world.push.store(program.device, "3")
    assert place(answer.stored)[0] < now_ms() + 300_000, "the lie left no mark"
    assert program.wait_for("chat", 4)[-1] == b"3"


def test_another_devices_cursor_is_a_position_like_any_other(world):
    here, there = fresh("here"), fresh("there")
    for n in range(3):
        world.push.store(here, f"{n}")
    theirs = [place(world.push.store(there, f"{n}").stored) for n in range(9)][-1]
    made = raw(world, here, cursors=[wire.Cursor(business="chat", term=theirs[0], seq=theirs[1])])
    made.ping(1)
    world.push.store(here, "new")
    got = made.next_push()
    assert got.body in (b"0", b"1", b"2", b"new") and positions(got)[0] > theirs
    assert entries(world, there) == 9, "theirs is untouched"


def test_cursors_of_what_is_not_served_are_ignored(world):
    odd = [wire.Cursor(business=name, term=now_ms(), seq=1) for name in ("none", "", "NOT A NAME", "live", "x" * 100)]
    name = fresh("device")
    world.push.store(name, "one")
    world.api["live"].store(name, "kept")
    made = raw(world, name, businesses=["chat"], cursors=odd)
    assert made.next_push().body == b"one"
    assert entries(world, name, "live") == 1


def test_acknowledgements_of_what_was_never_sent_move_nothing(world):
    made = world.connect(abilities=sum(page.ABILITY.values()))
    told = [place(world.push.store(made.device, f"{n}").stored) for n in range(WINDOW_ENTRIES + 5)]
    take(made, WINDOW_ENTRIES)
    for lie in [told[-1], (told[-1][0], told[-1][1] + 1), (2**64 - 1, 2**64 - 1), (told[-1][0] + 1, 0)]:
        made.ack("chat", lie)
        made.resync("chat", lie)
        made.ack("chat", lie)
    made.send("ACK", wire.Ack(inboxes=[wire.InboxPosition(business=99, term=1, seq=1), wire.InboxPosition()] * 16))
    made.ack("live", told[0])
    made.resync(99, told[0])
    made.recover("none of mine", told[0])
    quiet(made)
    assert entries(world, made.device) == WINDOW_ENTRIES + 5
    made.ack("chat", told[WINDOW_ENTRIES - 1])
    assert bodies(take(made, 5)) == list(range(WINDOW_ENTRIES, WINDOW_ENTRIES + 5))


def test_a_device_that_resyncs_all_the_time_harms_itself(world):
    beside = world.program()
    world.enter(beside)
    made = raw(world)
    for n in range(20):
        world.push.store(made.device, f"{n}")
    take(made, 20)
    try:
        for _ in range(2_000):
            made.resync("chat", START)
    except Exception:
        pass
    began = time.monotonic()
    for n in range(20):
        assert outcome(world.push.store(beside.device, f"{n}", wait_ack_ms=5_000).outcome) == "acked"
    assert time.monotonic() - began < 15
    assert beside.wait_for("chat", 20) == [str(n).encode() for n in range(20)]
    try:
        made.ping(7)
        came = made.pushes.qsize()
        assert came <= 2_000 * 20
    except (Closed, TimeoutError):
        assert made.wait_closed() in ("flooding", "slow_device", "cut")
    world.release()
    again = world.program(made.device)
    world.enter(again)
    assert again.wait_for("chat", 20) == [str(n).encode() for n in range(20)]


def test_a_slow_link_gets_its_stored_pushes_when_it_reads_and_volatile_ones_may_go(world):
    program = world.program()
    made = world.enter(program)
    body = [os.urandom(30_000) for _ in range(40)]
    with made.link.lock:
        for block in body:
            assert outcome(world.push.store(program.device, block).outcome) == "stored"
    assert program.wait_for("chat", 40, 30) == body
    drained(world, program.device)
    assert not program.words and not program.asked_again


def test_a_stored_push_of_another_tenant_stays_there(world, other):
    name = fresh("same")
    other.push.store(name, "theirs")
    here, there = world.program(name), other.program(name)
    made = world.enter(here)
    made.no_push()
    assert entries(world, name) == 0 and not here.handed
    other.enter(there)
    assert there.wait_for("chat", 1) == [b"theirs"]
    assert not here.handed
    other.release()
