"""Take a screenshot of a dashboard page, such as the one in the README.

python -m tests.browser.screenshot http://127.0.0.1:8080/runs/demo docs/dashboard-run.png [light|dark] [width]
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import expect, sync_playwright

from tests.browser.conftest import ARGUMENTS


def main(url: str, path: str, theme: str = "light", width: str = "1400") -> None:
    """Open the page, wait until it is live and drawn, and save the whole of it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(
            viewport={"width": int(width), "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
        )
        page.goto(url)
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("table tbody tr").first).to_be_visible()
        # The first frame draws; after the second one it is certainly on the screen.
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=path, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
