"""The push API against bad callers. The matrix is made from the service's own definition."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from backend import ALL_SCOPES, PushApi, PushError, outcome, push, text
from hawser_wire import page
from house import until
from world import fresh

SERVICE = push.DESCRIPTOR.services_by_name["Push"]
METHODS = [method.name for method in SERVICE.methods]
SCOPE = {"Unicast": "push", "BatchUnicast": "push", "StreamUnicast": "push", "Multicast": "push", "Broadcast": "push",
         "CreateGroup": "group", "DeleteGroup": "group", "DescribeGroup": "group", "ListGroups": "group",
         "JoinGroup": "group", "LeaveGroup": "group", "KickFromGroup": "group",
         "GetPresence": "presence", "DescribeDevice": "presence", "Disconnect": "admin",
         "DescribeInbox": "presence", "PurgeInbox": "push"}


def fields(method: str, device: str, group: str) -> dict:
    """A good call of each method."""
    return {
        "Unicast": dict(device=device, message=text("stolen")),
        "BatchUnicast": dict(devices=[device], message=text("stolen")),
        "StreamUnicast": dict(devices=[device], message=text("stolen")),
        "Multicast": dict(group=group, message=text("stolen")),
        "Broadcast": dict(message=text("stolen")),
        "CreateGroup": dict(group=fresh("made")),
        "DeleteGroup": dict(group=group),
        "DescribeGroup": dict(group=group),
        "ListGroups": dict(),
        "JoinGroup": dict(group=group, devices=[device]),
        "LeaveGroup": dict(group=group, devices=[device]),
        "KickFromGroup": dict(group=group, devices=[device]),
        "GetPresence": dict(devices=[device]),
        "DescribeDevice": dict(device=device),
        "Disconnect": dict(device=device),
        "DescribeInbox": dict(device=device),
        "PurgeInbox": dict(device=device),
    }[method]


def call(api: PushApi, method: str, device: str, group: str):
    given = fields(method, device, group)
    if method == "StreamUnicast":
        return list(api.stream([push.BatchUnicastRequest(**given)]))
    return getattr(api, method)(**given)


def refusal(api, method, device, group) -> str:
    with pytest.raises(PushError) as refused:
        call(api, method, device, group)
    return refused.value.code


@pytest.fixture
def victim(world):
    """A device in a group, that must notice nothing."""
    made = world.connect()
    made.victim_group = world.group()
    made.join(made.victim_group)
    yield made
    made.no_push()
    assert made.notices.empty()
    assert world.push.Multicast(group=made.victim_group, message=text("mine")).members == 1
    assert made.next_push().body == b"mine"


def test_the_matrix_has_every_method_of_the_service():
    assert set(METHODS) == set(SCOPE)


@pytest.mark.parametrize("method", METHODS)
def test_every_call_wants_a_known_key(house, world, victim, method):
    key = world.keys["chat"]["key"]
    for shown in (None, "", "wrong", "hbk_" + "A" * 43, key[:-1], key + "A", key.upper(), world.app.owner_key, house.admin_token, victim.access.token):
        api = PushApi(house.at["push"], shown)
        assert refusal(api, method, victim.device, victim.victim_group) == "unauthenticated", shown
        api.close()
    for metadata in ((("authorization", key),), (("authorization", f"Basic {key}"),), (("x-api-key", key),)):
        api = PushApi(house.at["push"], None, metadata)
        assert refusal(api, method, victim.device, victim.victim_group) == "unauthenticated", metadata
        api.close()


@pytest.fixture(scope="module")
def scoped(house, stranger_world):
    """A key of each scope alone."""
    keys = {scope: stranger_world.app.create_key("chat", scope) for scope in ALL_SCOPES}
    return {scope: PushApi(house.at["push"], key["key"]).until_known() for scope, key in keys.items()}


@pytest.mark.parametrize("method", METHODS)
def test_every_call_wants_its_scope(world, victim, scoped, method):
    for scope, api in scoped.items():
        if scope != SCOPE[method]:
            assert refusal(api, method, victim.device, victim.victim_group) == "permission_denied", scope


@pytest.mark.parametrize("method", METHODS)
def test_no_call_reaches_another_app(world, other, victim, method):
    """The other tenant's key, with our device and our group in every field."""
    thief = other.push
    if method in ("Multicast", "DeleteGroup", "DescribeGroup", "JoinGroup", "LeaveGroup", "KickFromGroup"):
        assert refusal(thief, method, victim.device, victim.victim_group) == "group_not_found"
        return
    world.push.store(victim.device, "waits")
    answer = call(thief, method, victim.device, victim.victim_group)
    assert world.push.PurgeInbox(device=victim.device).entries == 1
    if method == "Unicast":
        assert outcome(answer.outcome) == "offline"
    elif method == "BatchUnicast":
        assert [outcome(it) for it in answer.outcomes] == ["offline"]
    elif method == "StreamUnicast":
        assert [[outcome(it) for it in one.outcomes] for one in answer] == [["offline"]]
    elif method == "Broadcast":
        assert answer[-1].done
    elif method == "ListGroups":
        assert victim.victim_group not in [it.group for it in answer.groups]
    elif method == "GetPresence":
        assert answer.devices[0].state == push.PRESENCE_STATE_OFFLINE and not answer.devices[0].epoch
    elif method == "DescribeDevice":
        assert answer.state == push.PRESENCE_STATE_OFFLINE and not answer.connection_id and not answer.remote_ip
    elif method == "Disconnect":
        assert not answer.was_online
    elif method == "CreateGroup":
        assert answer.business == "chat"
    elif method in ("DescribeInbox", "PurgeInbox"):
        assert answer.entries == 0
    victim.ping(1)


