// The x axis that all charts of a run share: pull numbers, one zoom, one cursor.
import { count } from "./format.js";
import { colour } from "./palette.js";

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const charts = new Set();
let zoom = null;
let highest = 0;

export const narrow = () => innerWidth < 600;

// Space for the labels of the y axis, the same everywhere: pulls stand below each other.
export const gutter = () => (narrow() ? 62 : 84);

// The range of pull numbers to draw.
export function range() {
  return zoom ?? [-0.5, Math.max(highest, 9) + 0.5];
}

export function setHighest(value) {
  highest = value;
}

export function setZoom(next) {
  zoom = next;
  document.dispatchEvent(new CustomEvent("optima-zoom", { detail: next !== null }));
  for (const chart of charts) chart.setScale("x", { min: range()[0], max: range()[1] });
}

export function register(chart) {
  charts.add(chart);
}

export function unregister(chart) {
  charts.delete(chart);
}

// What every chart is built with; drag zooms all of them, a double click shows everything again.
export function base(width, height, hooks = {}) {
  const follow = (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick";
  return {
    width,
    height,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    cursor: {
      y: false,
      drag: { x: true, y: false, setScale: false },
      sync: { key: "pulls", scales: ["x", null], filters: { pub: follow, sub: follow } },
      bind: { dblclick: () => () => setZoom(null) },
      points: { size: 6 },
    },
    scales: { x: { time: false, auto: false, range: (_chart, min, max) => [min, max] } },
    hooks: {
      ...hooks,
      setSelect: [
        (chart) => {
          const { left, width: wide } = chart.select;
          if (wide < 4) return;
          setZoom([chart.posToVal(left, "x"), chart.posToVal(left + wide, "x")]);
          chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        },
      ],
    },
  };
}

export function xAxis() {
  return {
    ...plain(),
    size: 30,
    label: "pull",
    labelSize: 18,
    labelGap: -4,
    labelFont: FONT,
    values: (_chart, splits) => splits.map((value) => (Number.isInteger(value) ? count(value) : "")),
    incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000],
  };
}

// An axis in the theme's colours. Colours are functions: a redraw follows the theme.
export function plain() {
  return {
    font: FONT,
    stroke: () => colour("--ink-2"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
  };
}
