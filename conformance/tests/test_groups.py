"""Groups: who is in them, by the device's own will and by the business's."""

import pytest

from backend import PushError, text
from world import fresh
from hawser_wire import messages, page
from house import until

wire = messages.wire


def status(params) -> str:
    return page.ERROR_NAME[params.status]


def results(answer) -> list:
    return [(it.device, page.ERROR_NAME[it.status]) for it in answer.results]


def test_joining_is_told_twice_the_same_and_leaving_once(world):
    group, made = world.group(), world.connect()
    for _ in range(2):
        joined = made.join(group)
        assert (status(joined), joined.group, joined.business) == ("ok", group, made.number("chat"))
    assert world.push.Multicast(group=group, message=text("x")).members == 1
    assert made.next_push().body == b"x"
    left = made.leave(group)
    assert (status(left), left.group, left.reason) == ("ok", group, wire.LEFT_REASON_ASKED)
    assert status(made.leave(group)) == "not_member"
    assert world.push.Multicast(group=group, message=text("x")).members == 0
    made.no_push()


def test_a_group_that_is_not_there_or_of_another_app_cannot_be_joined(world, other):
    made = world.connect()
    assert status(made.join(fresh("none"))) == "group_not_found"
    theirs = other.group()
    assert status(made.join(theirs)) == "group_not_found", "of another app: told as if it were not there"
    there = other.connect()
    assert status(there.join(theirs)) == "ok"
    assert other.push.Multicast(group=theirs, message=text("ours")).members == 1
    assert there.next_push().body == b"ours"
    made.no_push()
    other.release()


def test_the_same_name_in_two_apps_is_two_groups(world, other):
    name = fresh("same")
    world.group(name)
    other.group(name)
    here, there = world.connect(), other.connect()
    assert status(here.join(name)) == status(there.join(name)) == "ok"
    assert world.push.Multicast(group=name, message=text("here")).members == 1
    assert here.next_push().body == b"here"
    there.no_push()
    other.release()


def test_a_group_of_a_business_that_is_not_served_is_denied(world):
    made = world.connect(businesses=["chat"])
    assert status(made.join(world.group(business="live"))) == "permission_denied"


@pytest.mark.parametrize("name", ["", "a" * 129, "a\nb", "\x7f", "\u0085"], ids=["empty", "long", "line feed", "delete", "next line"])
def test_what_is_not_the_form_of_a_group_is_told_so_with_its_echo(world, name):
    made = world.connect()
    joined = made.join(name)
    assert (status(joined), joined.group) == ("invalid_argument", name)
    left = made.leave(name)
    assert (status(left), left.group) == ("invalid_argument", name)


def test_a_connection_is_in_a_hundred_groups_and_not_in_more(world):
    made = world.connect()
    most = made.login_ok.groups_max
    groups = [world.group() for _ in range(most + 1)]
    assert [status(made.join(group)) for group in groups] == ["ok"] * most + ["too_many_groups"]
    assert status(made.join(groups[0])) == "ok", "already in it"
    made.leave(groups[3])
    assert status(made.join(groups[-1])) == "ok"


def test_nothing_of_a_group_survives_the_connection(world):
    group, name = world.group(), fresh("again")
    world.connect(name).join(group)
    made = world.connect(name)
    until(lambda: world.push.Multicast(group=group, message=text("x")).members == 0, 5, "the membership to end")
    made.no_push()


def test_the_business_puts_a_device_into_a_group_and_takes_it_out(world):
    group, made, away = world.group(), world.connect(), fresh("away")
    answer = world.push.JoinGroup(group=group, devices=[made.device, away])
    assert results(answer) == [(made.device, "ok"), (away, "device_offline")]
    assert world.push.Multicast(group=group, message=text("in")).members == 1
    assert made.next_push().body == b"in"
    answer = world.push.LeaveGroup(group=group, devices=[away, made.device], reason="show is over")
    assert results(answer)[1] == (made.device, "ok")
    left = made.next_notice()
    while left.name == "JOINED":
        left = made.next_notice()
    assert left.name == "LEFT" and left.params.group == group
    assert left.params.reason == wire.LEFT_REASON_REMOVED
    assert "show is over" in left.params.message
    assert world.push.Multicast(group=group, message=text("out")).members == 0
    made.no_push()
    assert status(made.join(group)) == "ok", "it may join again"


def test_a_kicked_device_does_not_come_back_on_this_connection(world):
    group, made = world.group(), world.connect()
    made.join(group)
    assert results(world.push.KickFromGroup(group=group, devices=[made.device], reason="spam")) == [(made.device, "ok")]
    left = made.next_notice().params
    assert (left.group, left.reason, left.request_id) == (group, wire.LEFT_REASON_KICKED, 0)
    assert world.push.Multicast(group=group, message=text("x")).members == 0
    made.no_push()
    assert status(made.join(group)) == "permission_denied"
    assert status(made.leave(group)) == "not_member"
    again = world.connect(made.device)
    assert status(again.join(group)) == "ok", "the kick holds on the connection"


def test_a_deleted_group_tells_its_members(world):
    group, made = world.group(), world.connect(protocol="ws")
    made.join(group)
    world.push.DeleteGroup(group=group)
    left = made.next_notice().params
    assert (left.group, left.reason) == (group, wire.LEFT_REASON_GROUP_DELETED)
    assert status(made.join(group)) == "group_not_found"
    with pytest.raises(PushError) as refused:
        world.push.Multicast(group=group, message=text("x"))
    assert refused.value.code == "group_not_found"
    world.group(group)
    assert status(made.join(group)) == "ok"


def test_a_group_is_described_and_listed(world):
    group, made = world.group(), world.connect()
    made.join(group)

    def described():
        info = world.push.DescribeGroup(group=group)
        assert (info.group, info.business) == (group, "chat") and info.created_ms > 0
        return info if info.members == 1 else None

    info = until(described, 5, "the group to count its member")
    assert sum(node.members for node in info.nodes) == 1
    names, token = [], ""
    while True:
        answer = world.push.ListGroups(page_size=3, page_token=token)
        assert len(answer.groups) <= 3
        names += [it.group for it in answer.groups]
        token = answer.next_page_token
        if not token:
            break
    assert group in names and len(names) == len(set(names))
    live = world.group(business="live")
    assert live not in [it.group for it in world.api["chat"].ListGroups(page_size=1000).groups]
    with pytest.raises(PushError) as refused:
        world.push.DescribeGroup(group=fresh("none"))
    assert refused.value.code == "group_not_found"


def test_a_group_belongs_to_the_business_that_made_it(world):
    group, made = world.group(business="chat"), world.connect()
    made.join(group)
    live = world.api["live"]
    for method, fields, codes in [
        ("CreateGroup", {}, ("already_exists",)),
        ("Multicast", {"message": text("x")}, ("permission_denied",)),
        ("DescribeGroup", {}, ("permission_denied",)),
        ("JoinGroup", {"devices": [made.device]}, ("permission_denied",)),
        ("LeaveGroup", {"devices": [made.device]}, ("permission_denied",)),
        ("KickFromGroup", {"devices": [made.device]}, ("permission_denied",)),
        ("DeleteGroup", {}, ("permission_denied",)),
    ]:
        with pytest.raises(PushError) as refused:
            getattr(live, method)(group=group, **fields)
        assert refused.value.code in codes, (method, refused.value)
    made.no_push()
    assert world.push.Multicast(group=group, message=text("mine")).members == 1
