"""What RFC 6455 and the page forbid on a WebSocket, and what they allow."""

import os
import struct

import pytest

from hawser_wire import frame, link, messages, page
from hawser_wire.device import Closed, close_name

wire = messages.wire
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
login_limit = int(page.LIMIT["login_frame_bytes_max"])


def ws(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True, length: int | None = None, form: str | None = None) -> bytes:
    """A WebSocket frame, as wrong as wanted. `form`: how the length is written."""
    size = len(data) if length is None else length
    form = form or ("7" if size < 126 else "16" if size < 65536 else "64")
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask else 0
    if form == "7":
        head += bytes([masked | size])
    elif form == "16":
        head += bytes([masked | 126]) + struct.pack(">H", size)
    else:
        head += bytes([masked | 127]) + struct.pack(">Q", size)
    if not mask:
        return head + data
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


PING_FRAME = frame.encode("PING", wire.Ping(nonce=7))
OVERSIZED = frame.encode("REQUEST", wire.Request(request_id=1, business=1), bytes(70_000))

WRONG = [
    ("a text message", ws(TEXT, b"hello"), "bad_websocket"),
    ("a frame as text", ws(TEXT, b"hw\x01\x02" + bytes(8)), "bad_websocket"),
    ("an empty text message", ws(TEXT), "bad_websocket"),
    ("an unmasked frame", ws(BINARY, PING_FRAME, mask=False), "bad_websocket"),
    ("an unmasked ping", ws(PING, b"x", mask=False), "bad_websocket"),
    ("reserved bit 1", ws(BINARY, PING_FRAME, rsv=4), "bad_websocket"),
    ("reserved bit 2", ws(BINARY, PING_FRAME, rsv=2), "bad_websocket"),
    ("reserved bit 3", ws(BINARY, PING_FRAME, rsv=1), "bad_websocket"),
    *[(f"opcode {opcode:#x}", ws(opcode, b"x"), "bad_websocket") for opcode in (3, 4, 7, 0xB, 0xF)],
    ("a fragmented ping", ws(PING, b"x", fin=False), "bad_websocket"),
    ("a fragmented close", ws(CLOSE, b"\x03\xe8", fin=False), "bad_websocket"),
    ("a ping of 126 bytes", ws(PING, b"x" * 126), "bad_websocket"),
    ("a close of 126 bytes", ws(CLOSE, b"\x03\xe8" + b"x" * 124), "bad_websocket"),
    ("a continuation of nothing", ws(CONT, PING_FRAME), "bad_websocket"),
    ("a new message within a message", ws(BINARY, PING_FRAME[:5], fin=False) + ws(BINARY, PING_FRAME), "bad_websocket"),
    ("text within a message", ws(BINARY, PING_FRAME[:5], fin=False) + ws(TEXT, b"x"), "bad_websocket"),
    ("a continuation after the end", ws(BINARY, PING_FRAME) + ws(CONT, b"x"), ("bad_websocket", "login_required")),
    ("a length of 2^63 and more", ws(BINARY, length=2**63 + 5, form="64"), ("bad_websocket", "frame_too_large")),
    ("a length of 2^63-1", ws(BINARY, length=2**63 - 1, form="64"), "frame_too_large"),
    ("a length of 2^32", ws(BINARY, length=2**32, form="64"), "frame_too_large"),
    ("a message above the limit", ws(BINARY, OVERSIZED), "frame_too_large"),
    ("its header alone", ws(BINARY, length=2_000_000, form="64"), "frame_too_large"),
    ("fragments above the limit, the end never comes",
     ws(BINARY, OVERSIZED[:40_000], fin=False) + ws(CONT, OVERSIZED[40_000:], fin=False), "frame_too_large"),
    ("an empty message", ws(BINARY), "bad_frame"),
    ("an empty message in fragments", ws(BINARY, fin=False) + ws(CONT, fin=False) + ws(CONT), "bad_frame"),
    ("half a header", ws(BINARY, b"hw\x01\x02\x00\x00"), "bad_frame"),
    ("two frames in a message", ws(BINARY, PING_FRAME * 2), "bad_frame"),
    ("a frame and one byte", ws(BINARY, PING_FRAME + b"x"), "bad_frame"),
    ("a frame less one byte", ws(BINARY, PING_FRAME[:-1]), "bad_frame"),
    ("a frame over two messages", ws(BINARY, PING_FRAME[:6]) + ws(BINARY, PING_FRAME[6:]), "bad_frame"),
]


