"""What proto/WIRE.md says, as data: message definitions, kinds, codes and limits."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "proto" / "WIRE.md"
VECTORS = ROOT / "proto" / "tests" / "vectors"
TEXT = PATH.read_text(encoding="utf-8")


def vector(path: pathlib.Path) -> tuple[dict[str, str], bytes]:
    """A golden vector: what its first comments say, and its bytes. WIRE.md, "Vectors"."""
    head, code = {}, []
    for line in path.read_text(encoding="utf-8").splitlines():
        text, _, comment = line.partition("#")
        code.append(text)
        name, colon, value = comment.strip().partition(": ")
        if colon and not text.strip():
            head[name] = value
    return head, bytes.fromhex("".join(code))


def section(title: str) -> str:
    """The text below a heading, up to the next one of the same depth or above."""
    head = re.search(rf"^(#+) {re.escape(title)}$", TEXT, re.M)
    if head is None:
        raise LookupError(f"WIRE.md has no section {title!r}")
    depth = len(head[1])
    rest = TEXT[head.end() :]
    after = re.search(rf"^#{{1,{depth}}} ", rest, re.M)
    return rest[: after.start()] if after else rest


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of the tables in a text that have so many columns, without back quotes."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if len(row) == columns and not set(row[0]) <= set("-: ")]


def definitions() -> str:
    """The protobuf file that is printed in "Messages"."""
    block = re.search(r"```proto\n(.*?)```", section("Messages"), re.S)
    assert block, "the section Messages prints the definitions"
    return block[1]


def _kinds() -> dict[str, int]:
    found = [row for row in rows(section("Frames"), 5) if row[0].startswith("0x")]
    return {name: int(kind, 16) for kind, name, *_ in found}


def _messages() -> dict[str, str]:
    found = [row for row in rows(section("Frames"), 5) if row[0].startswith("0x")]
    return {name: message for _, name, message, *_ in found}


def _with_body() -> set[str]:
    found = [row for row in rows(section("Frames"), 5) if row[0].startswith("0x")]
    return {name for _, name, _, body, _ in found if body == "opaque"}


def _closes() -> dict[str, int]:
    return {name: int(number) for number, name, _, _ in rows(section("Close codes"), 4) if number.isdigit()}


def _errors() -> dict[str, int]:
    return {name: int(number) for number, name, *_ in rows(section("Errors"), 5) if number.isdigit()}


def _limits() -> dict[str, float]:
    found = rows(section("Limits"), 3)
    return {name: _number(value) for name, value, _ in found if name != "limit"}


def _number(value: str) -> float:
    """Times in seconds."""
    number, _, unit = value.partition(" ")
    return float(number) / {"": 1, "s": 1, "ms": 1000}[unit]


def _abilities() -> dict[str, int]:
    found = [row for row in rows(section("Abilities"), 3) if "(0x" in row[0]]
    return {name: int(re.search(r"0x([0-9a-f]+)", bit)[1], 16) for bit, name, _ in found}


KIND = _kinds()
"""Kind number of each frame, by its name."""
KIND_NAME = {number: name for name, number in KIND.items()}
MESSAGE = _messages()
"""Name of the protobuf message of each frame."""
WITH_BODY = _with_body()
"""Frames that may carry a body."""
CLOSE = _closes()
"""Close codes."""
CLOSE_NAME = {number: name for name, number in CLOSE.items()}
ERROR = _errors()
"""Error numbers."""
ERROR_NAME = {0: "ok"} | {number: name for name, number in ERROR.items()}
HTTP_STATUS = {row[1]: int(row[2]) for row in rows(section("Errors"), 5) if row[0].isdigit()}
GRPC_STATUS = {row[1]: int(row[3]) for row in rows(section("Errors"), 5) if row[0].isdigit()}
LIMIT = _limits()
"""Limits; those in time are seconds."""
ABILITY = _abilities()
"""Bits of `abilities`."""
