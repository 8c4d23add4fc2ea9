"""A headless Chromium, and pages that may neither complain nor break the content security policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
# MPL-2.0, for these tests only: no part of the package.
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
});
"""
# What Chromium itself logs when a server goes away on purpose in a test.
AWAY = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET")

Opener = Callable[..., Page]

# How long a page may take for what it is expected to show; a busy machine needs more than the five seconds by default.
expect.set_options(timeout=15_000)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The system's Chromium (`make system` installs it), one for all these tests."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path is not None, "the browser tests need chromium on the PATH: run `make system`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Opener]:
    """Opens a URL in a page of its own; at the end no page may have logged an error or broken its policy.

    `refused`: HTTP statuses that Chromium will log as errors and that the test means to get.
    """
    opened: list[Page] = []
    complaints: list[str] = []

    def open_url(url: str, refused: tuple[int, ...] = (), **options: Any) -> Page:
        page = chromium.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        opened.append(page)
        page.add_init_script(VIOLATIONS)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        expected = (*AWAY, *(f"status of {status}" for status in refused))
        page.on(
            "console",
            lambda message: (
                complaints.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning") and not any(word in message.text for word in expected)
                else None
            ),
        )
        page.goto(url)
        return page

    yield open_url
    violations = [violation for page in opened for violation in page.evaluate("window.violations")]
    for page in opened:
        page.close()
    assert complaints == []
    assert violations == []


def keep(page: Page, name: str) -> None:
    """A screenshot of the whole page under test-artifacts/, to look at; no test compares pixels."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def barriers(page: Page) -> list[str]:
    """What axe-core finds on a page that would keep somebody out, in its words."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {violation['help']} at {[node['target'] for node in violation['nodes']][:3]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
