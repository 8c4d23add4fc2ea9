"""The pages with scripted histories: hostile names, long runs, many workers, small screens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History
from tests.bandit_server.dashboard.scripted import ScriptedServer, serving
from tests.bandit_server.dashboard.serving import dashboard
from tests.browser.conftest import Opener, accessibility_problems, save_screenshot
from tests.browser.looks import gallery, played

HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>'
DARK = "rgb(18, 21, 24)"
# Milliseconds between two frames: mean and maximum of 120.
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
# Milliseconds from the start of the page to its first rows, and from the arrival of 500 runs to the last of them.
FILLED = """
() => new Promise((done) => {
  let first = 0;
  const look = () => {
    const there = document.querySelectorAll("#runs tbody tr").length;
    if (there && !first) first = performance.now();
    if (there >= 500) done([first, performance.now() - arrived]);
    else requestAnimationFrame(look);
  };
  look();
})
"""
ARRIVED = """
window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    this.addEventListener("data", () => { window.arrived ??= performance.now(); });
  }
};
"""


def hostile() -> History:
    """Return a run with markup in every name."""
    history = History(arms=(HOSTILE, "javascript:alert(1)"), run="hostile")
    history.report(0, HOSTILE, worker=HOSTILE, total_loss=1.0)
    measured = history.events[-1].reward_reported.measurement
    measured.metrics[HOSTILE] = measured.terms[HOSTILE] = 0.5
    info = pb.WorkerInfo(device=HOSTILE, recipe=HOSTILE, versions={HOSTILE: HOSTILE}, teacher_metrics={HOSTILE: 0.9})
    history.workers.append(pb.WorkerStatus(worker=HOSTILE, info=info, alive=True))
    history.add(arm_updated=pb.ArmUpdated(arm=HOSTILE, paused=True, actor=HOSTILE))
    history.spec.policy.name = HOSTILE
    return history


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serving(*gallery(), hostile(), History(run=HOSTILE)) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def url(server: ScriptedServer) -> Iterator[str]:
    with dashboard(server.address) as served:
        yield served


def no_sideways_scrolling(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def drawn(page: Page) -> None:
    """Wait until the page of a run shows its data."""
    expect(page.locator("#arms tbody tr").first).to_be_visible(timeout=15_000)


def drag(page: Page, chart: Locator, start: int, end: int) -> None:
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + end, box["y"] + 60, steps=4)
    page.mouse.up()


def test_hostile_names_are_shown_as_the_text_they_are(open_page: Opener, url: str) -> None:
    runs = open_page(url)
    expect(runs.get_by_role("link", name=HOSTILE)).to_be_visible()
    run = open_page(f"{url}/runs/hostile")
    for place in ("#arms tbody", "#workers tbody", "#settings", "#figures", "#events tbody", "#terms", "#share"):
        expect(run.locator(place)).to_contain_text(HOSTILE)
    run.locator("#posterior summary").click()
    expect(run.locator("#posterior table")).to_contain_text(HOSTILE)
    save_screenshot(run, "hostile")
    compared = open_page(f"{url}/compare?run=hostile&run=five")
    expect(compared.locator("#differences tbody")).to_contain_text(HOSTILE)
    expect(compared.locator("#loss-choice")).to_contain_text(HOSTILE)
    for page in (runs, run, compared):
        assert page.title().endswith("· OPTIMA")
        assert page.locator("main img").count() == 0
        assert page.locator("body script").count() == 0


@pytest.mark.parametrize("run", ["none", "five", "turns", "eight"])
def test_a_run_is_drawn_in_both_themes(open_page: Opener, url: str, run: str) -> None:
    page = open_page(f"{url}/runs/{run}", color_scheme="light")
    drawn(page)
    began, learns = run != "none", run in ("five", "eight")
    expect(page.locator("#waiting")).to_be_visible(visible=not began)
    expect(page.locator("#raster canvas")).to_be_visible(visible=began)
    expect(page.locator("#posterior canvas")).to_have_count(1 if learns else 0)
    expect(page.locator("#best-panel")).to_be_visible(visible=learns)
    for name in ("share", "losses", "metrics", "terms", "bought", "spent"):
        expect(page.locator(f"#{name} canvas")).to_have_count(1 if began else 0)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == DARK
        assert dark == (theme == "dark")
        save_screenshot(page, f"run-{run}-{theme}")


@pytest.mark.parametrize("width", [390, 2560])
def test_pages_fit_screens_from_phone_to_wide(open_page: Opener, url: str, width: int) -> None:
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": "dark" if width == 390 else "light"}
    for path, name in (("/", "runs"), ("/runs/crowd", "run"), ("/compare?run=crowd&run=turns", "compare")):
        page = open_page(url + path, **options)
        expect(page.locator("tbody tr").first).to_be_visible(timeout=15_000)
        assert no_sideways_scrolling(page)
        save_screenshot(page, f"{name}-{width}px")


@pytest.mark.parametrize("path", ["/", "/runs/crowd", "/compare?run=eight&run=turns"])
def test_pages_are_accessible(open_page: Opener, url: str, path: str) -> None:
    page = open_page(url + path, color_scheme="light")
    expect(page.locator("tbody tr").first).to_be_visible(timeout=15_000)
    found = accessibility_problems(page)
    page.emulate_media(color_scheme="dark")
    assert found + accessibility_problems(page) == []


def test_the_chosen_theme_stays(open_page: Opener, url: str) -> None:
    page = open_page(url, color_scheme="light")
    button = page.get_by_role("button", name="Theme")
    expect(button).to_have_text("Theme: auto")
    button.click()
    button.click()
    expect(button).to_have_text("Theme: dark")
    page.get_by_role("link", name="five").click()
    expect(page.get_by_role("button", name="Theme")).to_have_text("Theme: dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == DARK


@pytest.mark.alone
def test_ten_thousand_rounds_stay_smooth_while_more_arrive(open_page: Opener, server: ScriptedServer, url: str) -> None:
    history = server.histories["long"]
    over = threading.Event()

    def report_more() -> None:
        number = 20_000
        while not over.wait(0.05):
            history.report(number, "text", total_loss=1.0)
            number += 1

    page = open_page(f"{url}/runs/long")
    drawn(page)
    expect(page.locator("#raster canvas")).to_be_visible()
    worker = threading.Thread(target=report_more)
    worker.start()
    mean, worst = page.evaluate(FRAMES)
    over.set()
    worker.join()
    save_screenshot(page, "run-long-light")
    assert mean < 50, f"a frame took {mean:.0f} ms on average, {worst:.0f} ms at the worst"
    assert worst < 1000


@pytest.mark.alone
def test_five_hundred_runs_are_listed_within_a_second_filtered_and_sorted(open_page: Opener) -> None:
    many = []
    for index in range(500):
        history = History(run=f"run-{index:03}", began=time.time() - index)
        history.spec.policy.name = "round_robin" if index % 5 else "optima"
        many.append(history)
    many[7].report(0, "text", total_loss=0.25)
    with serving(*many) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/?q=no-such-thing")
        expect(page.locator("#nothing")).to_be_visible()
        page.add_init_script(ARRIVED)
        page.goto(url)
        first, rendered = page.evaluate(FILLED)
        rows = page.locator("#runs tbody tr")
        expect(rows).to_have_count(500)
        page.get_by_label("Find").fill("OPTIMA run-1")
        expect(rows).to_have_count(20)
        expect(page.locator("#counted")).to_have_text("20 of 500 runs")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(rows.first).to_contain_text("run-100")
        head = page.locator("#runs th").filter(has=page.get_by_role("button", name="Run", exact=True))
        expect(head).to_have_attribute("aria-sort", "ascending")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(rows.first).to_contain_text("run-195")
        assert parse_qs(urlsplit(page.url).query) == {"q": ["OPTIMA run-1"], "sort": ["-run"]}
        page.reload()
        expect(rows).to_have_count(20)
        expect(rows.first).to_contain_text("run-195")
        assert first < 3000, f"the first rows took {first:.0f} ms, with the page's own loading"
        assert rendered < 1000, f"500 runs took {rendered:.0f} ms"


def test_a_view_is_kept_in_its_address(open_page: Opener, url: str) -> None:
    page = open_page(f"{url}/runs/crowd")
    drawn(page)
    chart = page.locator("#posterior .u-over")
    whole = page.get_by_role("button", name="Show all")
    expect(whole).to_be_hidden()
    drag(page, chart, 100, 200)
    expect(whole).to_be_visible()
    key = page.locator("#posterior").get_by_role("button", name="image")
    key.focus()
    page.keyboard.press("Enter")
    expect(key).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Log scale").click()
    page.get_by_role("combobox", name="Events").select_option("diverged")
    query = parse_qs(urlsplit(page.url).query)
    assert query.keys() == {"zoom", "hide", "log", "kind"}
    page.reload()
    drawn(page)
    expect(whole).to_be_visible()
    expect(key).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#losses canvas")).to_be_visible()
    expect(page.locator("#events tbody tr").first).to_contain_text("round diverged")
    save_screenshot(page, "run-zoomed-light")
    chart.dblclick()
    expect(whole).to_be_hidden()
    page.get_by_role("button", name="Training time").click()
    assert parse_qs(urlsplit(page.url).query).keys() == {"hide", "log", "kind", "x"}
    expect(page.locator("#raster canvas")).to_be_visible()


def test_hovering_reads_the_values(open_page: Opener, url: str) -> None:
    page = open_page(f"{url}/runs/crowd")
    drawn(page)
    place, value = page.locator("#losses .place"), page.locator("#losses .value").first
    last = value.text_content()
    page.locator("#losses .u-over").hover(position={"x": 80, "y": 40})
    expect(place).to_contain_text("at pull ")
    assert value.text_content() != last
    page.locator("#raster .u-over").hover(position={"x": 80, "y": 40})
    expect(page.locator("#raster .readout")).to_contain_text("trains")
    page.get_by_role("button", name="Training time").click()
    page.locator("#losses .u-over").hover(position={"x": 80, "y": 40})
    expect(place).to_contain_text("of training")


def test_events_are_filtered_and_older_ones_fetched(open_page: Opener, url: str) -> None:
    page = open_page(f"{url}/runs/eight")
    drawn(page)
    rows = page.locator("#events tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(150)
    page.get_by_role("combobox", name="Arm").select_option("pooler")
    expect(rows.first).to_contain_text("pooler")
    page.get_by_role("combobox", name="Events").select_option("created")
    expect(page.get_by_text("No event matches the filter.")).to_be_visible()
    page.get_by_role("combobox", name="Arm").select_option("")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("policy optima")
    expect(page.get_by_role("button", name="Older")).to_be_hidden()


def test_losses_can_be_read_on_a_log_scale_even_a_loss_of_zero(open_page: Opener) -> None:
    history = played(60)
    history.report(100, "text", before=0.001, after=0.0, total_loss=0.0)
    with serving(history) as server, dashboard(server.address) as url:
        page = open_page(f"{url}/runs/demo?log=1")
        expect(page.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#losses canvas")).to_be_visible()


def test_runs_are_chosen_in_the_list_and_compared(open_page: Opener, url: str) -> None:
    page = open_page(url)
    for run in ("eight", "turns"):
        page.get_by_role("checkbox", name=f"Compare {run}").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    table = page.locator("#differences tbody tr")
    expect(table).to_have_count(2)
    expect(table.first).to_contain_text("eight")
    expect(table.nth(1).locator(".note")).not_to_have_count(0)
    expect(page.locator("#loss canvas")).to_be_visible()
    expect(page.locator("#metric canvas")).to_be_visible()
    page.get_by_label("Add a run").select_option("crowd")
    expect(table).to_have_count(3)
    page.locator("#loss-choice").select_option(label="loss term logits/kl")
    page.get_by_role("button", name="Training time").click()
    expect(page.locator("#equal")).to_contain_text("of training")
    save_screenshot(page, "compare-light")
    page.get_by_role("button", name="Remove eight").click()
    expect(table).to_have_count(2)
    assert parse_qs(urlsplit(page.url).query) == {"run": ["turns", "crowd"], "loss": ["term/logits/kl"], "x": ["time"]}
    page.reload()
    expect(table).to_have_count(2)
    expect(page.locator("#loss-choice")).to_have_value("term/logits/kl")


def test_runs_measured_only_at_their_ends_are_not_compared_at_equal_pulls(open_page: Opener) -> None:
    runs = [History(run="short"), History(run="long")]
    for history, rounds in zip(runs, (5, 8), strict=True):
        for number in range(rounds):
            history.report(number, "image", total_loss=1.0 if number == rounds - 1 else None)
    with serving(*runs) as scripted, dashboard(scripted.address) as url:
        page = open_page(f"{url}/compare?run=short&run=long")
        expect(page.locator("#equal")).to_have_text(
            "Total loss cannot be compared at equal pulls: "
            "fewer than two runs have a value up to pull 4, which all runs have reached."
        )
        expect(page.locator("#differences thead")).not_to_contain_text("At equal")
        page.locator("#loss-choice").select_option(label="bandit loss after the round")
        expect(page.locator("#differences thead")).to_contain_text("At equal pulls")


def test_every_table_and_chart_has_a_name_and_a_text(open_page: Opener, url: str) -> None:
    page = open_page(f"{url}/runs/crowd")
    drawn(page)
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
    charts = page.locator("[role=img].chart:visible")
    expect(charts).to_have_count(9)
    labels = [chart.get_attribute("aria-label") or "" for chart in charts.all()]
    assert all(any(sign.isdigit() for sign in label) for label in labels), labels
