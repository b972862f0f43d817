"""Bytes that are not what the page says, and the code each is closed with."""

import random
import socket
import struct
import time

import pytest

from hawser_wire import frame, link, messages, page
from hawser_wire.device import PROTOCOLS, Closed

wire = messages.wire
STREAMS = ("tcp", "tls", "quic")
SEED = 20_260

login_limit = int(page.LIMIT["login_frame_bytes_max"])
frame_limit = int(page.LIMIT["frame_bytes_max_default"])


def request(**fields) -> bytes:
    return wire.Request(**({"request_id": 1, "business": 1, "method": "echo"} | fields)).SerializeToString()


# What is wrong, whatever the state: name, bytes, code.
WRONG = [
    ("magic first byte", b"x", "bad_magic"),
    ("magic second byte", b"hx", "bad_magic"),
    ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "bad_magic"),
    ("a TLS hello", bytes.fromhex("16030100a5010000a10303"), "bad_magic"),
    ("zeros", bytes(64), "bad_magic"),
    ("magic in capitals", b"HW\x01\x02" + bytes(8), "bad_magic"),
    ("version 0", frame.encode("PING", version=0), "unsupported_version"),
    ("version 2", frame.encode("PING", version=2), "unsupported_version"),
    ("version 255 of an unknown kind with a required flag", frame.encode(0x05, flags=0xFFFF, version=255), "unsupported_version"),
    ("body compressed", frame.encode("PING", flags=0x0100), "unsupported_feature"),
    ("the highest flag on an unknown kind", frame.encode(0x05, flags=0x8000), "unsupported_feature"),
    ("body of 2^32-1", frame.encode("REQUEST", request(), body_length=2**32 - 1), "frame_too_large"),
    ("body of 2^31", frame.encode("REQUEST", request(), body_length=2**31), "frame_too_large"),
    ("lengths whose sum wraps", frame.encode("REQUEST", params_length=0x8000, body_length=2**32 - 0x8000 - 12), "frame_too_large"),
    ("parameters of 32769", frame.encode("PING", params_length=32769), "frame_too_large"),
    ("parameters of 65535", frame.encode("PING", params_length=65535), "frame_too_large"),
    ("an unknown kind above the limit", frame.encode(0x05, body_length=2**24), "frame_too_large"),
    ("an ignorable kind above the limit", frame.encode(0x60, body_length=2**24), "frame_too_large"),
    ("PING with a body", frame.encode("PING", wire.Ping(nonce=1), b"x"), "bad_frame"),
    ("LOGIN with a body", frame.encode("LOGIN", wire.Login(instance=bytes(16), attempt=1), b"x"), "bad_frame"),
    ("BYE with a body", frame.encode("BYE", b"", b"x"), "bad_frame"),
    ("JOIN with a body", frame.encode("JOIN", wire.Join(request_id=1, group="g"), b"x"), "bad_frame"),
    ("REQUEST without an id", frame.encode("REQUEST", request(request_id=0)), "bad_frame"),
    ("JOIN without an id", frame.encode("JOIN", wire.Join(group="g")), "bad_frame"),
    ("LEAVE without an id", frame.encode("LEAVE", wire.Leave(group="g")), "bad_frame"),
    ("REFRESH without an id", frame.encode("REFRESH"), "bad_frame"),
    ("LOGIN with a short instance", frame.encode("LOGIN", wire.Login(instance=bytes(15), attempt=1)), "bad_frame"),
    ("LOGIN with a long instance", frame.encode("LOGIN", wire.Login(instance=bytes(17), attempt=1)), "bad_frame"),
    ("LOGIN without an attempt", frame.encode("LOGIN", wire.Login(instance=bytes(16))), "bad_frame"),
    ("LOGIN with 33 businesses", frame.encode("LOGIN", wire.Login(instance=bytes(16), attempt=1, businesses=["b"] * 33)), "bad_frame"),
    ("a method of 129 bytes", frame.encode("REQUEST", request(method="m" * 129)), "bad_frame"),
    ("33 entries of metadata", frame.encode("REQUEST", request(metadata={f"k{n}": "" for n in range(33)})), "bad_frame"),
    ("a RECOVER of a group of 1025 bytes", frame.encode("RECOVER", wire.Recover(group="g" * 1025)), "bad_frame"),
    ("ACK with a body", frame.encode("ACK", b"", b"x"), "bad_frame"),
    ("ACK of 33 inboxes", frame.encode("ACK", wire.Ack(inboxes=[wire.InboxPosition(business=1)] * 33)), "bad_frame"),
    ("RESYNC without a position", frame.encode("RESYNC"), "bad_frame"),
    ("LOGIN with 33 cursors", frame.encode("LOGIN", wire.Login(instance=bytes(16), attempt=1, cursors=[wire.Cursor()] * 33)), "bad_frame"),
    ("a group of 1025 bytes", frame.encode("JOIN", wire.Join(request_id=1, group="g" * 1025)), "bad_frame"),
    ("a traceparent of 129 bytes", frame.encode("REQUEST", request(traceparent="t" * 129)), "bad_frame"),
    ("a text that is not UTF-8", frame.encode("JOIN", b"\x08\x01\x12\x02\xc3\x28"), "bad_frame"),
    ("parameters that end in a field", frame.encode("PING", b"\x08"), "bad_frame"),
    ("a field longer than the parameters", frame.encode("JOIN", b"\x12\x7fabc"), "bad_frame"),
    ("a varint of eleven bytes", frame.encode("PING", b"\x08" + b"\xff" * 10 + b"\x01"), "bad_frame"),
    ("field number 0", frame.encode("PING", b"\x00\x01"), "bad_frame"),
    ("a group that is not closed", frame.encode("PING", b"\x53"), "bad_frame"),
]
# Those that need the larger limit of a session to be read as a whole.
WRONG_ONLINE = [
    ("metadata of 4097 bytes", frame.encode("REQUEST", request(metadata={"k": "v" * 4096})), "bad_frame"),
    ("a frame one byte above the limit", frame.encode("REQUEST", b"\x08\x01\x10\x01", body_length=frame_limit - 12 - 4 + 1), "frame_too_large"),
]
WRONG_BEFORE = [
    ("a frame one byte above the limit of strangers", frame.encode("REQUEST", b"\x08\x01\x10\x01", body_length=login_limit - 12 - 4 + 1), "frame_too_large"),
    ("a LOGIN above the limit of strangers", frame.encode("LOGIN", wire.Login(token="t" * 5000, instance=bytes(16), attempt=1)), "frame_too_large"),
    # The page says that names have a form, and not what becomes of a LOGIN whose names have none.
    ("a LOGIN without app, device and token", frame.encode("LOGIN", wire.Login(instance=bytes(16), attempt=1)), "bad_frame"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", WRONG + WRONG_ONLINE, ids=lambda it: it[0])
def test_a_session_that_sends_it_is_closed_with_its_code(world, protocol, wrong):
    _, data, code = wrong
    made = world.connect(protocol=protocol)
    made.ping(1)
    made.send_raw(data)
    assert made.wait_closed() == code
    assert len(made.close_frame.reason.encode()) <= page.LIMIT["reason_bytes_max"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", WRONG + WRONG_BEFORE, ids=lambda it: it[0])
def test_a_stranger_who_sends_it_is_closed_with_its_code(world, protocol, wrong):
    _, data, code = wrong
    made = world.link(protocol)
    made.send_raw(data)
    assert made.wait_closed() == code
    assert made.login_ok is None


VECTORS = [path for path in sorted(page.VECTORS.glob("bad_*.hex")) if page.vector(path)[0]["from"] == "device"]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_golden_vector_of_a_bad_frame_is_closed_with_its_code_on_the_live_wire(world, path):
    head, data = page.vector(path)
    for protocol in ("ws", "wss") if head["as"] == "message" else ("tcp", "ws"):
        made = world.link(protocol) if int(head["limit"]) == login_limit else world.connect(protocol=protocol)
        made.send_raw(data)
        assert f"close {made.close_frame_code(10)}" == head["expect"]


def test_a_frame_of_exactly_the_limit_is_read(world):
    stranger = world.link()
    params = request()
    stranger.send("REQUEST", params, bytes(login_limit - 12 - len(params)))
    assert stranger.wait_closed() == "login_required"
    made = world.connect()
    params = request(business=made.number("chat"))
    made.send("REQUEST", params, bytes(frame_limit - 12 - len(params)))
    # The parameters of the answer are smaller, so the same body fits.
    assert made.answer("RESPONSE", 1).params.status == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_one_at_a_time_are_as_good_as_any(world, protocol):
    made = world.link(protocol)
    login = frame.encode("LOGIN", made.login_params(made.access.token))
    ping = frame.encode("PING", wire.Ping(nonce=7))
    if protocol in ("ws", "wss"):
        for data in (login, ping):
            with made.link.lock:
                made.link.protocol.send_binary(data)
                for chunk in made.link.protocol.data_to_send():
                    trickle(made.link.raw.send, chunk)
    else:
        trickle(made.link.send, login + ping)
    made.wait_login()
    made.pong(7)


def trickle(send, data: bytes) -> None:
    for at in range(len(data)):
        send(data[at : at + 1])


@pytest.mark.parametrize("protocol", STREAMS)
def test_frames_glued_together_are_handled_one_after_the_other(world, protocol):
    made = world.link(protocol)
    group = world.group()
    glued = frame.encode("LOGIN", made.login_params(made.access.token))
    glued += frame.encode("JOIN", wire.Join(request_id=1, group=group))
    glued += b"".join(frame.encode("PING", wire.Ping(nonce=n)) for n in range(1, 21))
    glued += frame.encode(0x6F, b"skip", b"me") + frame.encode("LEAVE", wire.Leave(request_id=2, group=group))
    glued += frame.encode("BYE") + frame.encode("PING", wire.Ping(nonce=99))
    made.send_raw(glued)
    assert made.wait_closed() == "goodbye"
    assert made.frames[0].name == "LOGIN_OK"
    assert [got.params.nonce for got in made.frames if got.name == "PONG"] == list(range(1, 21)), "in their order, none after BYE"


@pytest.mark.parametrize("protocol", STREAMS)
def test_what_comes_before_a_bad_frame_is_handled_and_what_comes_after_is_not(world, protocol):
    made = world.connect(protocol=protocol)
    made.send_raw(frame.encode("PING", wire.Ping(nonce=1)) + frame.encode(0x05) + frame.encode("PING", wire.Ping(nonce=2)))
    assert made.wait_closed() == "unknown_kind"
    assert [got.params.nonce for got in made.frames if got.name == "PONG"] == [1]


# Every frame in every state, from the table of the page.


def state_table():
    found = page.rows(page.section("What the node answers"), 4)
    return {row[0]: row[1:] for row in found if row[0] != "frame"}


def good(name: str, made, group: str) -> bytes:
    number = made.login_ok.businesses[0].number if made.login_ok else 1
    params = {
        "LOGIN": lambda: made.login_params(made.access.token, attempt=2),
        "PING": lambda: wire.Ping(nonce=5),
        "REFRESH": lambda: wire.Refresh(request_id=5),
        "BYE": lambda: wire.Close(),
        "REQUEST": lambda: wire.Request(request_id=5, business=number, method="echo"),
        "JOIN": lambda: wire.Join(request_id=5, group=group),
        "LEAVE": lambda: wire.Leave(request_id=5, group=group),
        "ACK": lambda: wire.Ack(inboxes=[wire.InboxPosition(business=number, term=1, seq=1)]),
        "RESYNC": lambda: wire.Resync(after=wire.InboxPosition(business=number)),
        "RECOVER": lambda: wire.Recover(group=group),
    }[name]()
    return frame.encode(name, params)


NODE_KINDS = [kind for kind in page.KIND.values() if kind >= 0x80]
ROWS = {
    "ignorable kind 0x60 to 0x7f": [0x60, 0x6A, 0x7F],
    "any other kind below 0x80": [0x00, 0x05, 0x0F, 0x11, 0x1F, 0x22, 0x2F, 0x33, 0x40, 0x5F],
    "a kind of the nodes' table": NODE_KINDS,
    "any other kind from 0x80 on": [0x80, 0x86, 0x8F, 0x91, 0xA2, 0xB5, 0xC0, 0xDF, 0xE0, 0xFF],
}
CELLS = [(row, kind) for row in ("LOGIN", "PING", "REFRESH", "BYE", "REQUEST", "JOIN", "LEAVE") for kind in (row,)]
CELLS += [(row, kind) for row, kinds in ROWS.items() for kind in kinds]
WITH, WITHOUT = "ACK, RESYNC, RECOVER with their ability", "ACK, RESYNC, RECOVER without it"
CELLS += [(row, kind) for row in (WITH, WITHOUT) for kind in ("ACK", "RESYNC", "RECOVER")]


def test_the_table_of_the_page_is_the_one_that_is_tested():
    assert set(state_table()) == {row for row, _ in CELLS} | {"a frame that fails a check of \"Header\"", "end of the link"}


@pytest.mark.parametrize("row, kind", CELLS, ids=lambda it: hex(it) if isinstance(it, int) else it)
@pytest.mark.parametrize("state", ["awaiting login", "binding", "active"])
@pytest.mark.parametrize("protocol", ["tcp", "ws"])
def test_every_frame_in_every_state_is_answered_as_the_table_says(world, protocol, state, row, kind):
    cell = state_table()[row][["awaiting login", "binding", "active"].index(state)]
    group = world.group()
    shown = {"abilities": sum(page.ABILITY.values())} if row == WITH else {}
    made = world.connect(protocol=protocol, **shown) if state == "active" else world.link(protocol)
    if state == "binding":
        made.send("LOGIN", made.login_params(made.access.token, **shown))
    made.send_raw(good(kind, made, group) if isinstance(kind, str) else frame.encode(kind, b"", b""))
    if cell.startswith("checked"):
        made.wait_login()
        return
    if cell.startswith("close"):
        wanted = cell.split()[1].rstrip(",;")
        assert made.wait_closed() == wanted
        return
    if cell == "held, or close goodbye at once":
        assert made.wait_closed() == "goodbye"
        return
    if state == "binding":
        made.wait_login()
    if cell == "skipped" or row.startswith("ignorable") or row == WITH:
        made.ping(77)
        return
    assert cell == "held" or cell in page.KIND, cell
    answer = {"PING": "PONG", "REFRESH": "REFRESHED", "REQUEST": "RESPONSE", "JOIN": "JOINED", "LEAVE": "LEFT"}[row]
    assert cell in ("held", answer)
    if answer == "PONG":
        made.pong(5)
    else:
        made.answer(answer, 5)


# Truncated and random parameters.


def specimens(made) -> list[bytes]:
    number, trace = made.number("chat"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return [
        frame.encode("PING", wire.Ping(nonce=300)),
        frame.encode("REFRESH", wire.Refresh(request_id=300)),
        frame.encode("JOIN", wire.Join(request_id=300, group="some-group")),
        frame.encode("LEAVE", wire.Leave(request_id=300, group="some-group")),
        frame.encode("REQUEST", wire.Request(request_id=300, business=number, method="echo", metadata={"k": "v", "l": "w"},
                                             traceparent=trace, deadline_ms=500), b"some body"),
        frame.encode("BYE", wire.Close(code=4000, reason="enough", retry_after_ms=5)),
        frame.encode("ACK", wire.Ack(inboxes=[wire.InboxPosition(business=number, term=300, seq=300)] * 2)),
        frame.encode("RESYNC", wire.Resync(after=wire.InboxPosition(business=number, term=300, seq=300))),
        frame.encode("RECOVER", wire.Recover(group="some-group", term=300, seq=300)),
    ]


def verdict(data: bytes) -> str | None:
    """What a reader made from the page says of whole frames."""
    try:
        frame.Reader("device", frame_limit).feed(data)
    except frame.BadFrame as bad:
        return bad.code
    return None


@pytest.mark.parametrize("abilities", [0, sum(page.ABILITY.values())])
def test_parameters_cut_anywhere_are_judged_as_the_page_says(world, abilities):
    made = world.connect(abilities=abilities)
    for whole in specimens(made):
        _, _, _, _, length, body = struct.unpack(">2sBBHHI", whole[:12])
        params = whole[12 : 12 + length]
        for cut in range(length):
            data = whole[:6] + struct.pack(">HI", cut, body) + params[:cut] + whole[12 + length :]
            made = check_against_the_page(world, made, data)


@pytest.mark.parametrize("abilities", [0, sum(page.ABILITY.values())])
def test_random_changes_are_judged_as_the_page_says(world, abilities):
    chance = random.Random(SEED)
    made = world.connect(abilities=abilities)
    for _ in range(600):
        data = bytearray(chance.choice(specimens(made)))
        for _ in range(chance.choice((1, 1, 2, 5))):
            data[chance.randrange(2, len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        # The lengths add up, so that an answer comes; other tests lie about them.
        length = chance.randrange(0, len(data) - 12 + 1)
        data[6:12] = struct.pack(">HI", length, len(data) - 12 - length)
        made = check_against_the_page(world, made, bytes(data))


def check_against_the_page(world, made, data: bytes):
    """Sends it on a session. Gives a session that is good for the next one."""
    wanted = verdict(data)
    made.frames.clear()
    made.send_raw(data)
    told = "went on"
    try:
        made.ping(time.monotonic_ns())
    except (Closed, link.LinkEnded):
        told = made.wait_closed()
    kind = data[3]
    if wanted is not None:
        allowed = {wanted}
    elif kind == page.KIND["BYE"]:
        allowed = {"goodbye"}
    elif kind == page.KIND["LOGIN"]:
        allowed = {"login_twice"}
    elif kind in (page.KIND["ACK"], page.KIND["RESYNC"], page.KIND["RECOVER"]) and not made.login_ok.abilities:
        allowed = {"unknown_kind"}
    else:
        allowed = {"went on"}
    assert told in allowed, f"seed {SEED}: {data.hex()} was answered with {told}, the page says {allowed}"
    made._answers.clear()
    if told == "went on":
        return made
    abilities = made.login_ok.abilities
    world.release()
    return world.connect(abilities=abilities)


@pytest.mark.parametrize("protocol", ["tcp", "tls", "ws"])
def test_random_bytes_of_strangers_end_with_a_published_code(world, protocol):
    chance = random.Random(SEED)
    for n in range(60):
        made = world.link(protocol)
        data = chance.randbytes(chance.randrange(1, 400))
        if n % 2:
            data = b"hw\x01" + data
        made.send_raw(data)
        if verdict_of_strangers(data, protocol) is None:
            made.drop()
            continue
        assert made.wait_closed() in page.CLOSE
        assert made.login_ok is None


def verdict_of_strangers(data: bytes, protocol: str) -> str | None:
    reader = frame.Reader("device", login_limit)
    try:
        if protocol == "ws":
            return reader.message(data).name
        names = reader.feed(data)
    except frame.BadFrame as bad:
        return bad.code
    return names[0].name if names else None


def test_a_device_that_floods_is_closed_or_served_and_harms_nobody(world):
    made = world.connect()
    pings = b"".join(frame.encode("PING", wire.Ping(nonce=n + 1)) for n in range(50_000))
    try:
        for at in range(0, len(pings), 64_000):
            made.send_raw(pings[at : at + 64_000])
        made.pong(50_000)
    except (Closed, link.LinkEnded):
        # A device that reads too slowly what it asked for may not even see CLOSE in time.
        assert made.wait_closed() in ("flooding", "slow_device", "cut")


def test_a_flood_of_joins_to_nothing_is_answered_or_closed(world):
    made = world.connect()
    joins = b"".join(frame.encode("JOIN", wire.Join(request_id=n + 1, group=f"none-{n}")) for n in range(5_000))
    try:
        made.send_raw(joins)
        for n in range(5_000):
            assert page.ERROR_NAME[made.answer("JOINED", n + 1).params.status] in ("group_not_found", "unavailable")
    except (Closed, link.LinkEnded):
        assert made.wait_closed() in ("flooding", "slow_device", "cut")


def test_a_connection_that_is_reset_in_the_middle_of_anything_is_just_over(world):
    for protocol in ("tcp", "tls", "ws", "wss"):
        made = world.connect(protocol=protocol)
        raw = made.link.raw if protocol in ("ws", "wss") else made.link
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
