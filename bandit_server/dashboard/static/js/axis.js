// The x axis that all charts of a page share: pull numbers or training time, one zoom, one cursor.
import { count, duration } from "./format.js";
import { el } from "./dom.js";
import { colour } from "./palette.js";
import { get, set } from "./view.js";

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const charts = new Set();
let mode = get("x") === "time" ? "time" : "pulls";
let zoom = parse(get("zoom"));
const ends = { pulls: 0, time: 0 };

export const narrow = () => innerWidth < 600;

// Width of the y axis, the same for all charts, so that the same pulls are below each other.
export const gutter = () => (narrow() ? 62 : 84);

export const overTime = () => mode === "time";

// The x values of a line.
export const places = (line) => (mode === "time" ? line.t : line.x);

// A position on the axis in words.
export const placeName = (at) => (mode === "time" ? `${duration(Math.max(0, at))} of training` : `pull ${count(Math.round(at))}`);

// The range to draw.
export function range() {
  if (zoom) return zoom;
  return mode === "time" ? [0, Math.max(ends.time, 1)] : [-1, Math.max(ends.pulls, 9) + 0.5];
}

// Set the ends of the data.
export function setEnds(pulls, seconds) {
  ends.pulls = pulls;
  ends.time = seconds;
}

export function setZoom(next) {
  zoom = next;
  set("zoom", next ? next.map((value) => value.toPrecision(6)).join("_") : "");
  document.dispatchEvent(new CustomEvent("optima-zoom", { detail: next !== null }));
  for (const chart of charts) chart.setScale("x", { min: range()[0], max: range()[1] });
}

export const register = (chart) => charts.add(chart);
export const unregister = (chart) => charts.delete(chart);

// The buttons that choose the axis, and the one that resets the zoom.
export function axisTools() {
  const choices = [["pulls", "Pulls"], ["time", "Training time"]].map(([name, label]) => {
    const button = el("button", { type: "button", class: "choice", "aria-pressed": String(mode === name) }, label);
    button.addEventListener("click", () => {
      if (mode === name) return;
      mode = name;
      set("x", name, "pulls");
      choices.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      setZoom(null);
      document.dispatchEvent(new Event("optima-axis"));
    });
    return button;
  });
  const whole = el("button", { type: "button", class: "quiet", hidden: zoom ? false : "" }, "Show all");
  whole.addEventListener("click", () => setZoom(null));
  document.addEventListener("optima-zoom", (event) => {
    whole.hidden = !event.detail;
  });
  return [
    el("span", { class: "segments", role: "group", "aria-label": "X axis of the charts" }, ...choices),
    whole,
    el("span", { class: "hint" }, "Drag to zoom, double-click to reset."),
  ];
}

function parse(text) {
  const [low, high] = text.split("_").map(Number);
  return Number.isFinite(low) && Number.isFinite(high) && low < high ? [low, high] : null;
}

// The common options of all charts: dragging zooms all of them, a double click resets the zoom.
export function base(width, height, hooks = {}) {
  const follow = (type) => type !== "mousedown" && type !== "mouseup" && type !== "dblclick";
  return {
    width,
    height,
    legend: { show: false },
    // Room on the right for half of a label such as 100,000.
    padding: [8, 26, 0, 0],
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

const COUNTS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
// Steps of an axis in seconds.
export const SECONDS = [0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800];

export function xAxis() {
  const over = mode === "time" ? timeUnit : () => [1, "pull"];
  return {
    ...plain(),
    size: 30,
    label: mode === "time" ? `training time, ${timeUnit()[1]}` : "pull",
    labelSize: 18,
    labelGap: -4,
    labelFont: FONT,
    space: narrow() ? 60 : 50,
    values: (_chart, splits) => splits.map((value) => label(value, over()[0])),
    incrs: mode === "time" ? SECONDS : COUNTS,
  };
}

const timeUnit = () => unitOf(ends.time);

// [seconds, name] of the unit for an axis that ends at this many seconds.
export function unitOf(end) {
  if (end < 180) return [1, "s"];
  if (end < 10800) return [60, "min"];
  return end < 259200 ? [3600, "h"] : [86400, "d"];
}

function label(value, unit) {
  if (mode === "pulls") return Number.isInteger(value) && value >= 0 ? count(value) : "";
  return String(Number((value / unit).toPrecision(4)));
}

// An axis in the theme's colours. They are functions, so that a redraw follows the theme.
export function plain() {
  return {
    font: FONT,
    stroke: () => colour("--ink-2"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { show: false },
  };
}
