"""The demo page in headless Chromium, beside a device in Rust, one in Python, and the operator's CLI."""

import json
import os
import pathlib
import queue
import shutil
import subprocess
import threading

import pytest
from playwright.sync_api import expect, sync_playwright

from backend import PushApi, outcome, text
from hawser_wire import access, device, page as wire_page
from hawser_wire.device import PROTOCOLS
from house import ROOT, until
from operator_api import Control
from world import fresh

SECONDS = 15_000
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
EXAMPLES = pathlib.Path(os.environ.get("HAWSER_EXAMPLES") or ROOT / "target" / "debug" / "examples")


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield made
        made.close()


def is_complaint(message) -> bool:
    return message.type in ("error", "warning")


@pytest.fixture
def open_page(house, browser):
    """Opens the page as a device, in a browser context of its own. It must not complain of anything."""
    contexts, complaints = [], []

    def open_as(name: str):
        context = browser.new_context()
        contexts.append(context)
        made = context.new_page()
        made.set_default_timeout(SECONDS)
        made.on("console", lambda message: is_complaint(message) and complaints.append(message.text))
        made.on("pageerror", lambda failure: complaints.append(str(failure)))
        made.goto(f"{house.at['page']}/?device={name}")
        expect(made.locator("#state")).to_have_text("online", timeout=SECONDS)
        expect(made.locator("#device")).to_have_text(name)
        return made

    yield open_as
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def demo(house):
    """The demo app's own push API."""
    key = house.credentials["apps"]["demo"]["businesses"]["chat"]["key"]
    api = PushApi(house.at["push"], key).until_known()
    yield api
    api.close()


class Example:
    """A running example of the Rust SDK, line by line."""

    def __init__(self, house, name: str, *arguments: str):
        path = EXAMPLES / name
        if not path.exists():
            pytest.skip(f"not built: cargo build -p hawser-sdk --example {name}")
        command = [str(path), *arguments, "--control", house.control, "--ca", house.ca]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.lines: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            self.lines.put(line.rstrip("\n"))

    def until(self, wanted: str) -> str:
        seen = []
        while True:
            try:
                seen.append(self.lines.get(timeout=SECONDS / 1000))
            except queue.Empty:
                raise TimeoutError(f"the example did not print {wanted!r}: {seen}") from None
            if wanted in seen[-1]:
                return seen[-1]

    def say(self, line: str) -> None:
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()

    def end(self) -> int:
        self.child.stdin.close()
        try:
            return self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()


def python_device(house, name):
    granted = access.ask(house.control, "demo", name, access.open_proof())
    made = device.connect(granted, "tls", "demo", name, house.ca)
    assert wire_page.ERROR_NAME[made.join("lobby").status] == "ok"
    return made


def test_a_push_typed_in_a_terminal_appears_on_the_page(house, open_page):
    name = fresh("web")
    shown = open_page(name)
    for words in ("hello", "<b>not</b> markup & ünïcode"):
        done = house.cli("push", "unicast", "--app", "demo", "--device", name, words)
        assert done.returncode == 0, done.stderr
        expect(shown.locator("#pushes li").last).to_contain_text(words, timeout=SECONDS)
    assert shown.locator("#pushes li").count() == 2
    assert shown.locator("#pushes li span b").count() == 0


def test_a_stored_push_waits_for_the_page_and_stays_there_over_a_reload(house, open_page, demo):
    name = fresh("web")
    shown = open_page(name)
    stored = ("push", "unicast", "--app", "demo", "--stored", "--device", name)
    assert house.cli(*stored, "while it is open").returncode == 0
    lines = shown.locator("#pushes li")
    expect(lines.last).to_contain_text("while it is open", timeout=SECONDS)
    expect(lines.last.locator("small")).to_have_text("stored")
    until(lambda: demo.DescribeInbox(device=name).entries == 0, 10, "the page to acknowledge")

    context, at = shown.context, shown.url
    shown.close()
    for n in range(20):
        assert house.cli(*stored, f"while it was closed {n}").returncode == 0
    shown = context.new_page()
    shown.goto(at)
    expect(shown.locator("#count")).to_have_text("21", timeout=SECONDS)
    said = ["while it is open", *(f"while it was closed {n}" for n in range(20))]
    lines = shown.locator("#pushes li")
    expect(lines).to_have_count(21)
    assert lines.locator("span").all_text_contents() == said
    expect(lines.first.locator("small")).to_have_text("stored, kept")
    until(lambda: demo.DescribeInbox(device=name).entries == 0, 10, "the page to acknowledge")
    shown.reload()
    expect(shown.locator("#state")).to_have_text("online", timeout=SECONDS)
    assert house.cli(*stored, "and once more").returncode == 0
    expect(shown.locator("#count")).to_have_text("22", timeout=SECONDS)
    assert shown.locator("#pushes li span").all_text_contents() == [*said, "and once more"]


