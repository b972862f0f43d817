"""Presence, what is known of a session, and how it is ended from outside."""

import time

import jwt
import pytest

from backend import PushApi, PushError, push, text
from world import World, fresh
from hawser_wire import access, device, frame, messages
from hawser_wire.access import Refused
from hawser_wire.device import PROTOCOLS, Closed
from house import until

wire = messages.wire


def presence(world, *names):
    answer = world.push.GetPresence(devices=names)
    assert [it.device for it in answer.devices] == list(names)
    return [push.PresenceState.Name(it.state).removeprefix("PRESENCE_STATE_").lower() for it in answer.devices]


def test_presence_follows_a_device_in_and_out(world):
    name, away = fresh("present"), fresh("away")
    assert presence(world, name, away) == ["offline", "offline"]
    made = world.connect(name)
    assert presence(world, away, name) == ["offline", "online"]
    known = world.push.GetPresence(devices=[name]).devices[0]
    assert known.epoch == made.login_ok.epoch and abs(known.since_ms - time.time() * 1000) < 60_000
    made.drop()
    until(lambda: presence(world, name) == ["offline"], 5, "a dropped link to be seen")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_device_is_described(world, protocol):
    group = world.group()
    client = wire.Client(sdk="conformance/1", platform="native", app_version="3.2")
    made = world.connect(protocol=protocol, client=client)
    made.join(group)
    info = world.push.DescribeDevice(device=made.device)
    assert info.state == push.PRESENCE_STATE_ONLINE
    assert (info.device, info.connection_id, info.epoch) == (made.device, made.login_ok.connection, made.login_ok.epoch)
    assert (info.transport, info.remote_ip) == (protocol, "127.0.0.1")
    assert (info.platform, info.sdk, info.app_version) == ("native", "conformance/1", "3.2")
    assert list(info.groups) == [group]
    assert set(info.businesses) == {entry.name for entry in made.login_ok.businesses}
    assert info.node == made.access.point(protocol)["node"]


def test_a_device_that_is_away_is_described_as_such(world):
    info = world.push.DescribeDevice(device=fresh("away"))
    assert info.state == push.PRESENCE_STATE_OFFLINE and not info.connection_id


@pytest.mark.parametrize("eject, code", [(False, "disconnected"), (True, "ejected")])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_business_ends_a_session(world, protocol, eject, code):
    made = world.connect(protocol=protocol)
    assert world.push.Disconnect(device=made.device, eject=eject, reason="because").was_online
    assert made.wait_closed() == code
    assert "because" in made.close_frame.reason
    until(lambda: presence(world, made.device) == ["offline"], 5, "the session to be over")
    assert not world.push.Disconnect(device=made.device).was_online
    world.connect(made.device).ping(1)


def test_a_token_is_refreshed_on_the_live_connection(world):
    made = world.connect()
    said = made.refresh()
    assert said.status == 0 and said.token != made.access.token
    assert said.token_expires_at_ms >= made.login_ok.token_expires_at_ms
    assert said.token_refresh_at_ms < said.token_expires_at_ms
    made.ping(1)
    made.bye()
    again = world.link("tcp", made.device)
    again.login(said.token)
    again.ping(1)


def test_a_refreshed_token_allows_no_more_than_the_old_one(world):
    name = fresh("narrow")
    granted = world.ask(name, businesses=["live"])
    made = device.connect(granted, "tcp", world.name, name, world.house.ca)
    token = made.refresh().token
    made.bye()
    again = world.link("tcp", name)
    again.login(token)
    assert [entry.name for entry in again.login_ok.businesses] == ["live"]


def test_a_revocation_closes_live_sessions_within_five_seconds_and_refuses_their_tokens(house, control, backend):
    tenant = World(house, control, backend)
    one = [tenant.connect(fresh("one"), protocol=protocol) for protocol in ("tcp", "ws")]
    two = tenant.connect(fresh("two"))
    began = time.monotonic()
    tenant.app.revoke(one[0].device)
    assert one[0].wait_closed(5) == "token_revoked"
    assert time.monotonic() - began < 5
    one[1].ping(1)
    two.ping(1)

    again = tenant.link("tcp", one[0].device)
    again.access = one[0].access
    with pytest.raises(Closed, match="token_revoked"):
        again.login(one[0].access.token)

    tenant.app.revoke()
    for made in (one[1], two):
        assert made.wait_closed(5) == "token_revoked"
    # A device that can prove itself comes back; at the latest in the second after the revocation.
    time.sleep(1.1)
    tenant.connect(one[0].device).ping(1)
    tenant.release()


