"""A headless Chromium, and pages that may neither complain nor break the content security policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium (`make system` installs it)."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path is not None, "the browser tests need chromium on the PATH: run `make system`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Opener]:
    """Opens a URL in a page of its own; at the end no page may have logged an error or broken its policy."""
    opened: list[Page] = []
    complaints: list[str] = []

    def open_url(url: str, **options: Any) -> Page:
        page = chromium.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        opened.append(page)
        page.add_init_script(VIOLATIONS)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning") and not any(word in message.text for word in AWAY)
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