@pytest.mark.parametrize("protocol", ["ws", "wss"])
@pytest.mark.parametrize("state", ["stranger", "session"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda it: it[0])
def test_it_is_closed_with_its_code(world, protocol, state, wrong):
    _, data, code = wrong
    made = world.link(protocol) if state == "stranger" else world.connect(protocol=protocol)
    made.link.raw.send(data)
    told = made.wait_closed()
    assert told in (code if isinstance(code, tuple) else (code,))


def whole(made, data: bytes) -> None:
    made.link.raw.send(data)


def cut(data: bytes, *at: int) -> list[bytes]:
    edges = [0, *at, len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@pytest.mark.parametrize("protocol", ["ws", "wss"])
def test_legal_fragments_with_control_frames_between_are_one_message(world, protocol):
    made = world.link(protocol)
    first, *middle, last = cut(frame.encode("LOGIN", made.login_params(made.access.token)), 1, 2, 2, 12, 100)
    whole(made, ws(BINARY, first, fin=False) + ws(PING, b"are you there"))
    for part in middle:
        whole(made, ws(CONT, part, fin=False) + ws(PONG, b"unasked"))
    whole(made, ws(CONT, last))
    made.wait_login()
    whole(made, ws(BINARY, PING_FRAME[:3], fin=False) + ws(PING) + ws(CONT, PING_FRAME[3:]))
    made.pong(7)


def test_lengths_in_their_longer_forms_are_read_or_refused_and_never_misread(world):
    for form in ("16", "64"):
        made = world.connect(protocol="ws")
        whole(made, ws(BINARY, PING_FRAME, form=form))
        try:
            made.pong(7)
        except Closed as closed:
            assert closed.code == "bad_websocket"


def test_fragments_of_exactly_the_limit_are_taken(world):
    made = world.connect(protocol="ws")
    limit = made.login_ok.frame_bytes_max
    params = wire.Request(request_id=1, business=made.number("chat"), method="count").SerializeToString()
    data = frame.encode("REQUEST", params, b"k" * (limit - 12 - len(params)))
    assert len(data) == limit
    whole(made, ws(BINARY, data[:30_000], fin=False) + ws(CONT, data[30_000:]))
    # The body names an attribute that is far too long, which the node says of the business's answer.
    assert page.ERROR_NAME[made.answer("RESPONSE", 1).params.status] == "business_failed"


def test_a_ping_of_the_websocket_is_answered_with_its_bytes(world):
    stranger = world.link("ws", heartbeat=False)
    raw = stranger.link.raw
    with stranger.link.lock:
        raw.send(ws(PING, b"x" * 125))
        # The reader thread has the socket; it keeps what is no message for itself.
    stranger.login(stranger.access.token)
    pongs = [event for event in stranger.link.control if event.opcode == PONG]
    assert [bytes(event.data) for event in pongs] == [b"x" * 125]


@pytest.mark.parametrize("body", [b"", b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0"], ids=["none", "1000", "with words", "4000"])
def test_a_close_of_the_device_ends_the_connection_as_an_end_of_stream_does(world, body):
    made = world.connect(protocol="ws")
    whole(made, ws(CLOSE, body))
    assert made.wait_closed() in ("cut", "goodbye")


@pytest.mark.parametrize("body", [b"x", b"\x00\x01", b"\x03\xe8\xff\xfe"], ids=["one byte", "code 1", "no UTF-8"])
def test_a_malformed_close_ends_it_too(world, body):
    made = world.connect(protocol="ws")
    whole(made, ws(CLOSE, body))
    assert made.wait_closed() in ("cut", "goodbye", "bad_websocket")


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = "Sec-WebSocket-Version: 13"
UPGRADE = "Upgrade: websocket"
CONNECTION = "Connection: Upgrade"


def ask_upgrade(world, first: str, *headers: str) -> tuple[bytes, link.Bytes]:
    point = world.ask("upgrade").point("ws")
    raw = link.dial_tcp(point["host"], point["port"])
    got = b""
    try:
        raw.send("\r\n".join([first, "Host: localhost", *headers, "", ""]).encode("latin-1"))
        while b"\r\n\r\n" not in got:
            data = raw.recv(7)
            assert data is not None, f"neither an answer nor an end: {got!r}"
            got += data
    except link.LinkEnded:
        pass
    return got, raw


@pytest.mark.parametrize("first, headers", [
    ("GET / HTTP/1.1", (UPGRADE, CONNECTION, VERSION)),
    ("GET / HTTP/1.1", (UPGRADE, CONNECTION, KEY)),
    ("GET / HTTP/1.1", (UPGRADE, CONNECTION, KEY, "Sec-WebSocket-Version: 12")),
    ("GET / HTTP/1.1", (CONNECTION, KEY, VERSION)),
    ("GET / HTTP/1.1", (UPGRADE, KEY, VERSION)),
    ("GET / HTTP/1.1", ()),
    ("GET / HTTP/1.0", (UPGRADE, CONNECTION, KEY, VERSION)),
    ("POST / HTTP/1.1", (UPGRADE, CONNECTION, KEY, VERSION)),
    ("nonsense", ()),
    ("GET / HTTP/1.1", (UPGRADE, CONNECTION, KEY, VERSION, "X: " + "y" * 100_000)),
    ("GET / HTTP/1.1", (UPGRADE, CONNECTION, KEY, VERSION, *[f"X-{n}: y" for n in range(1000)])),
], ids=["no key", "no version", "version 12", "no Upgrade", "no Connection", "a plain GET", "HTTP/1.0", "POST", "nonsense", "a huge header", "many headers"])
def test_an_upgrade_that_is_none_is_refused(world, first, headers):
    got, raw = ask_upgrade(world, first, *headers)
    assert not got.startswith(b"HTTP/1.1 101"), got[:100]
    assert not got or got.startswith(b"HTTP/1.")
    raw.close()


@pytest.mark.parametrize("path", ["/", "/any/path", "/?query=1", "/%ff%00"])
def test_any_path_is_upgraded_and_no_extension_is_taken(world, path):
    got, raw = ask_upgrade(world, f"GET {path} HTTP/1.1", UPGRADE, CONNECTION, KEY, VERSION,
                           "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: other, hawser.1")
    head = got.lower()
    assert head.startswith(b"http/1.1 101"), got[:200]
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
    assert b"sec-websocket-extensions" not in head
    assert b"sec-websocket-protocol: hawser.1" in head
    raw.close()


def test_another_sub_protocol_is_not_echoed_and_no_error(world):
    got, raw = ask_upgrade(world, "GET / HTTP/1.1", UPGRADE, CONNECTION, KEY, VERSION, "Sec-WebSocket-Protocol: other")
    assert got.startswith(b"HTTP/1.1 101") and b"sec-websocket-protocol" not in got.lower()
    raw.close()


def test_frames_before_the_upgrade_is_answered_are_handled_or_refused_and_never_misread(world):
    # RFC 6455, 4.1: a client waits for the answer before it sends anything more.
    name = "eager"
    granted = world.ask(name)
    point = granted.point("ws")
    raw = link.dial_tcp(point["host"], point["port"])
    login = wire.Login(app=world.name, device=name, token=granted.token, instance=os.urandom(16), attempt=1)
    request = "\r\n".join(["GET / HTTP/1.1", "Host: localhost", UPGRADE, CONNECTION, KEY, VERSION, "", ""]).encode()
    raw.send(request + ws(BINARY, frame.encode("LOGIN", login)) + ws(BINARY, PING_FRAME))
    got = b""
    try:
        while b"hw\x01\x82" not in got:
            data = raw.recv(5)
            assert data is not None, got
            got += data
        assert b"hw\x01\x81" in got
    except link.LinkEnded:
        assert b"hw" not in got
    raw.close()


def test_the_number_of_close_is_the_number_of_the_websocket_close(world):
    made = world.connect(protocol="wss")
    made.send(0x05)
    assert made.wait_closed() == "unknown_kind"
    assert made.ended.code == page.CLOSE["unknown_kind"] == made.close_frame.code
    assert close_name(made.close_frame) == "unknown_kind"
