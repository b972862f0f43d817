"""After the whole table: nothing is left of it."""

import random
import time

import pytest

from hawser_wire import frame, link, messages
from house import until

from .conftest import gauges

wire = messages.wire
# The table alone adds about 3 MiB to a fresh process (pools and caches that are filled once) and next to
# nothing to one that has worked before. Then comes a crowd of bad connections, twice: what the second one
# adds would be a leak.
TABLE_GROWTH_KIB = 16 * 1024
CROWD = 1500
CROWD_GROWTH_KIB = 2 * 1024


@pytest.mark.last
def test_gauges_and_descriptors_are_back_where_they_were(house, before, stranger_world, other):
    for world in (stranger_world, other):
        world.release()
    until(lambda: gauges(house) == before.gauges, 15, f"gauges to return to {before.gauges}")
    # Connections of HTTP and gRPC clients of the suite come and go; a leak would be thousands.
    until(lambda: house.descriptors() <= before.descriptors + 40, 15, f"descriptors to return to {before.descriptors}")


@pytest.mark.last
def test_memory_has_not_grown_by_the_table(house, before):
    grown = house.status_kib("VmRSS") - before.rss_kib
    print(f"resident memory: {before.rss_kib} KiB before the table, {grown:+} KiB after it")
    assert grown < TABLE_GROWTH_KIB, f"{grown} KiB"


def crowd(world, chance) -> None:
    """Bad connections, one after the other, of all the cheap kinds."""
    granted = world.ask("crowd")
    point = granted.point("tcp")
    login = frame.encode("LOGIN", wire.Login(app=world.name, device="crowd", token=granted.token + "x", instance=bytes(16), attempt=1))
    specimens = [b"x", b"hw\x02", frame.encode("PING"), frame.encode("REQUEST", body_length=2**32 - 1), frame.encode(0x05), login,
                 frame.encode("LOGIN", b"\xff"), chance.randbytes(200)]
    made = []
    for n in range(CROWD):
        stranger = link.dial_tcp(point["host"], point["port"])
        stranger.send(specimens[n % len(specimens)])
        made.append(stranger)
        if len(made) >= 100:
            for it in made:
                it.close()
            made.clear()
    for it in made:
        it.close()


@pytest.mark.last
def test_another_crowd_of_bad_connections_adds_nothing(house, stranger_world, before):
    chance = random.Random(7)
    crowd(stranger_world, chance)
    until(lambda: gauges(house) == before.gauges, 15, "the first crowd to be gone")
    time.sleep(1)
    first = house.status_kib("VmRSS")
    crowd(stranger_world, chance)
    until(lambda: gauges(house) == before.gauges, 15, "the second crowd to be gone")
    # What is freed goes back to the machine within some seconds, of the first crowd as of the second.
    until(lambda: house.status_kib("VmRSS") - first < CROWD_GROWTH_KIB, 15, "its memory to be given back")
    grown = house.status_kib("VmRSS") - first
    print(f"resident memory: {first} KiB after {CROWD} bad connections, {grown:+} KiB after {CROWD} more")

@pytest.mark.last
def test_nothing_in_the_log_speaks_of_a_panic(house):
    assert house.complaints() == []
