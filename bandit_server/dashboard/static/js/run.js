// The page of one run.
import { armButton, runButtons } from "./actions.js";
import { axisTools, setEnds } from "./axis.js";
import { makeCharts } from "./charts.js";
import { el, show } from "./dom.js";
import { count, duration, measure, NONE, percent } from "./format.js";
import * as lines from "./lines.js";
import { Log } from "./log.js";
import { headlineMetrics, initialMetric, latestMetric, metricNames, metricsTable } from "./metrics.js";
import { Run } from "./model.js";
import { follow, since } from "./page.js";
import { armsTable, workersTable } from "./tables.js";

const at = (id) => document.getElementById(id);
const name = decodeURIComponent(location.pathname.split("/").at(-1));
const run = new Run();
at("name").textContent = name;
document.title = `${name} · OPTIMA`;
at("axis").append(...axisTools());
at("act").append(...runButtons(name));
at("compare").href = `/compare?run=${encodeURIComponent(name)}`;
for (const link of document.querySelectorAll("#exports a")) {
  link.href = `/api/runs/${encodeURIComponent(name)}/export/${link.dataset.file}`;
}

// Charts measure their elements, so they are built when the first data make the content visible.
let charts = null;
let log = null;
function make() {
  at("content").hidden = false;
  charts = makeCharts(run);
  log = new Log(at("log"), name);
}

let drawPending = false;
follow(
  `/events/runs/${encodeURIComponent(name)}`,
  (message) => {
    run.apply(message);
    if (drawPending) return;
    drawPending = true;
    requestAnimationFrame(() => {
      drawPending = false;
      draw();
    });
  },
  (status) => {
    const gone = status.state === "missing";
    at("missing").hidden = !gone;
    at("missing").textContent = run.head
      ? `This run is no longer on the server (${status.reason}). The page shows its last known state.`
      : `There is no such run (${status.reason}). It appears here as soon as a worker creates it.`;
  },
);

function draw() {
  setEnds(run.head.highest, run.head.seconds);
  if (charts === null) make();
  header();
  armsTable(document.querySelector("#arms tbody"), run.head.run, (arm) => armButton(name, arm));
  workersTable(document.querySelector("#workers tbody"), run.head.run);
  show(at("settings"), ...run.head.run.settings.flatMap(([label, text]) => [el("dt", {}, label), el("dd", {}, text)]));
  const tail = run.head.run.tail_rounds;
  at("arms-note").textContent = tail > 0 ? `Pulls do not include the ${count(tail)} ${tail === 1 ? "round" : "rounds"} of the joint tail.` : "";
  layOut();
  charts.posterior.update(...lines.posteriorLines(run));
  charts.raster.update(run);
  charts.best.update(...lines.bestLines(run));
  charts.share.update(...lines.shareLines(run));
  charts.losses.update(...lines.lossLines(run));
  charts.terms.update(...lines.termLines(run));
  charts.bought.update(...lines.boughtLines(run));
  charts.spent.update(...lines.spentLines(run));
  charts.metrics.update(...lines.metricLines(run));
  metricsTable(document.querySelector("#metrics-table tbody"), run);
  log.update(run);
}

// Before the first round there is nothing to draw. With many workers the raster needs the whole width. A policy that
// does not learn has no posterior.
function layOut() {
  const begun = run.linesOf("spent").length > 0;
  at("waiting").hidden = begun;
  at("axis").hidden = at("charts").hidden = !begun;
  const learns = run.linesOf("posterior").length > 0;
  const measured = run.linesOf("metric").length > 0 || metricNames(run).length > 0;
  at("raster-panel").classList.toggle("full", run.head.worker_ids.length > 2 || !learns);
  at("posterior-panel").hidden = at("best-panel").hidden = !learns;
  at("share-panel").classList.toggle("full", !learns);
  at("metrics-panel").hidden = !measured;
  at("share-title").textContent = `Share of ${lines.recentPulls(run)}`;
}

function header() {
  const info = run.head.run;
  at("state").textContent = info.restored ? `${info.state}, restored, incomplete` : info.state;
  at("state").className = `badge ${info.state}`;
  at("finish").hidden = info.state === "finished";
  at("sentence").textContent = info.settings[0][1];
  const figure = (label, value, ...notes) =>
    el("div", {}, el("dt", {}, label), el("dd", {}, value), ...notes.filter(Boolean).map((note) => el("dd", { class: "note" }, note)));
  const fall = info.decrement === null ? "" : `${percent(-info.decrement, 1, true)} from ${measure(info.first_loss)}`;
  show(
    at("figures"),
    figure("Rounds", count(info.rounds), info.planned && `of ${count(info.planned)}`, info.diverged > 0 && `${count(info.diverged)} diverged`),
    figure("Total loss", measure(info.last_loss), fall),
    ...metricFigures(figure),
    figure("Training time", run.head.seconds > 0 ? duration(run.head.seconds) : NONE, info.workers.length > 1 && "all workers"),
    figure("Workers alive", count(info.alive), `of ${count(info.workers.length)}`),
    figure("Last event", since(info.updated, " ago"), el("span", {}, "started ", since(info.created, " ago"))),
  );
}

// The student's latest metrics, with those of the teacher and of the student at the start.
function metricFigures(figure) {
  return headlineMetrics(run).slice(0, 3).map((metric) => {
    const now = latestMetric(run, metric);
    const notes = [["teacher", initialMetric(run, "teacher_metrics", metric)], ["start", initialMetric(run, "student_metrics", metric)]]
      .filter(([, value]) => value !== undefined)
      .map(([who, value]) => `${who} ${measure(value)}`);
    return figure(`Student ${metric}`, now === undefined ? NONE : measure(now), ...notes);
  });
}
