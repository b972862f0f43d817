"""Frames: WIRE.md, "Header" and "Frames". Bytes in, frames out; no sockets."""

import dataclasses
import struct

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from . import compressed, messages, page

MAGIC = b"hw"
VERSION = 1
HEADER_BYTES = int(page.LIMIT["header_bytes"])
PARAMS_BYTES_MAX = int(page.LIMIT["params_bytes_max"])
REQUIRED_FLAGS = 0xFF00
COMPRESSED = 0x0100


class BadFrame(Exception):
    """The reader would close with this code."""

    def __init__(self, code: str, why: str = ""):
        super().__init__(f"{page.CLOSE[code]} {code}: {why}")
        self.code = code


@dataclasses.dataclass
class Frame:
    """One frame. `name` is `skipped` for an ignorable kind, which has no parameters."""

    name: str
    params: object = None
    body: bytes = b""
    was_compressed: bool = dataclasses.field(default=False, compare=False)
    """The body came compressed; here it is plain."""
    size: int = dataclasses.field(default=0, compare=False)
    """Bytes of the frame as it came."""


def encode(name: str | int, params=None, body: bytes = b"", *, flags: int = 0, version: int = VERSION,
           magic: bytes = MAGIC, params_length: int | None = None, body_length: int | None = None) -> bytes:
    """A frame's bytes. `params` is a message, raw bytes or None; the rest exists to be wrong."""
    kind = page.KIND[name] if isinstance(name, str) else name
    raw = b"" if params is None else params if isinstance(params, bytes) else params.SerializeToString()
    header = struct.pack(
        ">2sBBHHI", magic, version, kind, flags,
        len(raw) if params_length is None else params_length,
        len(body) if body_length is None else body_length,
    )
    return header + raw + body


class Reader:
    """Takes bytes as they come and gives the frames in them, or raises BadFrame. It is the side that
    does not send the frames: `sender` is `device` or `node`."""

    def __init__(self, sender: str, limit: int, zstd: bool = False):
        self.sender = sender
        self.limit = limit
        self.zstd = zstd
        """The ability ZSTD is in force."""
        self.buffer = bytearray()

    def message(self, data: bytes) -> Frame:
        """One WebSocket message: exactly one frame."""
        # Less than a header, or anything after the frame, is a message that is not one frame.
        if len(data) < HEADER_BYTES:
            self.check_start(data)
            raise BadFrame("bad_frame", "a message below a header")
        size = self.size(data)
        if size != len(data):
            raise BadFrame("bad_frame", "the message is not exactly one frame")
        return self.read(data)

    def feed(self, data: bytes) -> list[Frame]:
        """Bytes of a stream; gives the frames that are whole now."""
        self.buffer += data
        frames = []
        while True:
            if len(self.buffer) < HEADER_BYTES:
                self.check_start(self.buffer)
                return frames
            size = self.size(self.buffer)
            if len(self.buffer) < size:
                return frames
            frames.append(self.read(bytes(self.buffer[:size])))
            del self.buffer[:size]

    def check_start(self, data: bytes) -> None:
        """Checks 1 and 2, as far as their bytes are there."""
        if not MAGIC.startswith(bytes(data[:2])):
            raise BadFrame("bad_magic")
        if len(data) > 2 and data[2] != VERSION:
            raise BadFrame("unsupported_version")

    def size(self, data: bytes) -> int:
        """Checks 1 to 4; the size of the frame."""
        self.check_start(data)
        _, _, _, flags, params, body = struct.unpack(">2sBBHHI", data[:HEADER_BYTES])
        if flags & REQUIRED_FLAGS & ~(COMPRESSED if self.zstd else 0):
            raise BadFrame("unsupported_feature")
        size = HEADER_BYTES + params + body
        if params > PARAMS_BYTES_MAX or size > self.limit:
            raise BadFrame("frame_too_large")
        return size

    def read(self, data: bytes) -> Frame:
        """Checks 5 and 6 on a whole frame."""
        _, _, kind, flags, length, _ = struct.unpack(">2sBBHHI", data[:HEADER_BYTES])
        name = page.KIND_NAME.get(kind)
        ignorable = range(0x60, 0x80) if self.sender == "device" else range(0xE0, 0x100)
        if name is None:
            if kind in ignorable:
                return Frame("skipped")
            raise BadFrame("unknown_kind", hex(kind))
        if (kind < 0x80) != (self.sender == "device"):
            raise BadFrame("unexpected_frame", name)
        raw, body = data[HEADER_BYTES : HEADER_BYTES + length], data[HEADER_BYTES + length :]
        if body and name not in page.WITH_BODY:
            if self.sender == "device":
                raise BadFrame("bad_frame", "a body where there is none")
            body = b""
        was_compressed = bool(flags & COMPRESSED)
        if was_compressed:
            body = self.plain(name, body, HEADER_BYTES + length)
        params = getattr(messages.wire, page.MESSAGE[name])()
        try:
            params.ParseFromString(raw)
        except DecodeError as failure:
            raise BadFrame("bad_frame", str(failure)) from failure
        check_types(params.DESCRIPTOR, raw)
        if self.sender == "device":
            check_rules(name, params)
        return Frame(name, params, body, was_compressed, len(data))

    def plain(self, name: str, body: bytes, before: int) -> bytes:
        """A compressed body, plain; `before`: bytes of the frame before the body."""
        try:
            if name not in compressed.KINDS:
                raise compressed.Unfit(f"{name} is never compressed")
            return compressed.plain(body, self.limit - before)
        except compressed.TooLarge as failure:
            raise BadFrame("frame_too_large", str(failure)) from failure
        except compressed.Unfit as failure:
            raise BadFrame("bad_frame", str(failure)) from failure


