"""Getting a token: WIRE.md, "Getting a token: POST /v1/access"."""

import base64
import dataclasses
import hashlib
import hmac
import secrets
import time

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_client = httpx.Client(timeout=10, trust_env=False)


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def open_proof() -> dict:
    return {"type": "open"}


def string_to_sign(app: str, device: str, at: int, nonce: str, device_key: str = "") -> bytes:
    return f"hawser-access-v1\n{app}\n{device}\n{at}\n{nonce}\n{device_key}".encode()


def hmac_proof(secret: str, app: str, device: str, key: Ed25519PrivateKey | None = None, at: int | None = None) -> dict:
    """A proof with the app's client secret, and with the device's own key if it has one."""
    at = int(time.time()) if at is None else at
    nonce = secrets.token_urlsafe(24)
    proof = {"type": "hmac", "time": at, "nonce": nonce}
    shown = ""
    if key is not None:
        shown = b64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        proof["device_key"] = shown
    text = string_to_sign(app, device, at, nonce, shown)
    if key is not None:
        proof["device_signature"] = b64(key.sign(text))
    proof["signature"] = hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()
    return proof


def jwt_proof(token: str) -> dict:
    return {"type": "jwt", "token": token}


def call(control: str, body: dict, headers: dict | None = None) -> httpx.Response:
    """The bare call."""
    return _client.post(f"{control}/v1/access", json=body, headers=headers)


class Refused(Exception):
    """Control refused; `code` is the published name."""

    def __init__(self, response: httpx.Response):
        problem = response.json()
        super().__init__(f"{response.status_code} {problem}")
        self.status = response.status_code
        self.code = problem["code"]
        self.response = response


@dataclasses.dataclass
class Access:
    """What control answered."""

    answer: dict

    @property
    def token(self) -> str:
        return self.answer["token"]

    def point(self, protocol: str) -> dict:
        """The first access point of a protocol, as the order asks for."""
        for point in self.answer["access_points"]:
            if point["protocol"] == protocol:
                return point
        raise LookupError(f"no access point speaks {protocol}")


def ask(control: str, app: str, device: str, proof: dict, **more) -> Access:
    """Asks for a token and access points."""
    response = call(control, {"app": app, "device": device, "proof": proof} | more)
    if response.status_code != 200:
        raise Refused(response)
    return Access(response.json())
