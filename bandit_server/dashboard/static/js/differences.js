// How runs differ from the first of them.
import { overTime, placeName } from "./axis.js";
import { el, rows, show } from "./dom.js";
import { count, duration, measure, NONE, percent } from "./format.js";
import { before } from "./linechart.js";

// Fills the table. Returns a sentence on what "at equal" means, or on why there is nothing to compare so.
export function differences(table, runs, { loss, lossLines, metric, metricLines, limit }) {
  const where = overTime() ? "training time" : "pulls";
  const metricName = metric.replace(/^metric\//, "");
  const lossName = loss.startsWith("total/") ? "Total loss" : "Loss";
  const values = (lines, until) => runs.map(({ name }) => valueOf(lines, name, until));
  // [head, value of each run, whether lower is better]; one run's value alone is no comparison.
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
        ...columns.map(([, told, low]) => difference(told[at], at ? told[0] : null, low)),
        el("td", { class: "small" }, pulls(run)),
      ),
    ];
  });
  rows(table.tBodies[0], body);
  if (runs.length < 2) return "";
  const groups = [[lossName.toLowerCase(), lossColumns], ...(metric ? [[metricName, metricColumns]] : [])];
  const missed = groups.filter(([, told]) => told.length === 1).map(([what]) => what);
  const until = `until ${placeName(limit)}, which all of them have reached`;
  const sentences = [];
  if (missed.length < groups.length) sentences.push(`"At equal ${where}" is the last value measured ${until}.`);
  if (missed.length > 0) sentences.push(`${missed.join(" and ")} cannot be compared at equal ${where}: fewer than two of these runs have a value ${until}.`);
  return sentences.map((text) => text[0].toUpperCase() + text.slice(1)).join(" ");
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
  return el("td", { class: "number" }, measure(value), el("span", { class: `note below ${kind}` }, percent(change, 1, true)));
}

// How the pulls were shared among arms, the tail's left out.
function pulls(run) {
  const { arms } = run.head.run;
  const all = arms.reduce((sum, arm) => sum + arm.pulls, 0);
  return arms.filter((arm) => arm.pulls > 0).map((arm) => `${arm.name} ${percent(arm.pulls / all, 0)}`).join(", ") || NONE;
}
