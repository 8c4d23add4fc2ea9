"""How the pages look and behave with histories written for the purpose: hostile, long, many workers, small screens."""

from __future__ import annotations

import random
import threading
import time

import pytest
from playwright.sync_api import Page, expect

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History
from tests.bandit_server.dashboard.scripted import serving
from tests.bandit_server.dashboard.serving import dashboard
from tests.browser.conftest import Opener, keep

HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>'
# Milliseconds between two frames, of 120: all of them, and at the worst.
FRAMES = """
() => new Promise((done) => {
  const times = [];
  let last = performance.now();
  const next = (now) => {
    times.push(now - last);
    last = now;
    if (times.length < 120) requestAnimationFrame(next);
    else done([times.reduce((a, b) => a + b) / times.length, Math.max(...times)]);
  };
  requestAnimationFrame(next);
})
"""


def played(rounds: int, arms: tuple[str, ...] = ("image", "text", "multimodal"), workers: int = 1) -> History:
    """A run with everything that can happen to a pull in it."""
    chance = random.Random(1)
    history = History(arms=arms, began=time.time() - 3 * rounds - 60)
    number = 0
    while number < rounds:
        worker, arm = f"w{number % workers}", arms[chance.randrange(len(arms))]
        total = 1 + 3 / (1 + number / 20) if number % 5 == 0 else None
        if number > 0.8 * rounds:
            history.report(number, "joint", worker=worker, chosen_by=pb.CHOSEN_BY_TAIL, total_loss=total)
        elif number % 29 == 28:
            history.select(number, arms[0], worker)
            history.report(number + 1, arms[-1], worker=worker, chosen_by=pb.CHOSEN_BY_FALLBACK, superseded=number)
            number += 1
        else:
            history.select(number, arm, worker)
            before = 2 / (1 + number / 20)
            history.report(number, arm, before, 0.97 * before, worker, diverged=number % 37 == 36, total_loss=total)
        number += 1
    history.select(number, arms[0], "w0")
    return history


def no_sideways_scrolling(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_hostile_names_are_shown_as_the_text_they_are(open_page: Opener) -> None:
    history = History(arms=(HOSTILE, "javascript:alert(1)"))
    history.report(0, HOSTILE, worker=HOSTILE, total_loss=1.0)
    history.events[-1].reward_reported.measurement.metrics[HOSTILE] = 0.5
    told = pb.WorkerInfo(device=HOSTILE, recipe=HOSTILE, versions={HOSTILE: HOSTILE}, teacher_metrics={HOSTILE: 0.9})
    history.workers.append(pb.WorkerStatus(worker=HOSTILE, info=told, alive=True))
    history.spec.policy.name = HOSTILE
    other = History(run=HOSTILE)
    with serving(history, other) as server, dashboard(server.address) as url:
        runs = open_page(url)
        expect(runs.get_by_role("link", name=HOSTILE)).to_be_visible()
        run = open_page(f"{url}/runs/demo")
        expect(run.locator("#arms tbody th").first).to_contain_text(HOSTILE)
        expect(run.locator("#workers tbody")).to_contain_text(HOSTILE)
        expect(run.locator("#settings")).to_contain_text(HOSTILE)
        expect(run.locator("#figures")).to_contain_text(HOSTILE)
        run.locator("#posterior summary").click()
        expect(run.locator("#posterior table")).to_contain_text(HOSTILE)
        keep(run, "hostile")
        for page in (runs, run):
            assert page.title().endswith("· OPTIMA")
            assert page.locator("main img").count() == 0
            assert page.locator("body script").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("arms", "rounds"), [(3, 0), (3, 5), (3, 120), (8, 600)])
def test_a_run_is_drawn_in_both_themes(open_page: Opener, theme: str, arms: int, rounds: int) -> None:
    names = ("image", "text", "multimodal", "arm.4", "arm.5", "arm.6", "arm.7", "arm.8")[:arms]
    with serving(played(rounds, names)) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo", color_scheme=theme)
        expect(page.locator("#arms tbody tr")).to_have_count(arms)
        expect(page.locator("#raster canvas")).to_be_visible()
        expect(page.locator("#posterior canvas")).to_have_count(1 if rounds else 0)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
        assert dark == (theme == "dark")
        keep(page, f"run-{arms}-arms-{rounds}-rounds-{theme}")


