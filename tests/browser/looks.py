"""Example histories for screenshots: every kind of pull, any number of rounds, arms and workers.

python -m tests.browser.looks DIRECTORY    every page in both themes, at three widths
"""

from __future__ import annotations

import itertools
import math
import random
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History
from tests.bandit_server.dashboard.scripted import serving
from tests.bandit_server.dashboard.serving import dashboard

ARMS = ("image", "text", "multimodal", "image.late", "text.late", "pooler", "projection", "embeddings")
TERMS = ("layers/image", "layers/text", "layers/multimodal", "logits/kl", "task/caption", "task/contrastive")


def played(rounds: int, arms: int = 3, workers: int = 1, run: str = "demo", policy: str = "optima") -> History:
    """Return a run with this many rounds and one more in progress."""
    rng = random.Random(rounds + arms)
    names = ARMS[:arms]
    history = History(arms=names, run=run, began=time.time() - 3 * rounds - 60)
    history.spec.policy.name = policy
    history.spec.rounds = max(100, rounds // workers)
    info = pb.WorkerInfo(
        ranks=2, device="NVIDIA H100", recipe="digits", versions={"python": "3.11.7", "torch": "2.14.1"},
        teacher_metrics={"accuracy": 0.975, "accuracy/presence": 0.981}, student_metrics={"accuracy": 0.11},
        total_loss=4.2,
    )  # fmt: skip
    for index in range(workers):
        history.add(worker_started=pb.WorkerStarted(worker=f"w{index}", process="p", info=info))
    number, loss, pulls_of = 0, 2.0, dict.fromkeys(names, 0)
    while number < rounds:
        worker = f"w{number % workers}"
        arm = max(names, key=lambda name: math.exp(-pulls_of[name] / 40) * (1 + names.index(name)) + rng.random())
        seconds = 1.5 + names.index(arm) + rng.random()
        total = 1.6 * loss + 0.3 if number % 5 == 0 else None
        if number > 0.8 * rounds:
            history.report(
                number, "joint", loss, 0.999 * loss, worker, pb.CHOSEN_BY_TAIL, total_loss=total, seconds=9.0
            )
        elif number % 29 == 28:
            history.select(number, names[0], worker)
            history.report(number + 1, names[-1], loss, loss, worker, pb.CHOSEN_BY_FALLBACK, superseded=number)
            number += 1
        else:
            pulls_of[arm] += 1
            after = loss * (1 - 0.08 * math.exp(-pulls_of[arm] / 12) + 0.01 * (rng.random() - 0.5))
            history.select(number, arm, worker)
            history.report(
                number, arm, loss, after, worker, diverged=number % 37 == 36, total_loss=total, seconds=seconds
            )
            loss = after if number % 37 != 36 else loss
        measured = history.events[-1].reward_reported.measurement
        if measured.outcome == pb.OUTCOME_MEASURED:
            for at, term in enumerate(TERMS):
                measured.terms[term] = loss / (at + 1.5) * (1 + 0.02 * rng.random())
            if total is not None:
                measured.metrics["accuracy"] = 0.97 - 0.4 * loss
        if history.points and history.points[-1].version == len(history.events):
            fill_posterior(history.points[-1], pulls_of, rng)
        number += 1
    history.select(number, names[0], "w0")
    if policy != "optima":
        # Other policies have no posterior.
        history.points.clear()
    history.workers += [
        pb.WorkerStatus(
            worker=f"w{worker}", info=info, alive=worker != 1, heartbeat_age=2.0 if worker != 1 else 400.0,
            round=rounds // workers, steps_per_second=6.25, reports=rounds // workers,
        )
        for worker in range(workers)
    ]  # fmt: skip
    fill_totals(history)
    return history


def fill_posterior(point: pb.PosteriorPoint, pulls_of: dict[str, int], rng: random.Random) -> None:
    """Fill in a plausible posterior: means fall as arms are pulled."""
    means = [0.08 * math.exp(-count / 30) + 0.004 * rng.random() for count in pulls_of.values()]
    weights = [math.exp(40 * mean) for mean in means]
    del point.mean[:], point.sd[:], point.p_best[:]
    point.mean.extend(means)
    point.sd.extend(0.03 / math.sqrt(1 + min(20, count)) for count in pulls_of.values())
    point.p_best.extend(weight / sum(weights) for weight in weights)


def fill_totals(history: History) -> None:
    """Fill in the losses, counts and arms of the summary from the events."""
    totals = history.totals
    arms = {arm.name: totals.arms.add(arm=arm) for arm in history.spec.arms}
    losses: list[float] = []
    for event in history.events:
        report = event.reward_reported
        if event.HasField("worker_started"):
            losses[:] = [event.worker_started.info.total_loss]
        if not event.HasField("reward_reported"):
            continue
        measured, diverged = report.measurement, report.measurement.outcome == pb.OUTCOME_DIVERGED
        totals.reports += 1
        totals.diverged += diverged
        totals.tail_rounds += report.pull.chosen_by == pb.CHOSEN_BY_TAIL
        if measured.HasField("total_loss"):
            losses.append(measured.total_loss)
        if (arm := arms.get(report.pull.arm)) is not None:
            arm.pulls += 1
            arm.total_seconds += measured.seconds
            arm.total_decrement += 0.0 if diverged else measured.before - measured.after
            arm.last_reward = report.reward
    for point in history.points[-1:]:
        for arm, mean, sd, p_best in zip(totals.arms, point.mean, point.sd, point.p_best, strict=True):
            arm.mean, arm.sd, arm.p_best = mean, sd, p_best
    totals.first_loss, totals.last_loss = losses[0], losses[-1]
    totals.recent_losses.extend(losses[-30:])


def gallery() -> list[History]:
    """Return runs of every kind that the pages must show well."""
    return [
        played(0, run="none"),
        played(5, run="five"),
        played(200, workers=4, run="crowd"),
        played(600, arms=8, run="eight"),
        played(10_000, arms=8, run="long"),
        played(150, run="turns", policy="round_robin"),
    ]


def main(directory: str) -> None:
    """Take the screenshots."""
    pages = [("runs", "/"), ("compare", "/compare?run=crowd&run=turns&run=eight&x=time"),
             *((name, f"/runs/{name}") for name in ("none", "five", "crowd", "eight", "long"))]  # fmt: skip
    Path(directory).mkdir(parents=True, exist_ok=True)
    with serving(*gallery()) as server, dashboard(server.address) as url, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for (name, path), width in itertools.product(pages, (390, 1280, 2560)):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(url + path)
            expect(page.locator("#link")).to_have_text("live")
            expect(page.locator("tbody tr").first).to_be_visible(timeout=20_000)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                page.screenshot(path=Path(directory) / f"{name}-{width}-{theme}.png", full_page=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
