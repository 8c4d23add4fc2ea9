// The legend of the raster.
import { el, svg } from "./dom.js";
import { DIVERGED, FALLBACK, OPEN, SUPERSEDED, TAIL } from "./model.js";
import { armColourName } from "./palette.js";

export const MARKS = [
  [FALLBACK, "chosen by the worker, server unreachable"],
  [TAIL, "joint tail"],
  [OPEN, "in flight"],
  [DIVERGED, "diverged"],
  [SUPERSEDED, "superseded"],
];

// The arms, if the rows are labelled with workers, and the marks that occur.
export function rasterLegend(run, cells) {
  const { arm_names: arms, worker_ids: workers } = run.head;
  const colours = workers.length > 1 ? arms : [];
  const occur = cells.reduce((marks, cell) => marks | cell[4], 0);
  const marks = MARKS.filter(([mark]) => occur & mark && !(mark === TAIL && colours.includes("joint")));
  return [
    ...colours.map((arm, index) => el("li", {}, el("span", { class: `swatch ${armColourName(arm, index).slice(2)}` }), arm)),
    ...marks.map(legendItem),
  ];
}

function legendItem([mark, text]) {
  const shapes = {
    [FALLBACK]: svg("rect", { x: 1, y: 6, width: 10, height: 6, class: "full" }),
    [TAIL]: svg("rect", { x: 1, y: 0, width: 10, height: 12, class: "tail" }),
    [OPEN]: svg("rect", { x: 1.5, y: 0.5, width: 9, height: 11, class: "outline" }),
    [DIVERGED]: svg("path", { d: "M2 2L10 10M2 10L10 2", class: "cross" }),
    [SUPERSEDED]: svg("rect", { x: 1, y: 5, width: 10, height: 2, class: "full" }),
  };
  return el("li", {}, svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" }, shapes[mark]), text);
}
