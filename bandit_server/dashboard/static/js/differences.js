// How runs differ from the first of them.
import { overTime } from "./axis.js";
import { el, rows, show } from "./dom.js";
import { count, duration, measure, NONE, percent } from "./format.js";
import { before } from "./linechart.js";
import { armColourName } from "./palette.js";

export function differences(table, runs, { loss, lossLines, metric, metricLines, limit }) {
  const where = overTime() ? "training time" : "pulls";
  const number = (text) => el("th", { scope: "col", class: "number" }, text);
  const metricName = metric.replace(/^metric\//, "");
  show(
    table.tHead,
    el(
      "tr",
      {},
      ...["Run", "Policy", "State"].map((text) => el("th", { scope: "col" }, text)),
      number("Rounds"),
      number("Training time"),
      number(loss.startsWith("total/") ? "Total loss" : "Loss"),
      number(`At equal ${where}`),
      ...(metric ? [number(metricName), number(`At equal ${where}`)] : []),
      el("th", { scope: "col" }, "Pulls by arm"),
    ),
  );
  const values = runs.map(({ name, run }) => ({
    name,
    run,
    cells: [valueOf(lossLines, name, Infinity), valueOf(lossLines, name, limit), valueOf(metricLines, name, Infinity), valueOf(metricLines, name, limit)],
  }));
  const first = values[0];
  const body = values.map(({ name, run, cells }, order) => {
    const info = run.head.run;
    const compared = (at, low) => difference(cells[at], order ? first.cells[at] : null, low);
    return [
      name,
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("span", { class: `swatch arm-${runs[order].order}` }), name),
        el("td", {}, info.policy),
        el("td", {}, info.state),
        el("td", { class: "number" }, count(info.rounds)),
        el("td", { class: "number" }, duration(run.head.seconds)),
        compared(0, true),
        compared(1, true),
        ...(metric ? [compared(2, false), compared(3, false)] : []),
        el("td", {}, pulls(run)),
      ),
    ];
  });
  rows(table.tBodies[0], body);
}

// The value that was measured last until a place, by whichever worker; what was measured before the first round is
// nothing to compare.
function valueOf(lines, name, until) {
  const own = lines.filter((line) => line.group === name);
  if (own.length === 0) return null;
  const [at, value] = own.map((line) => before(line, until)).reduce((a, b) => (b[0] > a[0] ? b : a));
  return at > (overTime() ? 0 : -1) ? value : null;
}

// A value, with how far it is from another in percent of that; `low`: lower is better.
function difference(value, other, low) {
  if (value === null || value === undefined) return el("td", { class: "number" }, NONE);
  if (other === null || other === 0) return el("td", { class: "number" }, measure(value));
  const change = (value - other) / Math.abs(other);
  const kind = Math.abs(change) < 5e-4 ? "" : change < 0 === low ? "good" : "bad";
  return el("td", { class: "number" }, measure(value), el("span", { class: `note ${kind}` }, percent(change, 1, true)));
}

// A bar of how the pulls were shared among arms, the tail's left out.
function pulls(run) {
  const { arms } = run.head.run;
  const all = arms.reduce((sum, arm) => sum + arm.pulls, 0);
  if (all === 0) return NONE;
  const words = arms.map((arm) => `${arm.name} ${percent(arm.pulls / all, 0)}`).join(", ");
  const parts = arms.flatMap((arm, index) => {
    if (arm.pulls === 0) return [];
    const part = el("span", { class: `part ${armColourName(arm.name, index).slice(2)}` });
    part.style.setProperty("flex-grow", arm.pulls);
    return [part];
  });
  return el("span", { class: "parts", role: "img", "aria-label": words, title: words }, ...parts);
}
