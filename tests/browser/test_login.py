"""Logging in and out in a real browser, under the page's strict policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bandit_server.config import Settings
from bandit_server.server import Server
from tests.browser.conftest import Opener, keep

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    with Server(Settings(port=0, dashboard_port=0, data_dir=tmp_path / "store", token=TOKEN)) as server:
        yield server


def test_a_browser_logs_in_once_and_out_again(guarded: Server, open_page: Opener) -> None:
    url = guarded.dashboard_url
    assert url is not None
    page = open_page(f"{url}/runs/some-run")
    expect(page).to_have_title("Log in · OPTIMA")
    keep(page, "login")
    page.get_by_label("The bandit server's token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{url}/runs/some-run")
    page.goto(url)
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    expect(page.locator("#link")).to_have_text("live")
    assert page.evaluate("document.cookie") == "", "no script can read it"
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in · OPTIMA")
    page.goto(url)
    expect(page).to_have_title("Log in · OPTIMA")
