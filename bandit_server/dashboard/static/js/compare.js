// The page that compares runs: charts on a common axis, and a table of differences from the first run.
import { axisTools, overTime, setEnds } from "./axis.js";
import { differences } from "./differences.js";
import { el, show } from "./dom.js";
import { measure, number, tickDecimals } from "./format.js";
import { LineChart } from "./linechart.js";
import { Run } from "./model.js";
import { follow } from "./page.js";
import { all, get, set } from "./view.js";

const MAX_RUNS = 8;
const at = (id) => document.getElementById(id);
const tick = (value, ticks) => number(value, tickDecimals(ticks));
let chosen = [...new Set(all("run"))].slice(0, MAX_RUNS);
const runs = new Map();
const missing = new Map();
let disconnect = () => {};
let charts = null;

at("axis").append(...axisTools());

function connect() {
  disconnect();
  set("run", chosen);
  for (const name of [...runs.keys()]) if (!chosen.includes(name)) runs.delete(name);
  missing.clear();
  showChosen();
  if (chosen.length === 0) return;
  const query = new URLSearchParams(chosen.map((name) => ["run", name]));
  disconnect = follow(`/events/compare?${query}`, receive, (status) => {
    if (status.state === "missing") missing.set(status.run, status.reason);
    else missing.delete(status.run);
    showChosen();
  }, true);
}

let drawPending = false;
function receive(message) {
  const { run: name } = message.run;
  if (!chosen.includes(name)) return;
  if (!runs.has(name)) runs.set(name, new Run());
  runs.get(name).apply(message);
  if (drawPending) return;
  drawPending = true;
  requestAnimationFrame(() => {
    drawPending = false;
    draw();
  });
}

// The chosen runs whose data have arrived, in the chosen order, which sets their colours.
const loadedRuns = () => chosen.map((name, order) => ({ name, order, run: runs.get(name) })).filter(({ run }) => run?.head);

function draw() {
  const loaded = loadedRuns();
  at("content").hidden = loaded.length === 0;
  if (loaded.length === 0) return;
  charts = charts ?? {
    loss: new LineChart(at("loss"), { title: "Loss of each run", format: measure, tick, height: 320, empty: "None of these runs has measured it." }),
    metric: new LineChart(at("metric"), { title: "Task metric of each run", format: measure, tick, height: 320, empty: "None of these runs has measured a task metric." }),
  };
  setEnds(Math.max(...loaded.map(({ run }) => run.head.highest)), Math.max(...loaded.map(({ run }) => run.head.seconds)));
  const losses = measuredNames(loaded, ["total", "bandit", "term"]);
  const metrics = measuredNames(loaded, ["metric"]);
  const loss = fillSelect(at("loss-choice"), losses, get("loss"));
  const metric = fillSelect(at("metric-choice"), metrics, get("metric"));
  at("metric-panel").hidden = metrics.length === 0;
  const [lossLines, metricLines] = [linesOf(loaded, loss), linesOf(loaded, metric)];
  charts.loss.update(lossLines, sentence("Loss", lossLines));
  charts.metric.update(metricLines, sentence("Task metric", metricLines));
  const limit = Math.min(...loaded.map(({ run }) => (overTime() ? run.head.seconds : run.head.highest)));
  at("equal").textContent = differences(document.querySelector("#differences"), loaded, { loss, lossLines, metric, metricLines, limit });
  showChosen();
}

document.addEventListener("optima-axis", () => charts && draw());

const NAMES = { total: "total distillation loss", bandit: "bandit loss after the round" };

// The measured quantities of the runs: [chart/name, label].
function measuredNames(loaded, kinds) {
  const labels = new Map();
  for (const { run } of loaded) {
    for (const kind of kinds) {
      for (const line of run.linesOf(kind)) labels.set(`${kind}/${line.name}`, NAMES[kind] ?? (kind === "term" ? `loss term ${line.name}` : line.name));
    }
  }
  const order = (key) => kinds.indexOf(key.split("/")[0]);
  return [...labels].sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b));
}

function fillSelect(select, options, initial) {
  const shape = JSON.stringify(options);
  if (select.dataset.shape !== shape) {
    const value = select.value || initial;
    select.dataset.shape = shape;
    select.replaceChildren(...options.map(([key, text]) => el("option", { value: key }, text)));
    if (options.some(([key]) => key === value)) select.value = value;
  }
  return select.value;
}

for (const [id, name] of [["loss-choice", "loss"], ["metric-choice", "metric"]]) {
  at(id).addEventListener("change", () => {
    set(name, at(id).value);
    draw();
  });
}

const DASHES = [[], [8, 3], [2, 3], [8, 3, 2, 3]];

function linesOf(loaded, measured) {
  return loaded.flatMap(({ name, order, run }) => {
    const workers = run.head.worker_ids;
    const kind = measured.split("/")[0];
    return run.linesOf(kind).filter((line) => `${kind}/${line.name}` === measured).map((line) => ({
      key: `${name} ${line.index}`,
      group: name,
      label: workers.length > 1 ? `${name}, ${workers[line.index]}` : name,
      colour: `--run-${order}`,
      dash: DASHES[line.index % 4],
      width: 2,
      points: line.x.length < 60,
      x: line.x,
      t: line.t,
      y: line.y.at(-1),
    }));
  });
}

const sentence = (what, lines) => `${what}: ${lines.map((line) => `${line.label} ${measure(line.y.at(-1))}`).join("; ")}`;

function showChosen() {
  const items = chosen.map((name, order) => {
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `Remove ${name}` }, "×");
    remove.addEventListener("click", () => {
      chosen = chosen.filter((other) => other !== name);
      connect();
      draw();
      fetchOthers();
    });
    const note = missing.has(name) ? `no such run` : order === 0 && chosen.length > 1 ? "reference for the others" : "";
    const link = el("a", { href: `/runs/${encodeURIComponent(name)}` }, name);
    return el("li", {}, el("span", { class: `swatch run-${order}` }), link, note && el("span", { class: "note" }, note), remove);
  });
  show(at("chosen"), ...items);
  at("hint").textContent = chosen.length === 0 ? "Add runs to compare, for example policy optima with joint and round_robin." : "";
}

// The runs that can be added.
async function fetchOthers() {
  try {
    const response = await fetch("/api/runs");
    if (!response.ok) return;
    const { runs: known } = await response.json();
    const others = known.filter(({ run }) => !chosen.includes(run));
    const options = others.map(({ run, policy, state }) => el("option", { value: run }, `${run} (${policy}, ${state})`));
    at("another").replaceChildren(el("option", { value: "" }, others.length ? "choose…" : "no other run"), ...options);
    at("another").disabled = chosen.length >= MAX_RUNS || others.length === 0;
  } catch {
    // The dashboard is unreachable; the banner shows that.
  }
}

at("another").addEventListener("change", () => {
  const name = at("another").value;
  if (!name) return;
  chosen = [...chosen, name];
  connect();
  fetchOthers();
});
at("add").addEventListener("submit", (event) => event.preventDefault());

connect();
fetchOthers();
