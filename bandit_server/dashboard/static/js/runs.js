// The page of all runs.
import { el, rows, svg } from "./dom.js";
import { count, measure, NONE, percent } from "./format.js";
import { follow, since } from "./page.js";
import { armColourName } from "./palette.js";

const runs = new Map();
const body = document.querySelector("#runs tbody");

follow("/events/runs", (message) => {
  const port = /:(\d+)$/.exec(message.server)?.[1];
  if (port) document.getElementById("address").textContent = `${location.hostname}:${port}`;
  if (message.reset) runs.clear();
  for (const name of message.removed) runs.delete(name);
  for (const run of message.runs) runs.set(run.run, run);
  const newest = [...runs.values()].sort((a, b) => b.created - a.created || a.run.localeCompare(b.run));
  rows(body, newest.map((run) => [run.run, row(run)]));
  document.getElementById("none").hidden = runs.size > 0;
  document.getElementById("some").hidden = runs.size === 0;
  document.title = `Runs (${runs.size}) · OPTIMA`;
});

function row(run) {
  const cell = (...children) => el("td", {}, ...children);
  const right = (...children) => el("td", { class: "number" }, ...children);
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, el("a", { href: `/runs/${encodeURIComponent(run.run)}` }, run.run)),
    cell(el("span", { class: `badge ${run.state}` }, run.state), run.restored && el("span", { class: "note" }, "restored, incomplete")),
    cell(run.policy),
    right(rounds(run), run.diverged > 0 && el("span", { class: "note bad" }, `${count(run.diverged)} diverged`)),
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
    `${name} `,
    el("span", { class: "note" }, `P(best) ${percent(chance, 0)}`),
  );
}

const WIDTH = 120;
const HEIGHT = 26;

function sparkline(losses) {
  const known = losses.filter((loss) => loss !== null);
  if (known.length < 2) return NONE;
  const low = Math.min(...known);
  const high = Math.max(...known);
  const x = (at) => 1 + ((WIDTH - 2) * at) / (losses.length - 1);
  const y = (loss) => (high === low ? HEIGHT / 2 : 2 + ((HEIGHT - 4) * (high - loss)) / (high - low));
  let path = "";
  losses.forEach((loss, at) => {
    if (loss === null) return;
    path += `${at === 0 || losses[at - 1] === null ? "M" : "L"}${x(at).toFixed(1)} ${y(loss).toFixed(1)}`;
  });
  const text = `from ${measure(known[0])} to ${measure(known.at(-1))}, the last ${count(losses.length)} measured`;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": text },
    svg("path", { d: path }),
  );
}
