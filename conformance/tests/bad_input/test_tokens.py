"""Tokens that a node must refuse, each with its code; first at the real house, then at a node whose
control is ours, so that also bad tokens with good signatures come."""

import base64
import hashlib
import hmac
import json
import re
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import own_control
from hawser_wire import device, messages, page
from hawser_wire.access import b64
from hawser_wire.device import Closed
from house import until
from world import fresh

control_rpc = messages.control


def parts(token):
    return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")]


def join(header: dict, claims: dict, signature: bytes) -> str:
    return ".".join(b64(part) for part in (json.dumps(header).encode(), json.dumps(claims).encode(), signature))


def forgeries(token: str, public_key: bytes, kid: str):
    """Name, code, token."""
    head, body, signature = parts(token)
    header, claims = json.loads(head), json.loads(body)

    def hs256(header, key):
        text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{text}.{b64(hmac.new(key, text.encode(), hashlib.sha256).digest())}"

    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    stranger = Ed25519PrivateKey.generate()
    return [
        ("empty", "token_invalid", ""),
        ("no JWT", "token_invalid", "not-a-token"),
        ("two parts", "token_invalid", token.rpartition(".")[0]),
        ("four parts", "token_invalid", token + ".e30"),
        ("a header that is no JSON", "token_invalid", ".".join([b64(b"x"), *token.split(".")[1:]])),
        ("a flipped bit in the signature", "token_invalid", join(header, claims, flipped)),
        ("no signature", "token_invalid", token.rpartition(".")[0] + "."),
        ("claims changed under the signature", "token_invalid", ".".join([token.split(".")[0], b64(json.dumps(claims | {"exp": claims["exp"] + 1}).encode()), token.split(".")[2]])),
        ("signed by a stranger under our kid", "token_invalid", own_control.sign(stranger, header, claims)),
        ("signed by a stranger under an unknown kid", "token_unknown_key", own_control.sign(stranger, header | {"kid": "nobody"}, claims)),
        ("signed by a stranger with its key in the header", "token_invalid", own_control.sign(stranger, header | {
            "jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(own_control.public(stranger))}}, claims)),
        ("no kid", "token_unknown_key", own_control.sign(stranger, {"typ": "JWT", "alg": "EdDSA"}, claims)),
        ("algorithm none", "token_invalid", join(header | {"alg": "none"}, claims, b"")),
        ("algorithm None", "token_invalid", join(header | {"alg": "None"}, claims, b"")),
        ("algorithm none with the old signature", "token_invalid", join(header | {"alg": "none"}, claims, signature)),
        ("HS256 with the public key", "token_invalid", hs256(header | {"alg": "HS256"}, public_key)),
        ("HS256 with the public key as text", "token_invalid", hs256(header | {"alg": "HS256"}, b64(public_key).encode())),
        ("HS256 under an unknown kid", ("token_invalid", "token_unknown_key"), hs256(header | {"alg": "HS256", "kid": "nobody"}, public_key)),
        ("no algorithm", "token_invalid", join({"typ": "JWT", "kid": kid}, claims, signature)),
    ]


def refused(made, token) -> str:
    with pytest.raises(Closed) as closed:
        made.login(token)
    assert made.wait_closed() == closed.value.code
    return closed.value.code


@pytest.mark.parametrize("protocol", ["tcp", "ws", "quic"])
def test_forged_tokens_are_refused_and_the_true_one_is_not(world, control, protocol):
    made = world.link(protocol)
    token = made.access.token
    kid = json.loads(parts(token)[0])["kid"]
    keys = {key["kid"]: key["x"] for key in control.call("GET", "/.well-known/jwks.json")["keys"]}
    public_key = base64.urlsafe_b64decode(keys[kid] + "=")
    for why, code, forged in forgeries(token, public_key, kid):
        stranger = world.link(protocol, made.device)
        assert refused(stranger, forged) in (code if isinstance(code, tuple) else (code,)), why
    made.login(token)


def test_a_token_of_another_device_or_app_is_a_mismatch(world, other):
    made, owner = world.link(), world.link()
    assert refused(made, owner.access.token) == "token_mismatch"
    stranger = other.link("tcp")
    theirs = stranger.access.token
    made = world.link("ws", stranger.device)
    assert refused(made, theirs) == "token_mismatch"
    # The same, but naming the other app in LOGIN as well as its own device: the token decides.
    made = world.link("tcp")
    made.app = other.name
    assert refused(made, made.access.token) == "token_mismatch"
    stranger.login(theirs)
    owner.login(owner.access.token)
    other.release()


def test_an_app_that_does_not_exist_cannot_be_named(world):
    made = world.link()
    made.app = fresh("none")
    assert refused(made, made.access.token) in ("token_mismatch", "app_unavailable")


# With a control of our own.


@pytest.fixture(scope="module")
def cluster():
    with own_control.cluster("own", "chat") as made:
        yield made


class Own:
    """Devices of the app `own`."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.devices = []

    def link(self, protocol="tcp", name=None):
        point = self.cluster.point(protocol)
        made = device.Device(device.dial(protocol, point, ""), "own", name or fresh("own"))
        self.devices.append(made)
        return made


@pytest.fixture
def own(cluster):
    made = Own(cluster)
    yield made
    for it in made.devices:
        it.drop()


def test_our_own_token_is_as_good_as_any(own, cluster):
    for protocol in ("tcp", "ws"):
        made = own.link(protocol)
        made.login(cluster.own.token(made.device))
        assert [(entry.name, entry.number) for entry in made.login_ok.businesses] == [("chat", 1)]
        made.ping(1)


def test_an_access_node_of_its_own_refuses_the_same_forgeries(own, cluster):
    made = own.link()
    key = cluster.own.keys["good"]
    for why, code, forged in forgeries(cluster.own.token(made.device), own_control.public(key), "good"):
        assert refused(own.link(name=made.device), forged) in (code if isinstance(code, tuple) else (code,)), why


NOW = int(time.time())
TABLE = [
    ("another audience", "token_wrong_audience", dict(aud="hawser-control")),
    ("no audience", ("token_wrong_audience", "token_invalid"), dict(aud=None)),
    ("a list of audiences", ("token_wrong_audience", "token_invalid"), dict(aud=["hawser-access"])),
    ("another issuer", "token_wrong_audience", dict(iss="somebody")),
    ("no issuer", ("token_wrong_audience", "token_invalid"), dict(iss=None)),
    ("long expired", "token_expired", dict(iat=NOW - 9000, exp=NOW - 3600)),
    ("expired beyond the leeway", "token_expired", dict(iat=NOW - 9000, exp=NOW - 61)),
    ("expired, wrong audience", "token_wrong_audience", dict(aud="x", exp=NOW - 3600)),
    ("no exp", "token_invalid", dict(exp=None)),
    ("exp as a text", "token_invalid", dict(exp=str(NOW + 60))),
    ("exp below zero", ("token_invalid", "token_expired"), dict(exp=-1)),
    ("made in the future", "token_invalid", dict(iat=NOW + 600)),
    ("no iat", "token_invalid", dict(iat=None)),
    ("no sub", "token_invalid", dict(sub=None)),
    ("an empty sub", ("token_invalid", "token_mismatch"), dict(sub="")),
    ("sub as a number", "token_invalid", dict(sub=7)),
    ("no app", "token_invalid", dict(app=None)),
    ("an app of no form", ("token_invalid", "token_mismatch"), dict(app="Own App")),
    ("no jti", "token_invalid", dict(jti=None)),
    ("biz as a text", "token_invalid", dict(biz="chat")),
    ("biz with a number in it", "token_invalid", dict(biz=[1])),
    ("pol as a text", "token_invalid", dict(pol="1")),
    ("a key that has ended", ("token_unknown_key", "token_expired"), dict(kid="old")),
]


@pytest.mark.parametrize("why, code, claims", TABLE, ids=lambda it: it if isinstance(it, str) and " " in it else "")
def test_a_well_signed_token_that_says_the_wrong_thing_is_refused(own, cluster, why, code, claims):
    made = own.link()
    told = refused(made, cluster.own.token(made.device, **claims))
    assert told in (code if isinstance(code, tuple) else (code,)), why


def test_clocks_may_differ_by_a_minute(own, cluster):
    now = int(time.time())
    for claims in (dict(exp=now - 30, iat=now - 3000), dict(iat=now + 30)):
        made = own.link()
        made.login(cluster.own.token(made.device, **claims))
        made.ping(1)


def test_a_session_is_closed_a_minute_after_its_token_expired(own, cluster):
    made, now = own.link(), int(time.time())
    made.login(cluster.own.token(made.device, iat=now - 3000, exp=now - 57))
    began = time.time()
    assert made.wait_closed(8) == "token_expired"
    assert now + 2 <= time.time() <= now + 7 and time.time() - began < 7


def test_a_refresh_keeps_the_session_beyond_the_first_token(own, cluster):
    made, now = own.link(), int(time.time())
    made.login(cluster.own.token(made.device, iat=now - 3000, exp=now - 57))
    said = made.refresh()
    assert said.status == 0 and said.token_expires_at_ms > now * 1000
    time.sleep(5)
    made.ping(1)


def test_a_refresh_that_control_cannot_answer_is_unavailable_and_the_session_goes_on(own, cluster):
    made = own.link()
    made.login(cluster.own.token(made.device))
    cluster.own.refreshes = "refuse"
    try:
        assert page.ERROR_NAME[made.refresh().status] == "unavailable"
    finally:
        cluster.own.refreshes = "grant"
    made.ping(1)
    assert made.refresh().status == 0


def test_a_key_that_is_withdrawn_opens_nothing_more(own, cluster):
    key = Ed25519PrivateKey.generate()
    told = control_rpc.SigningKey(kid="brief", public_key=own_control.public(key))
    cluster.own.change(signing_key=told)

    def try_login():
        made = own.link()
        try:
            made.login(cluster.own.token(made.device, kid="brief", key=key))
            return "ok"
        except Closed as closed:
            return closed.code

    until(lambda: try_login() == "ok", 5, "a new key to be known")
    cluster.own.change(signing_key=told, removed=True)
    until(lambda: try_login() == "token_unknown_key", 5, "a removed key to be unknown")


def test_the_internal_services_open_to_the_cluster_secret_alone(cluster):
    # Any method of the node service: the secret is asked before the name is looked at.
    text = (page.ROOT / "proto" / "rpc" / "node.proto").read_text(encoding="utf-8")
    package = re.search(r"^package ([\w.]+);", text, re.M)[1]
    methods = [(service, method) for service, body in re.findall(r"service (\w+) \{(.*?)\n\}", text, re.S)
               for method in re.findall(r"rpc (\w+)\(", body)]
    assert methods
    with grpc.insecure_channel(f"127.0.0.1:{cluster.ports['internal']}") as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", own_control.SECRET),)):
            for service, method in methods:
                call = channel.stream_stream(f"/{package}.{service}/{method}", request_serializer=bytes, response_deserializer=bytes)
                with pytest.raises(grpc.RpcError) as failed:
                    list(call(iter([b""]), metadata=metadata, timeout=5))
                assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED, (method, metadata)