def test_a_device_of_a_switched_off_app_is_not_admitted(house, control, backend):
    tenant = World(house, control, backend)
    granted = tenant.ask("d")
    live = tenant.connect("live")
    control.call("PATCH", tenant.app.path, {"enabled": False})
    with pytest.raises(Refused) as refused:
        tenant.ask("d")
    assert refused.value.code == "disabled"

    def refused_at_the_node():
        made = device.Device(device.dial("tcp", granted.point("tcp"), house.ca), tenant.name, "d")
        try:
            made.login(granted.token)
            made.bye()
            return False
        except Closed as closed:
            assert closed.code == "app_unavailable"
            return True

    until(refused_at_the_node, 5, "the node to hear of it")
    assert live.wait_closed(5) == "app_unavailable"
    control.call("PATCH", tenant.app.path, {"enabled": True})
    until(lambda: try_connect(tenant), 5, "the app to be back")
    tenant.release()


def try_connect(tenant):
    try:
        return tenant.connect()
    except (Closed, Refused):
        return None


def test_a_deleted_app_is_gone_with_its_sessions(house, control, backend):
    tenant = World(house, control, backend)
    made = tenant.connect()
    control.call("DELETE", tenant.app.path)
    # Both are true of it; which one is told is not promised.
    assert made.wait_closed(5) in ("app_unavailable", "token_revoked")
    with pytest.raises(Refused) as refused:
        access.ask(house.control, tenant.name, "d", access.open_proof())
    assert refused.value.code == "not_found"


def test_signing_keys_rotate_with_overlap(world, control):
    before = world.connect(fresh("before"))
    old_kid = kid(before.access.token)
    made = control.call("POST", "/v1/signing-keys/rotate")
    assert made["kid"] != old_kid
    published = {key["kid"] for key in control.call("GET", "/.well-known/jwks.json")["keys"]}
    assert {old_kid, made["kid"]} <= published, "both are there while tokens of both live"

    def signed_anew():
        granted = world.ask(fresh("after"))
        return granted if kid(granted.token) == made["kid"] else None

    until(signed_anew, 15, "the new key to sign")
    world.connect(fresh("after")).ping(1)
    before.ping(1)
    refreshed = before.refresh()
    assert refreshed.status == 0 and kid(refreshed.token) == made["kid"]
    before.bye()
    again = world.link("tcp", before.device)
    again.login(before.access.token, attempt=2)
    again.ping(1)


def kid(token: str) -> str:
    return jwt.get_unverified_header(token)["kid"]


def test_a_business_key_rotates_with_overlap_and_ends_when_removed(world, control):
    path = f"{world.app.path}/businesses/chat/keys"
    old = world.app.create_key("chat")
    api = PushApi(world.house.at["push"], old["key"]).until_known()
    new = control.call("POST", f"{path}/{old['key_id']}/rotate", {"overlap_s": 2})
    fresh_api = PushApi(world.house.at["push"], new["key"]).until_known()

    def ended(of):
        def is_so():
            try:
                of.ListGroups()
                return False
            except PushError as refused:
                assert refused.code == "unauthenticated"
                return True

        return is_so

    api.ListGroups()
    until(ended(api), 6, "the old key to end")
    fresh_api.ListGroups()
    control.call("DELETE", f"{path}/{new['key_id']}")
    until(ended(fresh_api), 5, "a removed key to end")
    assert {it["key_id"] for it in control.items(path)}.isdisjoint({new["key_id"]})


def test_a_silent_device_is_closed_and_one_that_pings_is_not(house, control, backend):
    tenant = World(house, control, backend, heartbeat_ms=400, idle_timeout_ms=1200)
    beating = [tenant.connect(protocol=protocol, heartbeat=True) for protocol in PROTOCOLS]
    silent = [tenant.connect(protocol=protocol, heartbeat=False) for protocol in PROTOCOLS]
    assert silent[0].login_ok.heartbeat_ms == 400 and silent[0].login_ok.idle_timeout_ms == 1200
    began = time.monotonic()
    for made in silent:
        assert made.wait_closed(5) == "idle_timeout"
    assert time.monotonic() - began > 0.8
    time.sleep(1.5)
    for made in beating:
        made.ping(1)
        assert tenant.push.Unicast(device=made.device, message=text("there")).outcome == push.OUTCOME_WRITTEN
        made.next_push()
    tenant.release()


def test_every_received_byte_counts_as_life(house, control, backend):
    tenant = World(house, control, backend, heartbeat_ms=400, idle_timeout_ms=1200)
    made = tenant.connect(heartbeat=False)
    ping = frame.encode("PING", wire.Ping(nonce=1))
    for at in range(len(ping)):
        made.send_raw(ping[at : at + 1])
        time.sleep(0.25)
    made.pong(1)
    assert made.wait_closed(5) == "idle_timeout"
    tenant.release()
