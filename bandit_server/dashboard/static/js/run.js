// The page of one run.
import { setHighest, setZoom } from "./axis.js";
import { el, show } from "./dom.js";
import { count, measure, NONE, number, percent, reward, tickDecimals } from "./format.js";
import { LineChart } from "./linechart.js";
import { lossLines, metricLines, posteriorLines } from "./lines.js";
import { headlines, latest, metricNames, metricsTable, told } from "./metrics.js";
import { Run } from "./model.js";
import { follow, since } from "./page.js";
import { Raster } from "./raster.js";
import { armsTable, workersTable } from "./tables.js";

const at = (id) => document.getElementById(id);
const name = decodeURIComponent(location.pathname.split("/").at(-1));
const run = new Run();
at("name").textContent = name;
document.title = `${name} · OPTIMA`;

// The content must be laid out before charts can measure it, so charts are made with the first data.
let charts = null;
function make() {
  at("content").hidden = false;
  const posterior = new LineChart(at("posterior"), {
    title: "Posterior mean of each arm's next reward with a 90 % band, over pulls",
    format: (value) => reward(value, run.head.run.relative),
    tick: (value, ticks) => {
      const { relative } = run.head.run;
      return reward(value, relative, tickDecimals(ticks, relative ? 100 : 1));
    },
    empty: "No posterior yet: it begins with the first reward, and only for policies that learn.",
  });
  const raster = new Raster(at("raster"), "Which arm each worker pulled, over pulls");
  const losses = new LineChart(at("losses"), {
    title: "Losses on the probe, over pulls",
    format: measure,
    // On a log scale ticks are too far apart to share decimals.
    tick: (value, ticks) => (losses.log ? measure(value) : tick(value, ticks)),
    empty: "No loss has been reported yet.",
  });
  const metrics = new LineChart(at("metrics"), { title: "Task metrics, over pulls", format: measure, tick, empty: "" });
  const log = el("button", { type: "button", class: "quiet tool", "aria-pressed": "false" }, "Log scale");
  log.addEventListener("click", () => {
    log.setAttribute("aria-pressed", String(!losses.log));
    losses.setLog(!losses.log);
  });
  const whole = el("button", { type: "button", class: "quiet tool", hidden: "" }, "Show all pulls");
  whole.addEventListener("click", () => setZoom(null));
  document.addEventListener("optima-zoom", (event) => {
    whole.hidden = !event.detail;
  });
  at("losses-title").after(log);
  at("posterior-title").after(whole);
  return { posterior, raster, losses, metrics };
}

let asked = false;
follow(
  `/events/runs/${encodeURIComponent(name)}`,
  (message) => {
    run.take(message);
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  },
  (status) => {
    const gone = status.state === "missing";
    at("missing").hidden = !gone;
    at("missing").textContent = run.head
      ? `This run is no longer on the server (${status.reason}). Shown is what was known last.`
      : `There is no run of this name (${status.reason}). If a worker starts it, it appears here by itself.`;
  },
);

const tick = (value, ticks) => number(value, tickDecimals(ticks));

function draw() {
  charts = charts ?? make();
  setHighest(run.head.highest);
  header();
  armsTable(document.querySelector("#arms tbody"), run.head.run);
  workersTable(document.querySelector("#workers tbody"), run.head.run);
  show(at("settings"), ...run.head.run.settings.flatMap(([what, how]) => [el("dt", {}, what), el("dd", {}, how)]));
  const tail = run.head.run.tail_rounds;
  at("arms-note").textContent = tail > 0 ? `Not among these pulls: ${count(tail)} ${tail === 1 ? "round" : "rounds"} of the joint tail.` : "";
  charts.posterior.update(...posteriorLines(run));
  layOut();
  charts.raster.update(run);
  charts.losses.update(...lossLines(run));
  const [lines, text] = metricLines(run);
  at("metrics-panel").hidden = lines.length === 0;
  charts.metrics.update(lines, text);
  metricsTable(document.querySelector("#metrics-table tbody"), run);
}

// Many workers need the raster's whole width; what then has no neighbour takes the width too.
function layOut() {
  const crowd = run.head.worker_ids.length > 2;
  const measured = run.of("metric").length > 0 || metricNames(run).length > 0;
  at("raster-panel").classList.toggle("full", crowd);
  at("metrics-panel").classList.toggle("full", crowd);
  at("losses-panel").classList.toggle("full", !crowd && !measured);
}

function header() {
  const info = run.head.run;
  at("state").textContent = info.restored ? `${info.state}, restored, incomplete` : info.state;
  at("state").className = `badge ${info.state}`;
  at("sentence").textContent = info.settings[0][1];
  const figure = (label, value, ...notes) =>
    el("div", {}, el("dt", {}, label), el("dd", {}, value), ...notes.filter(Boolean).map((note) => el("dd", { class: "note" }, note)));
  const fall = info.decrement === null ? "" : `${percent(-info.decrement, 1, true)} from ${measure(info.first_loss)}`;
  show(
    at("figures"),
    figure("Rounds", count(info.rounds), info.planned && `of ${count(info.planned)}`, info.diverged > 0 && `${count(info.diverged)} diverged`),
    figure("Total loss", measure(info.last_loss), fall),
    ...metricFigures(figure),
    figure("Workers alive", count(info.alive), `of ${count(info.workers.length)}`),
    figure("Last event", since(info.updated, " ago"), el("span", {}, "started ", since(info.created, " ago"))),
  );
}

// The student's metrics that were measured last, beside the teacher's and its own at the start.
function metricFigures(figure) {
  return headlines(run).slice(0, 3).map((metric) => {
    const now = latest(run, metric);
    const notes = [["teacher", told(run, "teacher_metrics", metric)], ["at the start", told(run, "student_metrics", metric)]]
      .filter(([, value]) => value !== undefined)
      .map(([who, value]) => `${who} ${measure(value)}`);
    return figure(`Student's ${metric}`, now === undefined ? NONE : measure(now), notes.join(" · "));
  });
}
