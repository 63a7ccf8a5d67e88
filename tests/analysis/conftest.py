"""A simulated study that the tests share, and a real headless browser that opens the report."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.simulate import Design, simulate_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="session")
def design() -> Design:
    """Small, but with everything a report has: two models, two sizes, tasks, texts, data-free methods."""
    return Design(
        sources=("books", "code", "legal"),
        heldout=("books", "code", "legal"),
        sets=3,
        sizes=(4, 16),
        tasks={"lambada": 80, "piqa": 60},
        windows=12,
        blocks=2,
    )


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, design: Design) -> Path:
    """A results folder of that design. Tests that change results copy it."""
    root = tmp_path_factory.mktemp("simulated")
    simulate_study(str(root), design)
    return root


class Browser:
    """Chromium through its debugging pipe: JSON messages, each ended by a zero byte, and no further library."""

    def __init__(self, executable: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the pipe is file descriptors 3 and 4
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        with open(os.devnull, "wb") as nowhere:
            self.process = subprocess.Popen(
                ["bash", "-c", command, executable, *flags],
                pass_fds=(theirs_in, theirs_out),
                stdout=nowhere,
                stderr=nowhere,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self.reader, self.writer = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb")
        self.number = 0
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events on the way are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session and not method.startswith("Target."):
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self.reader.read(1)) != b"\0":
            assert byte, "the browser closed its pipe"
            data += byte
        return dict(json.loads(data))

    def look(self, page: Path, width: int = 1100, dark: bool = False) -> None:
        """Open a local page at a width (CSS pixels) and wait until its charts are drawn."""
        self.events.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.send("Page.navigate", url=page.absolute().as_uri())
        while self.value("document.documentElement.dataset.ready") != "yes":
            assert not self.complaints()
            time.sleep(0.1)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Console errors, warnings, exceptions and requests for anything but the page since it was opened."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"])[:400])
            if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(parameters["args"])[:400])
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
            if event["method"] == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:")):
                    found.append(f"request to {url}")
        return found

    def picture(self, path: Path, top: int = 0, height: int = 2000) -> None:
        """A PNG of a part of the page."""
        clip = {"x": 0, "y": top, "width": self.value("innerWidth"), "height": height, "scale": 1}
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self.writer.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, or a skip that says what to install; with CI set in the environment a missing browser is a failure."""
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        message = "no Chromium on this machine: apt-get install chromium (or set PATH to one)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    running = Browser(executable, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()
