"""Control's HTTP API against bad callers. The matrix is made from the document it serves itself."""

import errno
import json
import socket
import time

import pytest

from hawser_wire import page
from house import until
from operator_api import Control, Problem
from world import fresh

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OPEN = {("post", "/v1/access"), ("options", "/v1/access")}
# Of no app: backends look for a router by it, with whatever key they have.
FOR_ALL_KEYS = {("get", "/v1/routers")}


@pytest.fixture(scope="module")
def document(house):
    return Control(house.control, None).call("GET", "/openapi.json")


@pytest.fixture(scope="module")
def target(control):
    """An app that all the bad calls are aimed at."""
    app = control.create_app(fresh("target"))
    app.create_business("chat")
    app.key = app.create_key("chat")
    return app


@pytest.fixture(scope="module")
def owner(control):
    """The owner of another app."""
    return control.create_app(fresh("thief"))


def operations(document):
    return [(method, path, operation) for path, item in document["paths"].items() for method, operation in item.items() if method in METHODS]


def guarded(document):
    found = [(method, path, operation) for method, path, operation in operations(document)
             if path.startswith("/v1/") and (method, path) not in OPEN]
    assert len(found) >= 20, "the document lists the routes"
    return found


def fill(path: str, target) -> str:
    values = {"app": target.name, "business": "chat", "key_id": target.key["key_id"], "device": "some-device",
              "node": "no-such-node"}
    return path.format(**values)