def test_a_push_to_a_device_that_is_away_is_told_by_the_exit_code(house):
    done = house.cli("--json", "push", "unicast", "--app", "demo", "--device", fresh("away"), "hello")
    assert done.returncode == 1
    assert "offline" in done.stdout + done.stderr


def test_a_message_reaches_a_second_browser_a_rust_device_and_a_python_device(house, open_page):
    one, two = open_page(fresh("web")), open_page(fresh("web"))
    rust = Example(house, "room", fresh("rust"))
    python = python_device(house, fresh("python"))
    try:
        rust.until("in lobby")
        words = fresh("hello from a browser")
        one.fill("#text", words)
        one.click("#send")
        for shown in (one, two):
            expect(shown.locator("#messages")).to_contain_text(words, timeout=SECONDS)
        rust.until(words)
        got = python.next_push()
        assert got.name == "GROUP_PUSH" and json.loads(got.body)["text"] == words
        expect(one.locator("#sent")).to_contain_text("answered")

        words = fresh("hello from Rust")
        rust.say(words)
        for shown in (one, two):
            expect(shown.locator("#messages")).to_contain_text(words, timeout=SECONDS)
        assert json.loads(python.next_push().body)["text"] == words

        words = fresh("hello from Python")
        assert python.request("chat", "say", words.encode()).params.status == 0
        for shown in (one, two):
            expect(shown.locator("#messages")).to_contain_text(words, timeout=SECONDS)
        rust.until(words)
        assert two.locator("#messages li", has_text=words).count() == 1, "once"
    finally:
        python.drop()
        rust.end()


def test_a_multicast_typed_in_a_terminal_appears_in_the_room(house, open_page):
    shown = open_page(fresh("web"))
    words = fresh("hello everyone")
    done = house.cli("push", "multicast", "--app", "demo", "--group", "lobby", words)
    assert done.returncode == 0, done.stderr
    expect(shown.locator("#messages")).to_contain_text(words, timeout=SECONDS)


def test_a_page_comes_back_by_itself_after_a_disconnect_and_is_in_its_room_again(house, open_page, demo):
    name = fresh("web")
    shown = open_page(name)
    before = demo.DescribeDevice(device=name).connection_id
    assert demo_admin(house).Disconnect(device=name).was_online
    expect(shown.locator("#state")).not_to_have_text("online", timeout=SECONDS)
    expect(shown.locator("#state")).to_have_text("online", timeout=SECONDS)
    assert demo.DescribeDevice(device=name).connection_id != before
    words = fresh("welcome back")
    house.cli("push", "multicast", "--app", "demo", "--group", "lobby", words)
    expect(shown.locator("#messages")).to_contain_text(words, timeout=SECONDS)


def demo_admin(house):
    key = Control(house.control, house.admin_token).call("POST", "/v1/apps/demo/businesses/chat/keys", {"scopes": ["admin"]})
    return PushApi(house.at["push"], key["key"]).until_known()


def test_a_second_page_of_the_same_device_takes_over_and_the_first_stays_out(house, open_page, demo):
    name = fresh("web")
    first = open_page(name)
    second = open_page(name)
    expect(first.locator("#state")).to_have_text("closed", timeout=SECONDS)
    expect(first.locator("#detail")).to_contain_text("superseded")
    assert outcome(demo.Unicast(device=name, message=text("for the second")).outcome) == "written"
    expect(second.locator("#pushes")).to_contain_text("for the second", timeout=SECONDS)
    assert first.locator("#pushes li").count() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rust_device_asks_and_is_pushed_to_on_every_transport(house, demo, protocol):
    name = fresh("rust")
    rust = Example(house, "hello", name, "--protocol", protocol)
    try:
        rust.until("answered")
        assert demo.DescribeDevice(device=name).transport == protocol
        assert outcome(demo.Unicast(device=name, message=text("hello Rust")).outcome) == "written"
        rust.until("hello Rust")
    finally:
        rust.child.kill()
        rust.child.wait()
