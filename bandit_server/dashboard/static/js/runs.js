// The page with the list of runs.
import { el, rows } from "./dom.js";
import { count, measure, NONE, percent } from "./format.js";
import { Order } from "./order.js";
import { follow, since } from "./page.js";
import { armColourName } from "./palette.js";
import { sparkline } from "./sparkline.js";
import { get, set } from "./view.js";

const MAX_COMPARED = 8;
// Rows drawn at once, more than a screen shows; the others follow a moment later.
const FIRST_ROWS = 60;
const at = (id) => document.getElementById(id);
const runs = new Map();
// The row of each run, rebuilt only when the run has changed.
const rowOf = new Map();
const chosen = new Set();
const body = document.querySelector("#runs tbody");

const order = new Order(document.querySelector("#runs thead"), {
  run: (run) => run.run,
  state: (run) => run.state,
  policy: (run) => run.policy,
  rounds: (run) => run.rounds,
  loss: (run) => run.last_loss,
  decrement: (run) => run.decrement,
  arm: (run) => run.top_arm?.name ?? null,
  alive: (run) => run.alive,
  age: (run) => -run.created,
  updated: (run) => -run.updated,
}, "age", draw);

at("search").value = get("q");
at("search").addEventListener("input", () => {
  set("q", at("search").value);
  draw();
});
at("state").value = get("state");
at("state").addEventListener("change", () => {
  set("state", at("state").value);
  draw();
});

follow("/events/runs", (message) => {
  const port = /:(\d+)$/.exec(message.server)?.[1];
  if (port) at("address").textContent = `${location.hostname}:${port}`;
  if (message.reset) {
    runs.clear();
    rowOf.clear();
  }
  for (const name of message.removed) {
    runs.delete(name);
    rowOf.delete(name);
    chosen.delete(name);
  }
  for (const run of message.runs) {
    runs.set(run.run, run);
    rowOf.delete(run.run);
  }
  draw();
  document.title = `Runs (${runs.size}) · OPTIMA`;
});

// Every word of the filter must occur in the run's name, policy, state or arms.
function matches(run) {
  const state = at("state").value;
  if (state === "alive" ? run.alive === 0 : state && run.state !== state) return false;
  const text = [run.run, run.policy, run.state, ...run.arms].join(" ").toLowerCase();
  return at("search").value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function draw() {
  const all = order.sorted([...runs.values()].filter(matches));
  const partial = body.childElementCount === 0 && all.length > FIRST_ROWS;
  if (partial) requestAnimationFrame(() => setTimeout(draw));
  const shown = partial ? all.slice(0, FIRST_ROWS) : all;
  for (const run of shown) if (!rowOf.has(run.run)) rowOf.set(run.run, row(run));
  rows(body, shown.map((run) => [run.run, rowOf.get(run.run)]));
  at("none").hidden = runs.size > 0;
  at("some").hidden = runs.size === 0;
  at("nothing").hidden = runs.size === 0 || all.length > 0;
  at("counted").textContent = all.length === runs.size ? `${count(runs.size)} ${runs.size === 1 ? "run" : "runs"}` : `${count(all.length)} of ${count(runs.size)} runs`;
  showChosen();
}

function showChosen() {
  const link = at("compare");
  link.hidden = chosen.size === 0;
  link.textContent = `Compare ${count(chosen.size)} ${chosen.size === 1 ? "run" : "runs"}`;
  link.href = `/compare?${new URLSearchParams([...chosen].map((name) => ["run", name]))}`;
  for (const box of body.querySelectorAll("input")) box.disabled = !box.checked && chosen.size >= MAX_COMPARED;
}

function row(run) {
  const cell = (...children) => el("td", {}, ...children);
  const right = (...children) => el("td", { class: "number" }, ...children);
  const box = el("input", { type: "checkbox", "aria-label": `Compare ${run.run}` });
  box.checked = chosen.has(run.run);
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(run.run);
    else chosen.delete(run.run);
    showChosen();
  });
  return el(
    "tr",
    {},
    el("td", { class: "pick" }, box),
    el("th", { scope: "row" }, el("a", { href: `/runs/${encodeURIComponent(run.run)}` }, run.run)),
    cell(el("span", { class: `badge ${run.state}` }, run.state), run.restored && el("span", { class: "note" }, "restored, may be incomplete")),
    cell(run.policy),
    right(rounds(run), run.diverged > 0 && el("span", { class: "note below bad" }, `${count(run.diverged)} diverged`)),
    right(measure(run.last_loss)),
    right(percent(run.decrement, 1)),
    cell(sparkline(run.recent_losses)),
    cell(topArm(run)),
    right(`${count(run.alive)} of ${count(run.workers)}`),
    right(since(run.created)),
    right(since(run.updated, " ago")),
  );
}

const rounds = (run) => (run.planned ? `${count(run.rounds)} of ${count(run.planned)}` : count(run.rounds));

function topArm(run) {
  if (run.top_arm === null) return NONE;
  const { name, index, p_best: chance } = run.top_arm;
  return el(
    "span",
    { class: "arm" },
    el("span", { class: `swatch ${armColourName(name, index).slice(2)}` }),
    name,
    el("span", { class: "note below" }, `P(best) ${percent(chance, 0)}`),
  );
}
