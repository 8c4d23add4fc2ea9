// The table of differences between runs and the first of them.
import { overTime, placeName } from "./axis.js";
import { el, rows, show } from "./dom.js";
import { count, duration, measure, NONE, percent } from "./format.js";
import { before } from "./linechart.js";

// Fill the table. Returns a sentence that explains "at equal", or why there is no such column.
export function differences(table, runs, { loss, lossLines, metric, metricLines, limit }) {
  const where = overTime() ? "training time" : "pulls";
  const metricName = metric.replace(/^metric\//, "");
  const lossName = loss.startsWith("total/") ? "Total loss" : "Loss";
  const values = (lines, until) => runs.map(({ name }) => valueOf(lines, name, until));
  // [heading, value of each run, whether lower is better]. A single value is not a comparison.
  const columnsOf = (name, lines, low) => {
    const equal = values(lines, limit);
    const compared = equal.filter((value) => value !== null).length > 1;
    return [[name, values(lines, Infinity), low], ...(compared ? [[`At equal ${where}`, equal, low]] : [])];
  };
  const lossColumns = columnsOf(lossName, lossLines, true);
  const metricColumns = metric ? columnsOf(metricName, metricLines, false) : [];
  const columns = [...lossColumns, ...metricColumns];
  const number = (text) => el("th", { scope: "col", class: "number" }, text);
  show(
    table.tHead,
    el(
      "tr",
      {},
      ...["Run", "Policy", "State"].map((text) => el("th", { scope: "col" }, text)),
      number("Rounds"),
      number("Training time"),
      ...columns.map(([text]) => number(text)),
      el("th", { scope: "col" }, "Pulls by arm"),
    ),
  );
  const body = runs.map(({ name, order, run }, at) => {
    const info = run.head.run;
    return [
      name,
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("span", { class: `swatch run-${order}` }), name),
        el("td", {}, info.policy),
        el("td", {}, info.state),
        el("td", { class: "number" }, count(info.rounds)),
        el("td", { class: "number" }, duration(run.head.seconds)),
        ...columns.map(([, column, low]) => difference(column[at], at ? column[0] : null, low)),
        el("td", { class: "small" }, pulls(run)),
      ),
    ];
  });
  rows(table.tBodies[0], body);
  if (runs.length < 2) return "";
  const groups = [[lossName.toLowerCase(), lossColumns], ...(metric ? [[metricName, metricColumns]] : [])];
  const missing = groups.filter(([, group]) => group.length === 1).map(([label]) => label);
  const until = `up to ${placeName(limit)}, which all runs have reached`;
  const sentences = [];
  if (missing.length < groups.length) sentences.push(`"At equal ${where}" is the last value measured ${until}.`);
  if (missing.length > 0) sentences.push(`${missing.join(" and ")} cannot be compared at equal ${where}: fewer than two runs have a value ${until}.`);
  return sentences.map((text) => text[0].toUpperCase() + text.slice(1)).join(" ");
}

// The last value up to a position on the axis, of any worker. A value from before the first round is not compared.
function valueOf(lines, name, until) {
  const own = lines.filter((line) => line.group === name);
  if (own.length === 0) return null;
  const [at, value] = own.map((line) => before(line, until)).reduce((a, b) => (b[0] > a[0] ? b : a));
  return at > (overTime() ? 0 : -1) ? value : null;
}

// A value, and its difference from another in percent. `low`: lower is better.
function difference(value, other, low) {
  if (value === null || value === undefined) return el("td", { class: "number" }, NONE);
  if (other === null || other === 0) return el("td", { class: "number" }, measure(value));
  const change = (value - other) / Math.abs(other);
  const kind = Math.abs(change) < 5e-4 ? "" : change < 0 === low ? "good" : "bad";
  return el("td", { class: "number" }, measure(value), el("span", { class: `note below ${kind}` }, percent(change, 1, true)));
}

// The share of each arm in the pulls, without those of the tail.
function pulls(run) {
  const { arms } = run.head.run;
  const all = arms.reduce((sum, arm) => sum + arm.pulls, 0);
  return arms.filter((arm) => arm.pulls > 0).map((arm) => `${arm.name} ${percent(arm.pulls / all, 0)}`).join(", ") || NONE;
}