def test_a_group_of_the_same_name_in_another_app_is_theirs(world, other, victim):
    other.push.CreateGroup(group=victim.victim_group)
    theirs = other.connect(victim.device)
    theirs.join(victim.victim_group)
    assert other.push.Multicast(group=victim.victim_group, message=text("theirs")).members == 1
    assert theirs.next_push().body == b"theirs"
    assert outcome(other.push.Unicast(device=victim.device, message=text("theirs too")).outcome) == "written"
    assert theirs.next_push().body == b"theirs too"
    other.push.KickFromGroup(group=victim.victim_group, devices=[victim.device])
    other.push.Disconnect(device=victim.device)
    assert theirs.wait_closed() == "disconnected"
    other.push.DeleteGroup(group=victim.victim_group)
    other.release()


def test_a_key_that_has_expired_or_was_removed_opens_nothing(house, world, control):
    brief = world.app.create_key("chat", expires_in_s=2)
    api = PushApi(house.at["push"], brief["key"]).until_known()

    def refused():
        try:
            api.ListGroups()
            return False
        except PushError as failure:
            return failure.code == "unauthenticated"

    assert not refused()
    until(refused, 5, "the key to expire")


def raw_call(house, path: str, data: bytes, metadata=()):
    with grpc.insecure_channel(house.at["push"].removeprefix("http://")) as channel:
        return channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)(data, metadata=metadata, timeout=10)


def test_bytes_that_are_no_message_are_refused(house, world):
    metadata = world.push.metadata
    for data in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", bytes(range(256)) * 10):
        with pytest.raises(grpc.RpcError) as failed:
            raw_call(house, "/hawser.push.v1.Push/Unicast", data, metadata)
        assert failed.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL), failed.value
    # Unauthenticated callers do not get as far as the decoder.
    with pytest.raises(grpc.RpcError) as failed:
        raw_call(house, "/hawser.push.v1.Push/Unicast", b"\xff")
    assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("path", ["/hawser.push.v1.Push/Nothing", "/hawser.push.v2.Push/Unicast", "/hawser.node.v1.Node/Control",
                                  "/hawser.control.v1.Control/Watch", "/", "/x"])
def test_a_method_that_is_not_there_is_unimplemented(house, world, path):
    with pytest.raises(grpc.RpcError) as failed:
        raw_call(house, path, b"", world.push.metadata)
    assert failed.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND)


def test_every_call_above_the_limit_is_too_large(world, victim):
    body = push.Message(body=b"x" * int(page.LIMIT["push_call_bytes_max"]))
    for method, given in [("Unicast", dict(device="d", message=body)), ("BatchUnicast", dict(devices=["d"], message=body)),
                          ("Multicast", dict(group=victim.victim_group, message=body)), ("Broadcast", dict(message=body))]:
        with pytest.raises(PushError) as refused:
            getattr(world.push, method)(**given)
        assert refused.value.code == "too_large", method
    with pytest.raises(PushError) as refused:
        list(world.push.stream([push.BatchUnicastRequest(devices=["d"], message=body)]))
    assert refused.value.code == "too_large"


@pytest.mark.parametrize("method", ["BatchUnicast", "GetPresence", "JoinGroup", "LeaveGroup", "KickFromGroup"])
def test_a_list_above_the_limit_is_too_large(world, victim, method):
    given = fields(method, victim.device, victim.victim_group)
    given["devices"] = [f"d{n}" for n in range(int(page.LIMIT["targets_per_call_max"]) + 1)]
    with pytest.raises(PushError) as refused:
        getattr(world.push, method)(**given)
    assert refused.value.code in ("too_large", "invalid_argument")


def test_a_caller_that_gives_up_harms_nobody_but_its_own_connection(house, world, victim):
    hasty = PushApi(house.at["push"], world.keys["chat"]["key"])
    for _ in range(200):
        hasty.stub.GetPresence.future(push.PresenceRequest(devices=["d"]), metadata=hasty.metadata, timeout=10).cancel()
    assert outcome(world.push.Unicast(device=victim.device, message=text("x")).outcome) == "written"
    assert victim.next_push().body == b"x"
    until(lambda: answers(hasty), 5, "the hasty one to be served again")
    hasty.close()


def answers(api) -> bool:
    try:
        api.ListGroups()
        return True
    except PushError:
        return False


def test_health_is_told_without_a_key(house):
    with grpc.insecure_channel(house.at["push"].removeprefix("http://")) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "hawser.push.v1.Push"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as failed:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=5)
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_tells_the_published_service_and_no_internal_one(house):
    with grpc.insecure_channel(house.at["push"].removeprefix("http://")) as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert "hawser.push.v1.Push" in services
    assert not any("node" in name or "control" in name for name in services), services