_VARINT, _LENGTH = 0, 2
_WIRE_TYPES = {
    FieldDescriptor.TYPE_STRING: _LENGTH, FieldDescriptor.TYPE_BYTES: _LENGTH, FieldDescriptor.TYPE_MESSAGE: _LENGTH,
    FieldDescriptor.TYPE_UINT32: _VARINT, FieldDescriptor.TYPE_UINT64: _VARINT, FieldDescriptor.TYPE_ENUM: _VARINT,
    FieldDescriptor.TYPE_BOOL: _VARINT,
}


def check_types(descriptor, raw: bytes) -> None:
    """A known field with another wire type. The page does not speak of it, the vector `bad_params_type`
    does; usual protobuf decoders take such a field for an unknown one."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (raw[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 0x80:
                return value

    while at < len(raw):
        number, kind = divmod(varint(), 8)
        known = descriptor.fields_by_number.get(number)
        if known is not None and kind != _WIRE_TYPES[known.type]:
            raise BadFrame("bad_frame", f"{descriptor.name}.{known.name} has another wire type")
        if kind == _VARINT:
            varint()
        elif kind == _LENGTH:
            size = varint()
            if known is not None and known.message_type is not None:
                check_types(known.message_type, raw[at : at + size])
            at += size
        else:
            at += {1: 8, 5: 4}.get(kind, len(raw))


def check_rules(name: str, params) -> None:
    """The rules of "Frames" for what devices send."""

    def rule(holds: bool, why: str) -> None:
        if not holds:
            raise BadFrame("bad_frame", why)

    if name in ("REQUEST", "REFRESH", "JOIN", "LEAVE"):
        rule(params.request_id != 0, "request_id 0")
    if name == "LOGIN":
        rule(len(params.instance) == 16, "instance is not 16 bytes")
        rule(params.attempt >= 1, "attempt 0")
        rule(len(params.businesses) <= page.LIMIT["businesses_per_connection_max"], "too many businesses")
        rule(len(params.cursors) <= page.LIMIT["businesses_per_connection_max"], "too many cursors")
    if name == "ACK":
        rule(len(params.inboxes) <= page.LIMIT["businesses_per_connection_max"], "too many inboxes")
    if name == "RESYNC":
        rule(params.HasField("after"), "no position")
    if name == "REQUEST":
        metadata = {key.encode(): value.encode() for key, value in params.metadata.items()}
        rule(len(params.method.encode()) <= page.LIMIT["method_bytes_max"], "method too long")
        rule(len(metadata) <= page.LIMIT["metadata_entries_max"], "too many metadata entries")
        size = sum(len(key) + len(value) for key, value in metadata.items())
        rule(size <= page.LIMIT["metadata_bytes_max"], "metadata too large")
        rule(len(params.traceparent.encode()) <= page.LIMIT["traceparent_bytes_max"], "traceparent too long")
    if name in ("JOIN", "LEAVE", "RECOVER"):
        rule(len(params.group.encode()) <= page.LIMIT["group_echo_bytes_max"], "group too long")
