// A table of the last values of a chart's lines.
import { el, show } from "./dom.js";
import { count, NONE } from "./format.js";

const ROWS = 20;

export function valuesTable(host, lines, format) {
  const xs = [...new Set(lines.flatMap((line) => line.x.slice(-ROWS)))].sort((a, b) => b - a).slice(0, ROWS);
  const cell = (line, x) => {
    const at = line.x.lastIndexOf(x);
    return el("td", { class: "number" }, at < 0 || line.y[at] === null ? NONE : format(line.y[at]));
  };
  const head = lines.map((line) => el("th", { scope: "col", class: "number" }, line.label));
  const body = xs.map((x) =>
    el("tr", {}, el("th", { scope: "row" }, x < 0 ? "start" : count(x)), ...lines.map((line) => cell(line, x))),
  );
  show(
    host,
    el(
      "table",
      {},
      el("caption", { class: "hidden" }, "The last values, newest first"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Pull"), ...head)),
      el("tbody", {}, ...body),
    ),
  );
}
