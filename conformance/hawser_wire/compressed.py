"""Compressed bodies: WIRE.md, "Compressed bodies"."""

import zstandard

from . import page

WINDOW_BYTES_MAX = int(page.LIMIT["compressed_window_bytes_max"])
KINDS = ("PUSH", "GROUP_PUSH")


class Unfit(Exception):
    """Not a body that may be sent."""


class TooLarge(Exception):
    """Above what the frame limit leaves for it."""


def plain(body: bytes, room: int) -> bytes:
    """What the body becomes: at most `room` bytes, which is looked at before anything is reserved for it."""
    try:
        head = zstandard.get_frame_parameters(body)
        if head.content_size == zstandard.CONTENTSIZE_UNKNOWN or head.dict_id or head.window_size > WINDOW_BYTES_MAX:
            raise Unfit("no content size, a dictionary, or too large a window")
        if head.content_size > room:
            raise TooLarge(f"{head.content_size} bytes")
        made = zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as failure:
        raise Unfit(str(failure)) from failure
    if len(made) != head.content_size:
        raise Unfit("another length than it says")
    return made
