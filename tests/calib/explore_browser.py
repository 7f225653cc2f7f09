"""The page of `explore` in Chromium, served as a user serves it: what tests and the benchmark share."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.calib.test_browser import BROWSER

SCRIPT = "from calibration.cli.explore import explore; explore(prog_name='explore')"
# No name is looked up in any network.
ALONE = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
NUMBER, LABEL, SHOWN = ".answer-number", ".answer-label", ".answer-value"


class Served:
    """A page that is served. url: where; said: what else is said."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-c", SCRIPT, "--port", "0", "--no-browser", *words]
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url, self.said = (self.process.stdout.readline().strip() for _ in range(2))

    def stop(self, by: int = signal.SIGINT) -> tuple[int, str, str]:
        """End it; returns exit code, the rest of stdout, and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@contextmanager
def browser() -> Iterator[Any]:
    """Yield Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=BROWSER, args=ALONE)


class Seen:
    """A page in a browser of its own. errors: of its console; outside: what it asked of other machines."""

    def __init__(self, chromium: Any, url: str, width: int = 1400, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda told: told.type == "error" and self.errors.append(told.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda asked: self.outside.append(asked.url) if is_outside(asked.url) else None)
        self.page.goto(url)

    def line(self, has: str = "simulate") -> str:
        """Wait for a command line of `simulate` that has some words and return it."""
        code = self.page.locator("[data-testid=stCode]").filter(has_text="--why").filter(has_text=has).first
        code.wait_for(timeout=60_000)
        self.page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=60_000)
        return " ".join(code.inner_text().split())

    def metrics(self) -> dict[str, str]:
        """Return the numbers that stand out, by label."""
        labels = self.page.locator(LABEL).all_inner_texts()
        return dict(zip(labels, self.page.locator(SHOWN).all_inner_texts(), strict=True))


def is_outside(url: str) -> bool:
    """Whether a request leaves the machine."""
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:"))
