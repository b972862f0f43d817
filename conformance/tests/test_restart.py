"""What is kept when everything stops."""

import os

from backend import PushApi, outcome, text
from world import World, fresh
from hawser_wire import access, device, page
from house import House, running, until
from operator_api import Control


def test_a_restart_on_the_same_data_keeps_apps_keys_groups_and_tokens(backend, tmp_path):
    with running(tmp_path / "data") as house:
        control = Control(house.control, house.admin_token)
        tenant = World(house, control, backend)
        group = tenant.group("kept")
        name, instance = fresh("stays"), os.urandom(16)
        made = tenant.connect(name, instance=instance, attempt=7)
        granted, epoch = made.access, made.login_ok.epoch
        secrets = tenant.app.client_secret, tenant.app.owner_key, tenant.keys["chat"]["key"]
        audit = control.items("/v1/audit")
        keys = control.call("GET", "/.well-known/jwks.json")
        # The house goes down: the device is told, not cut.
        stopped = house.stop()
        assert stopped == 0
        assert made.wait_closed() == "draining"

        house = House(tmp_path / "data")
        try:
            control = Control(house.control, house.admin_token)
            assert control.call("GET", tenant.app.path)["app"] == tenant.name
            assert control.call("GET", "/.well-known/jwks.json") == keys
            assert [entry for entry in control.items("/v1/audit") if entry in audit] == audit
            client_secret, owner_key, key = secrets
            Control(house.control, owner_key).call("GET", f"{tenant.app.path}/businesses")
            push = PushApi(house.at["push"], key).until_known()
            assert [it.group for it in push.ListGroups().groups] == [group]
            again = access.ask(house.control, tenant.name, name, access.hmac_proof(client_secret, tenant.name, name))
            # The old token is good, at the new address; the old attempt is not.
            for attempt, wanted in [(7, "stale_login"), (8, None)]:
                back = device.Device(device.dial("tcp", again.point("tcp"), house.ca), tenant.name, name, instance)
                try:
                    back.login(granted.token, attempt)
                    assert wanted is None
                except device.Closed as closed:
                    assert closed.code == wanted
            assert back.login_ok.epoch > epoch, "epochs go on where they were"
            assert page.ERROR_NAME[back.join(group).status] == "ok"
            until(lambda: outcome(push.Unicast(device=name, message=text("back")).outcome) == "written", 5, "the route")
            assert back.next_push().body == b"back"
        finally:
            assert house.stop() == 0
        assert house.complaints() == []


def test_two_houses_do_not_share_a_data_directory(tmp_path):
    with running(tmp_path / "data") as house:
        second = house.cli("dev", "--ports", "random")
        assert second.returncode != 0 and second.stderr
        house.metrics()
