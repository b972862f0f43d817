"""Getting a token: each proof, and what is wrong with bad ones."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from world import World, fresh
from hawser_wire import access, device, page
from hawser_wire.access import Refused
from house import until

HS256 = b"0123456789abcdef0123456789abcdef"
KEYS = {
    "HS256": HS256,
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": Ed25519PrivateKey.generate(),
}


def public_pem(key) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.fixture(scope="module")
def tenant(house, control, backend):
    made = World(house, control, backend)
    keys = [{"kid": alg, "alg": alg, "key": public_pem(key)} for alg, key in KEYS.items() if alg != "HS256"]
    keys.append({"kid": "HS256", "alg": "HS256", "key": base64.b64encode(HS256).decode()})
    control.call("PUT", f"{made.app.path}/identity-keys", keys)
    yield made
    made.release()


def log_in(tenant, granted, name):
    made = device.connect(granted, "tcp", tenant.name, name, tenant.house.ca)
    tenant.devices.append(made)
    return made


def refusal(tenant, name, proof, **more) -> str:
    with pytest.raises(Refused) as refused:
        access.ask(tenant.house.control, tenant.name, name, proof, **more)
    assert refused.value.status == page.HTTP_STATUS[refused.value.code]
    assert refused.value.response.headers["content-type"] == "application/problem+json"
    return refused.value.code


def identity(tenant, name, alg="EdDSA", headers=None, **claims) -> dict:
    claims = {"sub": name, "app": tenant.name, "exp": int(time.time()) + 60} | claims
    claims = {key: value for key, value in claims.items() if value is not None}
    headers = {"kid": alg} | (headers or {})
    return access.jwt_proof(jwt.encode(claims, KEYS[alg], algorithm=alg, headers=headers))


def test_the_answer_has_everything_the_page_names(tenant):
    name = fresh("device")
    answer = tenant.ask(name).answer
    wanted = {"token", "issued_at_ms", "refresh_at_ms", "expires_at_ms", "access_points", "heartbeat_ms", "idle_timeout_ms",
              "backoff", "reconnect_window_ms", "start_after_ms", "policy_version", "refresh_after_ms"}
    assert wanted <= set(answer)
    assert set(answer["backoff"]) >= {"base_ms", "max_ms", "factor", "jitter"}
    assert {point["protocol"] for point in answer["access_points"]} == set(device.PROTOCOLS)
    for point in answer["access_points"]:
        assert point["host"] and 0 < point["port"] < 65536 and point["weight"] >= 0
        assert point["protocol"] in ("tcp", "ws") or point["server_name"]
    assert answer["issued_at_ms"] < answer["refresh_at_ms"] < answer["expires_at_ms"]


def test_the_token_verifies_with_the_published_keys_and_says_what_the_page_says(tenant, control):
    name = fresh("device")
    token = tenant.ask(name, businesses=["chat"]).token
    header = jwt.get_unverified_header(token)
    assert header["alg"] == "EdDSA"
    keys = {key["kid"]: key for key in control.call("GET", "/.well-known/jwks.json")["keys"]}
    key = keys[header["kid"]]
    assert (key["kty"], key["crv"], key["alg"]) == ("OKP", "Ed25519", "EdDSA")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    claims = jwt.decode(token, public, algorithms=["EdDSA"], audience="hawser-access", issuer="hawser-control")
    assert (claims["sub"], claims["app"], claims["biz"]) == (name, tenant.name, ["chat"])
    assert isinstance(claims["aud"], str) and claims["jti"] and claims["iat"] < claims["exp"]
    assert len(token) < 1024


def test_an_open_app_takes_no_proof(tenant):
    name = fresh("open")
    granted = access.ask(tenant.house.control, tenant.name, name, access.open_proof())
    log_in(tenant, granted, name).ping(1)


def test_an_app_that_is_not_open_wants_a_proof(control, house, backend):
    closed = control.create_app(fresh("closed"), proof={"hmac": True, "jwt": False, "open": False})
    with pytest.raises(Refused) as refused:
        access.ask(house.control, closed.name, "d", access.open_proof())
    assert refused.value.code in ("proof_invalid", "disabled")


def test_a_proof_of_a_kind_the_app_does_not_take_is_refused(control, house, tenant):
    app = control.create_app(fresh("strict"), proof={"hmac": False, "jwt": True, "open": False})
    with pytest.raises(Refused) as refused:
        access.ask(house.control, app.name, "d", access.hmac_proof(app.client_secret, app.name, "d"))
    assert refused.value.code in ("proof_invalid", "disabled")


def test_hmac_lets_a_device_in(tenant):
    name = fresh("hmac")
    log_in(tenant, tenant.ask(name), name).ping(1)


def test_a_bad_hmac_proof_is_told_what_is_wrong(tenant):
    name, secret, app = fresh("hmac"), tenant.app.client_secret, tenant.name
    good = access.hmac_proof(secret, app, name)
    assert refusal(tenant, name, access.hmac_proof("hcs_wrong", app, name)) == "proof_invalid"
    assert refusal(tenant, name + "x", good) == "proof_invalid", "made for another device"
    assert refusal(tenant, name, access.hmac_proof(secret, "other", name)) == "proof_invalid", "made for another app"
    assert refusal(tenant, name, good | {"time": good["time"] - 1}) == "proof_invalid"
    assert refusal(tenant, name, good | {"nonce": good["nonce"][::-1]}) == "proof_invalid"
    for off in (-302, 302):
        assert refusal(tenant, name, access.hmac_proof(secret, app, name, at=int(time.time()) + off)) == "proof_expired"
    access.ask(tenant.house.control, app, name, good)
    assert refusal(tenant, name, good) == "proof_replayed"
    assert refusal(tenant, name, good | {"nonce": "short"}) == "invalid_argument"
    assert refusal(tenant, name, good | {"signature": "zz"}) in ("invalid_argument", "proof_invalid")


def test_a_device_key_is_bound_at_the_first_access(tenant, control):
    name, key, thief = fresh("bound"), Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    secret, app, at = tenant.app.client_secret, tenant.name, tenant.house.control
    log_in(tenant, access.ask(at, app, name, access.hmac_proof(secret, app, name, key)), name).ping(1)
    access.ask(at, app, name, access.hmac_proof(secret, app, name, key))
    assert refusal(tenant, name, access.hmac_proof(secret, app, name, thief)) == "device_key_mismatch"
    assert refusal(tenant, name, access.hmac_proof(secret, app, name)) == "device_key_mismatch"
    # The right key shown, but signed by another.
    shown = access.hmac_proof(secret, app, name, key)
    text = access.string_to_sign(app, name, shown["time"], shown["nonce"], shown["device_key"])
    forged = shown | {"device_signature": access.b64(thief.sign(text))}
    assert refusal(tenant, name, forged) in ("proof_invalid", "device_key_mismatch")
    control.call("DELETE", f"{tenant.app.path}/device-keys/{name}")
    access.ask(at, app, name, access.hmac_proof(secret, app, name, thief))


@pytest.mark.parametrize("alg", KEYS)
def test_an_identity_jwt_lets_a_device_in(tenant, alg):
    name = fresh("jwt")
    granted = access.ask(tenant.house.control, tenant.name, name, identity(tenant, name, alg))
    log_in(tenant, granted, name).ping(1)


def test_the_audience_may_name_the_app_instead_of_the_claim(tenant):
    name = fresh("jwt")
    access.ask(tenant.house.control, tenant.name, name, identity(tenant, name, app=None, aud=tenant.name))


def test_a_bad_identity_jwt_is_told_what_is_wrong(tenant):
    name, now = fresh("jwt"), int(time.time())
    for why, proof, codes in [
        ("another device", identity(tenant, name, sub="someone-else"), {"proof_invalid"}),
        ("another app", identity(tenant, name, app="someone-else"), {"proof_invalid"}),
        ("no app", identity(tenant, name, app=None), {"proof_invalid"}),
        ("no exp", identity(tenant, name, exp=None), {"proof_invalid"}),
        ("long expired", identity(tenant, name, exp=now - 3600), {"proof_expired", "proof_invalid"}),
        ("unknown kid", identity(tenant, name, headers={"kid": "nobody"}), {"proof_invalid"}),
        ("not a JWT", access.jwt_proof("a.b.c"), {"proof_invalid", "invalid_argument"}),
        ("another key", access.jwt_proof(jwt.encode({"sub": name, "app": tenant.name, "exp": now + 60}, Ed25519PrivateKey.generate(),
                                                    algorithm="EdDSA", headers={"kid": "EdDSA"})), {"proof_invalid"}),
    ]:
        assert refusal(tenant, name, proof) in codes, why


def test_an_identity_jwt_cannot_choose_its_algorithm(tenant):
    name = fresh("jwt")
    claims = {"sub": name, "app": tenant.name, "exp": int(time.time()) + 60}

    def token(alg, kid, sign):
        head = access.b64(json.dumps({"alg": alg, "typ": "JWT", "kid": kid}).encode())
        body = access.b64(json.dumps(claims).encode())
        return access.jwt_proof(f"{head}.{body}.{access.b64(sign(f'{head}.{body}'.encode()))}")

    def hs256(key):
        return lambda text: hmac.new(key, text, hashlib.sha256).digest()

    public = public_pem(KEYS["RS256"]).encode()
    assert refusal(tenant, name, token("none", "RS256", lambda text: b"")) == "proof_invalid"
    assert refusal(tenant, name, token("HS256", "RS256", hs256(public))) == "proof_invalid", "the public key as HMAC key"
    assert refusal(tenant, name, token("HS256", "EdDSA", hs256(public_pem(KEYS["EdDSA"]).encode()))) == "proof_invalid"


def test_names_that_do_not_exist_or_have_no_form(tenant):
    proof = access.open_proof()
    for app, name, code in [("no-such-app", "d", "not_found"), ("Bad App", "d", "invalid_argument"), (tenant.name, "", "invalid_argument"),
                            (tenant.name, "a" * 129, "invalid_argument"), (tenant.name, "a\nb", "invalid_argument")]:
        with pytest.raises(Refused) as refused:
            access.ask(tenant.house.control, app, name, proof)
        assert refused.value.code == code, (app, name)
    # The longest id there is, and not in ASCII.
    name = "ü" * 64
    log_in(tenant, access.ask(tenant.house.control, tenant.name, name, proof), name).ping(1)


def test_a_browser_may_ask_from_an_allowed_origin_only(control, house, backend):
    tenant = World(house, control, backend, allowed_origins=["https://good.example"])
    asked = {"app": tenant.name, "device": "web", "proof": access.open_proof(), "platform": "web"}
    good = access.call(house.control, asked, {"origin": "https://good.example"})
    assert good.status_code == 200
    assert good.headers["access-control-allow-origin"] in ("https://good.example", "*")
    assert {point["protocol"] for point in good.json()["access_points"]} <= {"ws", "wss"}
    bad = access.call(house.control, asked, {"origin": "https://bad.example"})
    assert (bad.status_code, bad.json()["code"]) == (403, "permission_denied")
    preflight = control.bare("OPTIONS", "/v1/access", headers={
        "origin": "https://good.example", "access-control-request-method": "POST", "access-control-request-headers": "content-type"})
    assert preflight.is_success
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
    # The node asks the same of an upgrade, when LOGIN names the app.
    for origin, wanted in [("https://good.example", None), (None, None), ("https://bad.example", "app_unavailable"), ("null", "app_unavailable")]:
        made = tenant.link("ws", origin=origin)
        if wanted is None:
            made.login(made.access.token)
        else:
            with pytest.raises(device.Closed, match=wanted):
                made.login(made.access.token)
    tenant.release()


def test_a_client_secret_rotates_with_overlap(control, house, backend):
    tenant = World(house, control, backend)
    old = tenant.app.client_secret
    new = control.call("POST", f"{tenant.app.path}/client-secret", {"overlap_s": 2})["client_secret"]
    assert new != old
    for secret in (old, new):
        access.ask(house.control, tenant.name, "d", access.hmac_proof(secret, tenant.name, "d"))

    def old_is_dead():
        try:
            access.ask(house.control, tenant.name, "d", access.hmac_proof(old, tenant.name, "d"))
            return False
        except Refused as refused:
            assert refused.code == "proof_invalid"
            return True

    until(old_is_dead, 5, "the old client secret to end")
    access.ask(house.control, tenant.name, "d", access.hmac_proof(new, tenant.name, "d"))
    tenant.release()
