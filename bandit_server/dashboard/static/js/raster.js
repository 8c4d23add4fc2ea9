// The raster of pulls: a block per worker, a row per arm, a mark per pull.
import { base, gutter, narrow, overTime, placeName, plain, range, register, unregister, xAxis } from "./axis.js";
import { el, show } from "./dom.js";
import { count, duration } from "./format.js";
import { MARKS, rasterLegend } from "./marks.js";
import { DIVERGED, FALLBACK, OPEN, SUPERSEDED } from "./model.js";
import { armColourName, colour } from "./palette.js";

export class Raster {
  constructor(host, title) {
    this.title = title;
    this.readout = el("p", { class: "hint readout" }, "\u00a0");
    this.canvas = el("div", { class: "chart", role: "img", "aria-label": title });
    this.legend = el("ul", { class: "legend marks", "aria-label": "Colours and marks" });
    host.append(this.canvas, this.readout, this.legend);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    document.addEventListener("optima-theme", () => this.chart?.redraw(false, true));
    document.addEventListener("optima-axis", () => this.run && this.build());
  }

  update(run) {
    this.run = run;
    // Diverged rounds are drawn last, so that nothing hides them.
    const cells = [...run.bins, ...run.pulls.values()];
    this.cells = [...cells.filter((cell) => !(cell[4] & DIVERGED)), ...cells.filter((cell) => cell[4] & DIVERGED)];
    const { arm_names: arms, worker_ids: workers } = run.head;
    this.rows = arms.length * workers.length + Math.max(0, workers.length - 1);
    this.canvas.setAttribute("aria-label", this.summary());
    show(this.legend, ...rasterLegend(run, this.cells));
    const shape = JSON.stringify([arms, workers]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build();
    } else if (this.chart) {
      this.chart.batch(() => {
        this.chart.setData(this.extent(), false);
        this.chart.setScale("x", { min: range()[0], max: range()[1] });
      });
      this.chart.redraw(false, true);
    }
  }

  summary() {
    const { arm_names: arms, worker_ids: workers } = this.run.head;
    const totals = arms.map((_arm, index) =>
      this.cells.filter((cell) => cell[3] === index).reduce((sum, cell) => sum + cell[5], 0),
    );
    const parts = arms.map((arm, index) => `${arm} ${count(totals[index])}`);
    return `${this.title}: ${count(workers.length)} workers; pulls of each arm: ${parts.join(", ")}`;
  }

  rowHeight() {
    const { length: workers } = this.run.head.worker_ids;
    return Math.max(3, Math.min(44, Math.floor((workers > 2 ? 420 : 192) / Math.max(1, this.rows))));
  }

  build() {
    if (this.chart) {
      unregister(this.chart);
      this.chart.destroy();
      this.chart = null;
    }
    this.width = this.canvas.clientWidth;
    if (this.rows <= 0 || this.width === 0) return;
    const { arm_names: arms, worker_ids: workers } = this.run.head;
    const options = base(this.width, 60 + this.rows * this.rowHeight(), {
      drawAxes: [(chart) => this.draw(chart)],
      setCursor: [(chart) => this.read(chart)],
    });
    options.cursor.points.show = false;
    options.scales.y = { auto: false, dir: -1, range: () => [-0.5, this.rows - 0.5] };
    const labels = workers.length === 1
      ? arms.map((arm, index) => [index, arm])
      : workers.map((worker, index) => [index * (arms.length + 1) + (arms.length - 1) / 2, worker]);
    const longest = narrow() ? 6 : 10;
    const y = {
      ...plain(),
      size: gutter(),
      splits: () => labels.map(([at]) => at),
      values: () => labels.map(([, text]) => (text.length > longest ? `${text.slice(0, longest - 1)}…` : text)),
      grid: { show: false },
    };
    options.axes = [xAxis(), y];
    options.series = [{}, { show: false }];
    this.chart = new uPlot(options, this.extent(), this.canvas);
    this.chart.setScale("x", { min: range()[0], max: range()[1] });
    register(this.chart);
  }

  extent() {
    const { highest, seconds } = this.run.head;
    return [[0, Math.max(1, overTime() ? seconds : highest)], [null, null]];
  }

