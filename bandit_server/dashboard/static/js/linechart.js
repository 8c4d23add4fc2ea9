// A line chart with bands, a legend that hides lines and shows values, and a table of the values for screen readers.
import { base, gutter, placeName, places, plain, range, register, unregister, xAxis } from "./axis.js";
import { el } from "./dom.js";
import { count, NONE } from "./format.js";
import { colour } from "./palette.js";
import { valuesTable } from "./values.js";
import { isHidden, setHidden } from "./view.js";

// A line: {key, label, group, colour (name of a custom property), dash, width, points, x, t, y, band: [low, high]}.
// Lines of a group (such as the losses of all workers) share an entry of the legend; other lines have their own.
export class LineChart {
  // format: value -> text with unit; tick: (value, all ticks) -> text on the axis; height: CSS pixels;
  // empty: text without lines; low, high: ends of the y axis, if not the data's; incrs: its steps.
  constructor(host, { title, format, tick, height = 220, empty, low = null, high = null, incrs = undefined }) {
    Object.assign(this, { format, tick, height, low, high, incrs, id: host.id, lines: [], log: false });
    this.legend = el("div", { class: "legend", role: "group", "aria-label": `${title}: lines` });
    this.place = el("span", { class: "place" });
    this.canvas = el("div", { class: "chart", role: "img", "aria-label": title });
    this.empty = el("p", { class: "hint nothing" }, empty);
    this.text = el("p", { class: "hidden" });
    this.table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: values` });
    this.details = el("details", {}, el("summary", {}, "Last values as a table"), this.table);
    this.details.addEventListener("toggle", () => this.fillTable());
    host.append(this.legend, this.canvas, this.empty, this.text, this.details);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    // A chart outside the screen is drawn when it is scrolled into view.
    this.visible = true;
    new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.pending) this.update(...this.pending);
    }, { rootMargin: "200px" }).observe(host);
    document.addEventListener("optima-theme", () => this.chart?.redraw(false, true));
    document.addEventListener("optima-axis", () => this.build());
  }

  update(lines, summary) {
    const rebuild = shape(lines) !== shape(this.lines);
    this.pending = null;
    if (!this.visible && !rebuild) {
      this.pending = [lines, summary];
      return;
    }
    this.lines = lines;
    this.empty.hidden = lines.length > 0;
    this.canvas.hidden = this.legend.hidden = this.details.hidden = lines.length === 0;
    this.text.textContent = summary;
    this.canvas.setAttribute("aria-label", summary);
    if (rebuild) this.build();
    else if (this.chart) {
      this.chart.batch(() => {
        this.chart.setData(this.data(), false);
        this.chart.setScale("x", { min: range()[0], max: range()[1] });
      });
    }
    this.showValues(this.chart?.cursor.idx);
    this.fillTable();
  }

  setLog(log) {
    this.log = log;
    this.build();
  }

  build() {
    if (this.chart) {
      unregister(this.chart);
      this.chart.destroy();
      this.chart = null;
    }
    this.width = this.canvas.clientWidth;
    if (this.lines.length === 0 || this.width === 0) return;
    const options = base(this.width, this.height, { setCursor: [(chart) => this.showValues(chart.cursor.idx)] });
    options.scales.y = this.scale();
    options.axes = [xAxis(), this.yAxis()];
    options.series = [{}];
    options.bands = [];
    // Bands overlap, so each is fainter the more there are.
    const opacity = 0.42 / Math.max(3, this.lines.filter((line) => line.band).length);
    for (const line of this.lines) {
      const visible = !isHidden(this.id, groupOf(line));
      const stroke = () => colour(line.colour);
      const { width = 1.75, dash = [], points = false } = line;
      const paths = line.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined;
      options.series.push({ stroke, width, dash, paths, show: visible, points: { show: points, size: 5, fill: stroke } });
      if (!line.band) continue;
      const at = options.series.length;
      const edge = { stroke: "transparent", width: 0, show: visible, points: { show: false } };
      options.series.push(edge, { ...edge });
      options.bands.push({ series: [at + 1, at], fill: () => fade(colour(line.colour), opacity) });
    }
    this.chart = new uPlot(options, this.data(), this.canvas);
    this.chart.setScale("x", { min: range()[0], max: range()[1] });
    register(this.chart);
    this.buildLegend();
  }

  scale() {
    if (this.log) return { distr: 3 };
    const { low, high } = this;
    if (low === null) return {};
    // Shares and totals are read against zero, and shares also against one.
    return { range: (_chart, min, max) => [low, high ?? (max > low ? max + 0.05 * (max - low) : low + 1)] };
  }

  yAxis() {
    const values = (_chart, splits) => splits.map((value) => (value === null ? "" : this.tick(value, splits)));
    return { ...plain(), size: gutter(), values, incrs: this.incrs };
  }

  data() {
    // On a log scale, values of zero and below are gaps.
    const shown = (values) => (this.log ? values.map((value) => (value > 0 ? value : null)) : values);
    return uPlot.join(this.lines.map((line) => [places(line), ...[line.y, ...(line.band ?? [])].map(shown)]));
  }

  // The index of a line's values among the columns of the chart's data.
  column(line) {
    let at = 1;
    for (const other of this.lines) {
      if (other === line) return at;
      at += other.band ? 3 : 1;
    }
    return at;
  }

  buildLegend() {
    this.readouts = new Map();
    const buttons = [...this.groups()].map(([group, lines]) => {
      const value = el("span", { class: "value" });
      this.readouts.set(group, value);
      const { colour: name, dash } = lines[0];
      const mark = el("span", { class: `swatch line ${name.slice(2)}${dash?.length ? " dashed" : ""}` });
      const text = lines[0].group && lines.length > 1 ? `${group}, ${count(lines.length)} workers` : lines[0].group ?? lines[0].label;
      const pressed = String(!isHidden(this.id, group));
      const button = el("button", { type: "button", class: "key", "aria-pressed": pressed }, mark, text, value);
      button.addEventListener("click", () => this.toggle(group, button));
      return button;
    });
    this.legend.replaceChildren(...buttons, this.place);
    this.showValues(null);
  }

  groups() {
    const groups = new Map();
    for (const line of this.lines) groups.set(groupOf(line), [...(groups.get(groupOf(line)) ?? []), line]);
    return groups;
  }

  toggle(group, button) {
    const visible = isHidden(this.id, group);
    setHidden(this.id, group, !visible);
    button.setAttribute("aria-pressed", String(visible));
    for (const line of this.groups().get(group)) {
      const at = this.column(line);
      for (let offset = 0; offset < (line.band ? 3 : 1); offset += 1) this.chart.setSeries(at + offset, { show: visible });
    }
  }

  // Show the values at an index of the data, or the last ones. A group shows its latest value.
  showValues(index) {
    if (!this.chart || !this.readouts) return;
    const hovering = index !== null && index !== undefined;
    const until = hovering ? this.chart.data[0][index] : Infinity;
    this.place.textContent = hovering ? `at ${placeName(until)}` : "";
    for (const [group, lines] of this.groups()) {
      const [, value] = lines.map((line) => before(line, until)).reduce((a, b) => (b[0] > a[0] ? b : a));
      this.readouts.get(group).textContent = value === null ? NONE : this.format(value);
    }
  }

  fillTable() {
    if (this.details.open) valuesTable(this.table, this.lines, this.format);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (width === 0 || width === this.width) return;
    this.build();
  }
}

const shape = (lines) => JSON.stringify(lines.map((line) => [line.key, line.label, line.dash, line.points, Boolean(line.band)]));
const groupOf = (line) => line.group ?? line.key;

// [position, value] of a line's last point up to a position on the axis.
export function before(line, until) {
  const at = places(line);
  let low = 0;
  let high = at.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (at[middle] <= until) low = middle + 1;
    else high = middle;
  }
  return low > 0 ? [at[low - 1], line.y[low - 1]] : [-Infinity, null];
}

const fade = (rgb, opacity) => rgb.replace("rgb(", "rgba(").replace(")", `, ${opacity})`);
