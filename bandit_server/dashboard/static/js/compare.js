// Several runs on one axis, with a table of how they differ from the first.
import { axisTools, overTime, setEnds } from "./axis.js";
import { differences } from "./differences.js";
import { el, show } from "./dom.js";
import { measure, number, tickDecimals } from "./format.js";
import { LineChart } from "./linechart.js";
import { Run } from "./model.js";
import { follow } from "./page.js";
import { all, get, set } from "./view.js";

const MOST = 8;
const at = (id) => document.getElementById(id);
const tick = (value, ticks) => number(value, tickDecimals(ticks));
let chosen = [...new Set(all("run"))].slice(0, MOST);
const runs = new Map();
const missing = new Map();
let end = () => {};
let charts = null;

at("axis").append(...axisTools());

function connect() {
  end();
  set("run", chosen);
  for (const name of [...runs.keys()]) if (!chosen.includes(name)) runs.delete(name);
  missing.clear();
  tellChosen();
  if (chosen.length === 0) return;
  const query = new URLSearchParams(chosen.map((name) => ["run", name]));
  end = follow(`/events/compare?${query}`, take, (status) => {
    if (status.state === "missing") missing.set(status.run, status.reason);
    else missing.delete(status.run);
    tellChosen();
  }, true);
}

let asked = false;
function take(message) {
  const { run: name } = message.run;
  if (!chosen.includes(name)) return;
  if (!runs.has(name)) runs.set(name, new Run());
  runs.get(name).take(message);
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
}

// The runs that have come, in the order in which they were chosen; each keeps its colour.
const shown = () => chosen.map((name, order) => ({ name, order, run: runs.get(name) })).filter(({ run }) => run?.head);

function draw() {
  const there = shown();
  at("content").hidden = there.length === 0;
  if (there.length === 0) return;
  charts = charts ?? {
    loss: new LineChart(at("loss"), { title: "Loss of each run", format: measure, tick, height: 320, empty: "None of these runs has measured this." }),
    metric: new LineChart(at("metric"), { title: "Task metric of each run", format: measure, tick, height: 320, empty: "None of these runs has measured a task metric." }),
  };
  setEnds(Math.max(...there.map(({ run }) => run.head.highest)), Math.max(...there.map(({ run }) => run.head.seconds)));
  const losses = measures(there, ["total", "bandit", "term"]);
  const metrics = measures(there, ["metric"]);
  const loss = offer(at("loss-choice"), losses, get("loss"));
  const metric = offer(at("metric-choice"), metrics, get("metric"));
  at("metric-panel").hidden = metrics.length === 0;
  const [lossLines, metricLines] = [linesOf(there, loss), linesOf(there, metric)];
  charts.loss.update(lossLines, sentence("Loss", lossLines));
  charts.metric.update(metricLines, sentence("Task metric", metricLines));
  const limit = Math.min(...there.map(({ run }) => (overTime() ? run.head.seconds : run.head.highest)));
  at("equal").textContent = differences(document.querySelector("#differences"), there, { loss, lossLines, metric, metricLines, limit });
  tellChosen();
}

document.addEventListener("optima-axis", () => charts && draw());

const NAMES = { total: "total distillation loss", bandit: "bandit loss after the round" };

// What the runs have measured: [chart and name, in words].
function measures(there, kinds) {
  const found = new Map();
  for (const { run } of there) {
    for (const kind of kinds) {
      for (const line of run.of(kind)) found.set(`${kind}/${line.name}`, NAMES[kind] ?? (kind === "term" ? `term ${line.name}` : line.name));
    }
  }
  const order = (key) => kinds.indexOf(key.split("/")[0]);
  return [...found].sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b));
}

function offer(select, options, wanted) {
  const shape = JSON.stringify(options);
  if (select.dataset.shape !== shape) {
    const value = select.value || wanted;
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

function linesOf(there, measured) {
  return there.flatMap(({ name, order, run }) => {
    const workers = run.head.worker_ids;
    const kind = measured.split("/")[0];
    return run.of(kind).filter((line) => `${kind}/${line.name}` === measured).map((line) => ({
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

function tellChosen() {
  const items = chosen.map((name, order) => {
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `Leave out ${name}` }, "×");
    remove.addEventListener("click", () => {
      chosen = chosen.filter((other) => other !== name);
      connect();
      draw();
      fetchOthers();
    });
    const note = missing.has(name) ? `no such run` : order === 0 && chosen.length > 1 ? "the others are compared with it" : "";
    const link = el("a", { href: `/runs/${encodeURIComponent(name)}` }, name);
    return el("li", {}, el("span", { class: `swatch run-${order}` }), link, note && el("span", { class: "note" }, note), remove);
  });
  show(at("chosen"), ...items);
  at("told").textContent = chosen.length === 0 ? "Choose runs to lay side by side: optima against joint and round_robin, say." : "";
}

// The other runs there are, to add.
async function fetchOthers() {
  try {
    const answer = await fetch("/api/runs");
    if (!answer.ok) return;
    const { runs: known } = await answer.json();
    const others = known.filter(({ run }) => !chosen.includes(run));
    const options = others.map(({ run, policy, state }) => el("option", { value: run }, `${run} (${policy}, ${state})`));
    at("another").replaceChildren(el("option", { value: "" }, others.length ? "choose…" : "there is no other"), ...options);
    at("another").disabled = chosen.length >= MOST || others.length === 0;
  } catch {
    // The dashboard is away, as the banner says.
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
