"""The dashboard in a browser, live, beside a real bandit server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from playwright.sync_api import expect

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.driver import Driver
from tests.bandit_server.dashboard.serving import dashboard
from tests.browser.conftest import Opener, accessibility_problems, save_screenshot
from tests.server_process import ServerProcess


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path / "store")
    yield server
    server.kill()


@contextlib.contextmanager
def worker_of(address: str, run: str) -> Iterator[Driver]:
    """Run a worker on a channel of its own."""
    with grpc.insecure_channel(address) as channel:
        yield Driver(channel, run)


@pytest.mark.alone
def test_a_report_is_visible_within_a_second_without_a_reload(process: ServerProcess, open_page: Opener) -> None:
    with dashboard(process.address) as url, worker_of(process.address, "demo") as worker:
        page = open_page(f"{url}/runs/demo")
        rounds = page.locator("#figures > div").first.locator("dd").first
        expect(rounds).to_have_text("0")
        page.evaluate("window.stayed = true")
        for played in range(1, 6):
            worker.report(worker.select().arm)
            stored = time.monotonic()
            expect(rounds).to_have_text(str(played))
            assert time.monotonic() - stored < 1
        expect(page.locator("#posterior canvas")).to_be_visible()
        worker.play(55)
        worker.report(worker.select().arm, diverged=True)
        worker.tail(24)
        worker.heartbeat()
        expect(rounds).to_have_text("85")
        expect(page.locator("#arms-note")).to_contain_text("24 rounds of the joint tail")
        assert page.evaluate("window.stayed")
        save_screenshot(page, "live-light")


def test_a_new_run_appears_in_the_list_without_a_reload(process: ServerProcess, open_page: Opener) -> None:
    with dashboard(process.address) as url:
        page = open_page(url, color_scheme="dark")
        expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        command = f"deepspeed worker/train.py --bandit-addr {process.address}"
        expect(page.locator("#none code")).to_have_text(command)
        save_screenshot(page, "runs-empty-dark")
        with worker_of(process.address, "first") as worker:
            worker.play(12)
            row = page.get_by_role("row").filter(has_text="first")
            expect(row).to_contain_text("12 of 100")
            expect(row).to_contain_text("1 of 1")
            expect(row.locator("svg path")).to_have_count(1)
            save_screenshot(page, "runs-live-dark")
            row.get_by_role("link", name="first").click()
            expect(page.get_by_role("heading", name="first")).to_be_visible()


def test_a_killed_server_leaves_a_stale_page_that_goes_live_again(process: ServerProcess, open_page: Opener) -> None:
    with dashboard(process.address) as url:
        with worker_of(process.address, "demo") as worker:
            worker.play(5)
            page = open_page(f"{url}/runs/demo")
            expect(page.locator("#link")).to_have_text("live")
            process.kill()
            banner = page.locator("#banner")
            expect(banner).to_be_visible()
            expect(banner).to_contain_text("Server unreachable, showing data from ")
            expect(banner).to_contain_text("the bandit server does not answer")
            expect(page.locator("#arms tbody tr")).to_have_count(3)
            save_screenshot(page, "stale-light")
        process.start()
        expect(banner).to_be_hidden(timeout=10_000)
        expect(page.locator("#link")).to_have_text("live")
        with worker_of(process.address, "demo") as worker:
            worker.play(2)
            rounds = page.locator("#figures > div").first.locator("dd").first
            expect(rounds).to_have_text("7")


def test_the_page_shows_that_the_dashboard_has_stopped(process: ServerProcess, open_page: Opener) -> None:
    with worker_of(process.address, "demo") as worker:
        worker.play(2)
        with dashboard(process.address) as url:
            page = open_page(f"{url}/runs/demo")
            expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#banner")).to_contain_text("the dashboard does not answer")


def test_an_operator_pauses_an_arm_finishes_a_run_and_deletes_it(process: ServerProcess, open_page: Opener) -> None:
    with dashboard(process.address) as url, worker_of(process.address, "demo") as worker:
        worker.play(3)
        page = open_page(f"{url}/runs/demo", refused=(409,))
        page.get_by_role("button", name="Pause arm image").click()
        expect(page.locator("#arms tbody tr").first).to_contain_text("paused")
        expect(page.locator("#result")).to_have_text("Arm image is paused and no longer chosen.")
        expect(page.locator("#events tbody tr").first).to_contain_text("arm paused")
        expect(page.locator("#events tbody tr").first).to_contain_text("by dashboard, 127.0.0.1")
        assert {worker.select().arm for _ in range(3)} <= {"text", "multimodal"}
        page.get_by_role("button", name="Pause arm text").click()
        expect(page.get_by_role("button", name="Resume arm text")).to_be_visible()
        page.get_by_role("button", name="Pause arm multimodal").click()
        expect(page.locator("#result")).to_contain_text("multimodal")
        expect(page.locator("#result")).to_have_class("result bad")
        page.get_by_role("button", name="Resume arm image").click()
        expect(page.get_by_role("button", name="Pause arm image")).to_be_visible()

        page.get_by_role("button", name="Finish…").click()
        assert accessibility_problems(page) == []
        page.keyboard.press("Escape")
        expect(page.locator("#state")).to_have_text("active")
        page.get_by_role("button", name="Finish…").click()
        page.get_by_role("button", name="Finish the run").click()
        expect(page.locator("#state")).to_have_text("finished")
        expect(page.get_by_role("button", name="Finish…")).to_be_hidden()

        page.get_by_role("button", name="Delete…").click()
        confirm = page.get_by_role("button", name="Delete the run")
        expect(confirm).to_be_disabled()
        page.get_by_label("Type demo to confirm").fill("dem")
        expect(confirm).to_be_disabled()
        page.get_by_label("Type demo to confirm").fill("demo")
        save_screenshot(page, "delete-light")
        confirm.click()
        expect(page.get_by_role("dialog")).to_contain_text("workers that are alive")
        page.get_by_label("Delete even if workers are alive").check()
        confirm.click()
        expect(page.get_by_role("heading", name="No run yet")).to_be_visible()
        assert process.names() == []


def test_a_worker_s_info_is_shown_as_text(process: ServerProcess, open_page: Opener) -> None:
    hostile = '<img src=x onerror="document.title=1">'
    info = pb.WorkerInfo(device=hostile, recipe=hostile, versions={"torch": hostile}, teacher_metrics={hostile: 1.0})
    with grpc.insecure_channel(process.address) as channel, dashboard(process.address) as url:
        Driver(channel, "demo", info=info).play(2)
        page = open_page(f"{url}/runs/demo")
        expect(page.locator("#workers tbody")).to_contain_text(hostile)
        assert page.locator("main img").count() == 0