def check_problem(response, *codes: str) -> dict:
    """A problem document with one of the codes, and nothing that it should not tell."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["code"] in codes, problem
    assert response.status_code == problem["status"] == page.HTTP_STATUS[problem["code"]]
    assert problem["title"] and "detail" in problem
    assert "panicked" not in response.text and ".rs" not in response.text
    return problem


def snapshot(control, target):
    """What must not have changed."""
    return [control.call("GET", target.path), control.items(f"{target.path}/businesses"), control.items(f"{target.path}/owner-keys"),
            control.items(f"{target.path}/businesses/chat/keys"), control.items(f"{target.path}/identity-keys"),
            [entry for entry in control.items("/v1/audit") if entry.get("app") == target.name]]


def test_every_route_wants_a_bearer_and_a_known_one(document, house, control, target):
    before, nobody = snapshot(control, target), Control(house.control, None)
    for method, path, operation in guarded(document):
        assert operation.get("security"), f"{method} {path} is documented as open"
        business_key = [{"authorization": f"Bearer {target.key['key']}"}]
        if (method, path) in FOR_ALL_KEYS:
            assert nobody.bare(method.upper(), path, headers=business_key.pop()).is_success
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer"}, {"authorization": house.admin_token},
                        {"authorization": f"Basic {house.admin_token}"}, {"authorization": f"Bearer {house.admin_token}x"},
                        {"authorization": "Bearer hok_" + "A" * 43}, *business_key,
                        {"authorization": f"Bearer {target.client_secret}"}):
            response = nobody.bare(method.upper(), fill(path, target), headers=headers, json={})
            check_problem(response, "unauthenticated")
            assert "www-authenticate" in response.headers
    assert snapshot(control, target) == before


def test_no_route_opens_to_the_owner_of_another_app(document, house, control, target, owner):
    before = snapshot(control, target)
    thief = owner.as_owner()
    for method, path, _ in guarded(document):
        if (method, path) in FOR_ALL_KEYS:
            continue
        check_problem(thief.bare(method.upper(), fill(path, target), json={}), "permission_denied")
        if "{app}" in path:
            # An app that does not exist is told the same: nobody learns of names.
            nowhere = path.replace("{app}", "no-such-app")
            check_problem(thief.bare(method.upper(), fill(nowhere, target), json={}), "permission_denied")
    assert snapshot(control, target) == before


def test_an_owner_reaches_its_app_and_not_what_is_the_operators(document, house, target):
    own = target.as_owner()
    reached = 0
    for method, path, _ in guarded(document):
        if method != "get":
            continue
        response = own.bare("GET", fill(path, target))
        if "{app}" in path and "owner-keys" not in path or (method, path) in FOR_ALL_KEYS:
            assert response.is_success, (path, response.text)
            reached += 1
        else:
            check_problem(response, "permission_denied")
    assert reached >= 5
    check_problem(own.bare("DELETE", target.path), "permission_denied")
    check_problem(own.bare("POST", "/v1/apps", json={"app": fresh("mine")}), "permission_denied")
    check_problem(own.bare("PATCH", target.path, json={"enabled": False}), "permission_denied")
    check_problem(own.bare("PATCH", target.path, json={"quotas": {"businesses_max": 9}}), "permission_denied")
    check_problem(own.bare("POST", "/v1/signing-keys/rotate"), "permission_denied")


def test_every_method_that_a_path_does_not_have_is_told_so(document, control, target):
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item or (method == "head" and "get" in item):
                continue
            response = control.bare(method.upper(), fill(path, target))
            assert response.status_code == page.HTTP_STATUS["method_not_allowed"], (method, path, response.text)
            if method != "head":
                check_problem(response, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v2/apps", "/v1/apps/", "/v1/apps//businesses", "/v1/nothing", "/../etc/passwd",
                                  "/v1/apps/%2e%2e", "/v1/apps/a/b/c/d/e/f", "/metrics", "/openapi.json/x", "/V1/apps"])
def test_a_path_that_is_not_there_is_told_so(control, path):
    check_problem(control.bare("GET", path), "not_found", "invalid_argument")


@pytest.mark.parametrize("name", ["A", "a_b", "a" * 33, "a b", "ä", "%00", "a%2Fb", "..", "%ff"])
def test_an_app_of_no_form_is_told_so(control, name):
    check_problem(control.bare("GET", f"/v1/apps/{name}"), "invalid_argument", "not_found")


BODIES = [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b'{"app":}', b'{"app":"a","app":"b"}', b'{"app":1}', b'{"app":null}', b"{} {}",
          b"[" * 5_000 + b"]" * 5_000, b'{"app":"' + b"\\ud800" + b'"}', b'{"app":"x","unheard_of":1}', b"{'app':'x'}",
          b'{"app":"x","heartbeat_ms":-1}', b'{"app":"x","heartbeat_ms":1e99}', b'{"app":"x","heartbeat_ms":1.5}', b'{"app":"x","heartbeat_ms":0}',
          b'{"app":"x","frame_bytes_max":9999999}', b'{"app":"x","allowed_origins":["not an origin"]}', b'{"app":"x","proof":"open"}',
          b'{"app":"x","proof":{"hmac":"yes"}}', b'{"app":"x","heartbeat_ms":2000,"idle_timeout_ms":1000}']


def test_a_body_that_cannot_be_read_is_refused_at_every_route_that_takes_one(document, control, target):
    before = snapshot(control, target)
    taking = [(method, path, operation) for method, path, operation in operations(document) if "requestBody" in operation]
    assert len(taking) >= 10
    for method, path, operation in taking:
        for body in BODIES:
            # An empty object or list, or no body at all, means all defaults where a body may be left out.
            response = control.bare(method.upper(), fill(path, target), content=body, headers={"content-type": "application/json"})
            if body in (b"", b"[]") and not operation["requestBody"].get("required") or (body == b"[]" and path.endswith("identity-keys")):
                assert response.status_code < 500
                continue
            if body == b"null" and not operation["requestBody"].get("required") and response.is_success:
                continue
            check_problem(response, "invalid_argument")
        response = control.bare(method.upper(), fill(path, target), content=b'{"unheard_of": 1}', headers={"content-type": "application/json"})
        check_problem(response, "invalid_argument")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"):
            headers = {"content-type": kind} if kind else {}
            response = control.bare(method.upper(), fill(path, target), content=b'{"unheard_of": 1}', headers=headers)
            check_problem(response, "invalid_argument")
    after = snapshot(control, target)
    # Keys made with all defaults, and their lines in the audit log, are the only difference.
    assert after[0]["app"] == before[0]["app"] and after[1] == before[1] and after[4] == before[4]


def test_a_body_above_the_limit_is_too_large_at_every_route_that_takes_one(document, control, target):
    most = int(page.LIMIT["http_body_bytes_max"])
    for method, path, operation in operations(document):
        if "requestBody" not in operation:
            continue
        for body in (b'{"x":"' + b"y" * most + b'"}', b" " * (most + 1)):
            response = control.bare(method.upper(), fill(path, target), content=body, headers={"content-type": "application/json"})
            check_problem(response, "too_large")

        def chunks():
            for _ in range(80):
                yield b" " * 1024

        response = control.bare(method.upper(), fill(path, target), content=chunks(), headers={"content-type": "application/json"})
        check_problem(response, "too_large")
    # Exactly the limit is read.
    body = json.dumps({"app": "Not A Name"}).encode()
    response = control.bare("POST", "/v1/apps", content=body + b" " * (most - len(body)), headers={"content-type": "application/json"})
    check_problem(response, "invalid_argument")


def test_a_name_is_taken_once(control, target):
    for call in [lambda: control.create_app(target.name), lambda: target.create_business("chat")]:
        with pytest.raises(Problem) as refused:
            call()
        assert (refused.value.status, refused.value.code) == (409, "already_exists")


def test_what_is_not_there_is_told_by_its_kind(control, target):
    for path, code in [("/v1/apps/no-such-app", "not_found"), (f"{target.path}/businesses/none", "unknown_business"),
                       (f"{target.path}/businesses/none/keys", "unknown_business")]:
        check_problem(control.bare("GET", path), code)
    check_problem(control.bare("DELETE", f"{target.path}/businesses/chat/keys/none"), "not_found")
    check_problem(control.bare("DELETE", f"{target.path}/owner-keys/none"), "not_found")


@pytest.mark.parametrize("query", ["page_size=0", "page_size=501", "page_size=-1", "page_size=x", "page_token=%00", "page_token=zzz", "unheard_of=1", "page_size=1&page_size=2"])
def test_a_query_out_of_range_is_refused(control, query):
    check_problem(control.bare("GET", f"/v1/apps?{query}"), "invalid_argument")


def test_lists_come_in_pages_that_add_up(control):
    names = {control.create_app(fresh("paged")).name for _ in range(5)}
    found, token = [], None
    while True:
        answer = control.call("GET", "/v1/apps?page_size=2" + (f"&page_token={token}" if token else ""))
        assert len(answer["items"]) <= 2
        found += [item["app"] for item in answer["items"]]
        token = answer.get("next_page_token")
        if not token:
            break
    assert names <= set(found) and len(found) == len(set(found)) and found == sorted(found)


def test_secrets_are_shown_once(control, target, house):
    texts = [json.dumps(control.call("GET", target.path)), json.dumps(control.items(f"{target.path}/owner-keys")),
             json.dumps(control.items(f"{target.path}/businesses/chat/keys")), json.dumps(control.items("/v1/audit")),
             house.log.read_text(encoding="utf-8")]
    for secret in (target.owner_key, target.client_secret, target.key["key"], house.admin_token):
        assert not any(secret in text for text in texts)
    for path in house.data_dir.rglob("*"):
        if path.is_file() and path.name not in ("credentials.json", "secrets.json"):
            data = path.read_bytes()
            for secret in (target.owner_key, target.client_secret, target.key["key"]):
                assert secret.encode() not in data, f"a secret stands in {path.name}"


def test_a_request_that_never_ends_does_not_hold_a_place_for_ever(control, house):
    host, port = house.control.removeprefix("http://").split(":")
    slow = []
    for head in (b"GET / HTT", b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"):
        for _ in range(50):
            sock = socket.create_connection((host, int(port)), timeout=5)
            sock.sendall(head)
            slow.append(sock)
    began = time.monotonic()
    assert control.bare("GET", "/healthz").is_success
    assert time.monotonic() - began < 2
    for sock in slow:
        sock.close()


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01" + bytes(200), bytes(100),
                                 b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 60_000 + b"\r\n\r\n",
                                 b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(500)) + b"\r\n",
                                 b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                                 b"POST /v1/access HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                                 b"POST /v1/access HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100],
                         ids=["nonsense", "no path", "version 9.9", "TLS", "zeros", "a huge header", "many headers", "length -1", "two lengths", "bad chunk", "bad HTTP/2"])
def test_what_is_no_http_is_refused_and_the_connection_ends(house, raw):
    host, port = house.control.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        got = b""
        try:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            while data := sock.recv(4096):
                got += data
        except OSError as failure:
            # It may be refused before it was all said.
            assert failure.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), failure
        assert b"200 OK" not in got and b" 500 " not in got


def test_the_metrics_tell_of_refusals_and_name_no_device(house, control):
    control.bare("GET", "/v1/apps?page_size=0")
    names = until(lambda: [name for name in house.metrics() if name.startswith("hawser_control_")], 5, "metrics of control")
    assert any('"4xx"' in name for name in names)
    assert not any("some-device" in name for name in house.metrics())
