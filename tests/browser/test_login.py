"""Logging in and out in a real browser, under the page's strict policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from playwright.sync_api import expect

from bandit_server.config import Settings
from bandit_server.server import Server
from tests.bandit_server.dashboard.driver import Driver
from tests.browser.conftest import Opener, accessibility_problems, save_screenshot

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    with Server(Settings(port=0, dashboard_port=0, data_dir=tmp_path / "store", token=TOKEN)) as server:
        yield server


def test_where_anyone_may_look_changes_need_a_login(tmp_path: Path, open_page: Opener) -> None:
    settings = Settings(port=0, dashboard_port=0, data_dir=tmp_path / "store", token=TOKEN, anyone_may_look=True)
    with Server(settings) as server, grpc.insecure_channel(server.address) as channel:
        Driver(channel, "demo", token=TOKEN).play(2)
        page = open_page(f"{server.dashboard_url}/runs/demo?x=time")
        expect(page.locator("#arms tbody tr")).to_have_count(3)
        expect(page.get_by_role("link", name="Log in to act")).to_be_visible()
        expect(page.get_by_role("button", name="Pause arm image")).to_be_hidden()
        expect(page.get_by_role("button", name="Delete…")).to_be_hidden()
        page.get_by_role("link", name="Log in to act").click()
        page.get_by_label("The bandit server's token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{server.dashboard_url}/runs/demo?x=time")
        page.get_by_role("button", name="Pause arm image").click()
        expect(page.locator("#arms tbody tr").first).to_contain_text("paused")


def test_a_browser_logs_in_once_and_logs_out(guarded: Server, open_page: Opener) -> None:
    url = guarded.dashboard_url
    assert url is not None
    page = open_page(f"{url}/runs/some-run")
    expect(page).to_have_title("Log in · OPTIMA")
    save_screenshot(page, "login")
    assert accessibility_problems(page) == []
    page.get_by_label("The bandit server's token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{url}/runs/some-run")
    page.goto(url)
    expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
    expect(page.locator("#link")).to_have_text("live")
    assert page.evaluate("document.cookie") == "", "scripts cannot read it"
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in · OPTIMA")
    page.goto(url)
    expect(page).to_have_title("Log in · OPTIMA")
