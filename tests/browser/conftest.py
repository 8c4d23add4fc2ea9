"""A headless Chromium, with pages that may not log errors or violate the content security policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
# MPL-2.0; used by these tests only, not part of the package.
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
});
"""
# Errors that Chromium logs when a test stops the server.
SERVER_GONE = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET")

Opener = Callable[..., Page]

# Milliseconds that an expectation waits; a busy machine needs more than the default of five seconds.
expect.set_options(timeout=15_000)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium (`make system` installs it), shared by all tests."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path is not None, "the browser tests need chromium on the PATH: run `make system`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Opener]:
    """Return a function that opens a URL in a new page. The test fails if a page logs an error or violates its policy.

    Its argument `refused` lists HTTP error statuses that the test expects and Chromium logs as errors.
    """
    opened: list[Page] = []
    errors: list[str] = []

    def open_url(url: str, refused: tuple[int, ...] = (), **options: Any) -> Page:
        page = chromium.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        opened.append(page)
        page.add_init_script(VIOLATIONS)
        page.on("pageerror", lambda error: errors.append(f"page error: {error}"))
        expected = (*SERVER_GONE, *(f"status of {status}" for status in refused))
        page.on(
            "console",
            lambda message: (
                errors.append(f"{message.type}: {message.text}")
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
    assert errors == []
    assert violations == []


def save_screenshot(page: Page, name: str) -> None:
    """Save a screenshot of the whole page to test-artifacts/, for people; no test compares pixels."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def accessibility_problems(page: Page) -> list[str]:
    """Return the serious and critical violations that axe-core finds on a page."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {violation['help']} at {[node['target'] for node in violation['nodes']][:3]}"
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