  draw(chart) {
    const { ctx } = chart;
    const { arm_names: arms } = this.run.head;
    const [min, max] = [chart.scales.x.min, chart.scales.x.max];
    const ratio = devicePixelRatio;
    const step = chart.bbox.width / (max - min);
    const height = chart.bbox.height / this.rows;
    ctx.save();
    ctx.beginPath();
    ctx.rect(chart.bbox.left, chart.bbox.top, chart.bbox.width, chart.bbox.height);
    ctx.clip();
    for (const [first, last, worker, arm, flags, pulls, begin, end] of this.cells) {
      const [from, to] = overTime() ? [begin, end] : [first - 0.5, last + 0.5];
      if (to < min || from > max) continue;
      const row = worker * (arms.length + 1) + arm;
      const gap = ((to - from) * step) / (last - first + 1) > 4 * ratio ? ratio : 0;
      const left = chart.valToPos(from, "x", true);
      const width = Math.max(1.5 * ratio, (to - from) * step - gap);
      const top = chart.bbox.top + row * height + Math.min(ratio, 0.1 * height);
      const tall = height - 2 * Math.min(ratio, 0.1 * height);
      // A mark of merged pulls is as opaque as they are dense.
      ctx.globalAlpha = Math.min(1, 0.3 + (0.7 * pulls) / (last - first + 1));
      drawMark(ctx, flags, colour(armColourName(arms[arm], arm)), left, top, width, tall, ratio);
    }
    ctx.restore();
  }

  // Describe the pulls under the cursor.
  read(chart) {
    const { left } = chart.cursor;
    if (left === undefined || left < 0) {
      this.readout.textContent = "\u00a0";
      return;
    }
    const value = chart.posToVal(left, "x");
    const { arm_names: arms, worker_ids: workers } = this.run.head;
    const pull = overTime()
      ? [...this.run.pulls.values()].find((cell) => cell[6] <= value && value < cell[7])
      : this.run.pulls.get(Math.round(value));
    if (pull) {
      const marks = MARKS.filter(([mark]) => pull[4] & mark).map(([, text]) => text);
      const took = pull[7] > pull[6] ? [`${duration(pull[7] - pull[6])} of training`] : [];
      const texts = [`pull ${count(pull[0])}: ${workers[pull[2]]} trains ${arms[pull[3]]}`, ...took, ...marks];
      this.readout.textContent = texts.join(", ");
      return;
    }
    const [low, high] = overTime() ? [6, 7] : [0, 1];
    const bins = this.run.bins.filter((bin) => bin[low] <= value && value <= bin[high]);
    const counts = bins.map((bin) => `${arms[bin[3]]} ${count(bin[5])}`);
    this.readout.textContent = bins.length ? `around ${placeName(value)}: ${counts.join(", ")}` : placeName(value);
  }

  resize() {
    if (this.canvas.clientWidth !== this.width && this.run) this.build();
  }
}

function drawMark(ctx, flags, fill, left, top, width, height, ratio) {
  const full = ctx.globalAlpha;
  ctx.fillStyle = ctx.strokeStyle = fill;
  if (flags & SUPERSEDED) {
    ctx.fillRect(left, top + height / 2 - ratio, width, 2 * ratio);
  } else if (flags & OPEN) {
    ctx.lineWidth = ratio;
    ctx.strokeRect(left + ratio / 2, top + ratio / 2, Math.max(ratio, width - ratio), height - ratio);
  } else if (flags & DIVERGED) {
    ctx.globalAlpha = 0.3 * full;
    ctx.fillRect(left, top, width, height);
    ctx.globalAlpha = full;
    const reach = Math.max(3 * ratio, Math.min(width, height) / 2 - ratio);
    const [x, y] = [left + width / 2, top + height / 2];
    ctx.strokeStyle = colour("--bad");
    ctx.lineWidth = 1.75 * ratio;
    ctx.beginPath();
    ctx.moveTo(x - reach, y - reach);
    ctx.lineTo(x + reach, y + reach);
    ctx.moveTo(x - reach, y + reach);
    ctx.lineTo(x + reach, y - reach);
    ctx.stroke();
  } else if (flags & FALLBACK) {
    ctx.fillRect(left, top + height / 2, width, height / 2);
  } else {
    ctx.fillRect(left, top, width, height);
  }
}