def test_the_chosen_theme_stays(open_page: Opener) -> None:
    with serving(History()) as server, dashboard(server.address) as url:
        page = open_page(url, color_scheme="light")
        button = page.get_by_role("button", name="Theme")
        expect(button).to_have_text("Theme: auto")
        button.click()
        button.click()
        expect(button).to_have_text("Theme: dark")
        page.get_by_role("link", name="demo").click()
        expect(page.get_by_role("button", name="Theme")).to_have_text("Theme: dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"


@pytest.mark.alone
def test_ten_thousand_rounds_stay_smooth_while_more_arrive(open_page: Opener) -> None:
    history = played(10_000, tuple(f"arm.{index}" for index in range(8)))
    over = threading.Event()

    def go_on() -> None:
        number = 20_000
        while not over.wait(0.05):
            history.report(number, "arm.1", total_loss=1.0)
            number += 1

    with serving(history) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo")
        expect(page.locator("#raster canvas")).to_be_visible()
        worker = threading.Thread(target=go_on)
        worker.start()
        mean, worst = page.evaluate(FRAMES)
        over.set()
        worker.join()
        keep(page, "run-8-arms-10000-rounds-light")
    assert mean < 50, f"a frame took {mean:.0f} ms on average, {worst:.0f} ms at the worst"
    assert worst < 1000


def test_a_drag_zooms_every_chart_and_a_button_shows_all_again(open_page: Opener) -> None:
    with serving(played(120)) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo")
        box = page.locator("#posterior .u-over").bounding_box()
        assert box is not None
        reset = page.get_by_role("button", name="Show all pulls")
        expect(reset).to_be_hidden()
        page.mouse.move(box["x"] + 100, box["y"] + 50)
        expect(page.locator("#raster .readout")).to_contain_text("pull")
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 60, steps=5)
        page.mouse.up()
        expect(reset).to_be_visible()
        keep(page, "run-zoomed-light")
        reset.click()
        expect(reset).to_be_hidden()


def test_legend_keys_switch_lines_by_keyboard(open_page: Opener) -> None:
    with serving(played(60)) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo")
        key = page.locator("#posterior").get_by_role("button", name="image")
        expect(key).to_have_attribute("aria-pressed", "true")
        key.focus()
        page.keyboard.press("Enter")
        expect(key).to_have_attribute("aria-pressed", "false")


def test_losses_can_be_read_on_a_log_scale_even_a_loss_of_zero(open_page: Opener) -> None:
    history = played(60)
    history.report(100, "text", before=0.001, after=0.0, total_loss=0.0)
    with serving(history) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo")
        button = page.get_by_role("button", name="Log scale")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#losses canvas")).to_be_visible()
        keep(page, "run-log-light")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 2560])
def test_pages_fit_screens_from_phone_to_wide(open_page: Opener, width: int, theme: str) -> None:
    history = played(200, workers=4)
    told = {"accuracy": 0.9678, "accuracy/entailment": 0.9828}
    history.workers.append(pb.WorkerStatus(worker="w0", info=pb.WorkerInfo(teacher_metrics=told, student_metrics=told)))
    with serving(history) as server, dashboard(server.address) as url:
        options = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
        for path, name in (("/", "runs"), ("/runs/demo", "run")):
            page = open_page(url + path, **options)
            expect(page.locator("#link")).to_have_text("live")
            expect(page.locator("table tbody tr").first).to_be_visible()
            assert no_sideways_scrolling(page)
            keep(page, f"{name}-{width}px-{theme}")


def test_every_table_and_chart_has_a_name_and_a_text(open_page: Opener) -> None:
    with serving(played(60)) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo")
        expect(page.locator("#metrics-panel")).to_be_hidden()
        for table in page.locator("table").all():
            assert table.locator("caption").count() == 1
        charts = page.locator("[role=img].chart:visible")
        expect(charts).to_have_count(3)
        labels = [chart.get_attribute("aria-label") or "" for chart in charts.all()]
        assert all(any(sign.isdigit() for sign in label) for label in labels), labels
