"""`hawser dev` as a real process, and what is read of it from outside."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_SECONDS = 30
STOP_SECONDS = 25


def binary() -> str:
    found = os.environ.get("HAWSER_BIN") or str(ROOT / "target" / "debug" / "hawser")
    if not os.access(found, os.X_OK):
        raise FileNotFoundError(f"no binary at {found}: cargo build, or set HAWSER_BIN")
    return found


def until(ready, seconds: float, what: str):
    """Asks until the answer is true, and gives it; fails when it never is."""
    end = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        if time.monotonic() >= end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


class Process:
    """A running `hawser …`, with its log in a file."""

    def __init__(self, arguments: list[str], log: pathlib.Path, **environment: str):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                [binary(), *arguments], stdout=subprocess.PIPE, stderr=out, env=os.environ | environment)

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child.poll() is None

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise

    def status_kib(self, field: str) -> int:
        """A line of /proc/<pid>/status, such as VmRSS, in KiB."""
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def complaints(self) -> list[str]:
        """Lines of the log that speak of a panic."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if "panicked" in line]


class House(Process):
    """`hawser dev` on random ports and a data directory."""

    def __init__(self, data_dir: pathlib.Path):
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        dev = data_dir / "dev.json"
        dev.unlink(missing_ok=True)
        arguments = ["dev", "--ports", "random", "--json", "--data-dir", str(data_dir), "--log", "warn"]
        super().__init__(arguments, data_dir / "log.txt")

        def ready():
            if not self.alive():
                text = self.log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"hawser dev ended with {self.child.returncode}: {text[-2000:]}")
            return dev.exists()

        until(ready, START_SECONDS, "hawser dev to be ready")
        self.at = json.loads(dev.read_text(encoding="utf-8"))
        self.credentials = json.loads((data_dir / "credentials.json").read_text(encoding="utf-8"))
        self.admin_token = self.credentials["admin_token"]

    @property
    def control(self) -> str:
        return self.at["control"]

    @property
    def ca(self) -> str:
        return self.at["ca"]

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name with labels."""
        return read_metrics(self.at["admin"])

    def cli(self, *arguments: str) -> subprocess.CompletedProcess:
        """An operator's command on this data directory."""
        command = [binary(), "--data-dir", str(self.data_dir), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def read_metrics(admin: str) -> dict[str, float]:
    text = httpx.get(f"{admin}/metrics", timeout=10, trust_env=False).raise_for_status().text
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


@contextlib.contextmanager
def running(data_dir: pathlib.Path | None = None):
    """A house for the length of a block. It must end well."""
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            data_dir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hawser-conformance-")))
        house = House(data_dir)
        try:
            yield house
        finally:
            code = house.stop()
        assert house.complaints() == []
        assert code == 0, f"hawser dev ended with {code}"
