"""The golden vectors, read by a codec that was written from the page alone."""

import base64
import hashlib
import hmac

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hawser_wire import access, frame, page

CASES = sorted(page.VECTORS.glob("*.hex"))


STREAMS = [path for path in CASES if page.vector(path)[0]["as"] == "stream"]
# One frame, and no field that this version does not know.
PLAIN = [path for path in STREAMS if path.stem.partition("_")[0] not in ("bad", "more", "fields", "stream", "skipped")]


def reader_of(head):
    return frame.Reader(head["from"], int(head["limit"]), zstd="ZSTD" in head.get("abilities", ""))


def outcome(head, data) -> str:
    reader = reader_of(head)
    try:
        if head["as"] == "message":
            return reader.message(data).name
        names = [got.name for got in reader.feed(data)]
    except frame.BadFrame as bad:
        return f"close {page.CLOSE[bad.code]} {bad.code}"
    if reader.buffer:
        return ", ".join([*names, "more"])
    return ", ".join(names)


def test_there_are_vectors_of_every_kind_of_frame():
    told = " ".join(page.vector(path)[0]["expect"] for path in CASES)
    for name in page.KIND:
        assert name in told, f"no vector has {name}"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_reader_made_from_the_page_makes_of_it_what_the_vector_says(path):
    head, data = page.vector(path)
    assert outcome(head, data) == head["expect"]


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_stream_says_the_same_however_it_is_cut(path):
    head, data = page.vector(path)
    reader, names, expected = reader_of(head), [], head["expect"]
    try:
        for at in range(len(data)):
            names += [got.name for got in reader.feed(data[at : at + 1])]
        seen = ", ".join(names + ["more"] * bool(reader.buffer))
    except frame.BadFrame as bad:
        seen = f"close {page.CLOSE[bad.code]} {bad.code}"
    assert seen == expected


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_an_encoder_made_from_the_page_gives_frames_that_read_back_the_same(path):
    head, data = page.vector(path)
    [got] = reader_of(head).feed(data)
    again = frame.encode(got.name, got.params, got.body)
    [back] = frame.Reader(head["from"], int(head["limit"])).feed(again)
    assert back == got


def lines_of(name):
    text = (page.VECTORS / name).read_text(encoding="utf-8")
    found = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(key, value.strip()) for key, value in found]


def test_the_token_example_verifies_with_the_key_on_the_page():
    facts = dict(lines_of("token.txt"))
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo="))
    claims = jwt.decode(facts["token"], key, algorithms=["EdDSA"], audience="hawser-access", issuer="hawser-control",
                        options={"verify_exp": False, "verify_iat": False})
    assert claims["sub"] == "web-1" and claims["app"] == "demo" and claims["biz"] == ["chat"]


def test_the_proof_examples_come_out_as_printed():
    shown = lines_of("proof.txt")
    strings = [value.replace("\\n", "\n") for key, value in shown if key == "string"]
    signatures = [value for key, value in shown if key == "signature"]
    device_key = dict(shown)["device_key"]
    assert strings == [
        access.string_to_sign("demo", "web-1", 1800000000, "0123456789abcdef").decode(),
        access.string_to_sign("demo", "web-1", 1800000000, "0123456789abcdef", device_key).decode(),
    ]
    for text, wanted in zip(strings, signatures, strict=True):
        assert hmac.new(b"example-client-secret", text.encode(), hashlib.sha256).hexdigest() == wanted
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(device_key + "="))
    public.verify(base64.urlsafe_b64decode(dict(shown)["device_signature"] + "=="), strings[1].encode())
