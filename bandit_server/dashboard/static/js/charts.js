// The charts of a run's page, each in the element with its name as id.
import { SECONDS, unitOf } from "./axis.js";
import { el } from "./dom.js";
import { duration, measure, number, percent, reward, tickDecimals } from "./format.js";
import { LineChart } from "./linechart.js";
import { Raster } from "./raster.js";
import { get, set } from "./view.js";

const at = (id) => document.getElementById(id);
const tick = (value, ticks) => number(value, tickDecimals(ticks));
const shares = { format: (value) => percent(value, 0), tick: (value) => percent(value, 0), low: 0, high: 1.02 };

export function makeCharts(run) {
  const posterior = new LineChart(at("posterior"), {
    title: "Expected next reward by arm, with 90 % interval",
    format: (value) => reward(value, run.head.run.relative),
    tick: (value, ticks) => {
      const { relative } = run.head.run;
      return reward(value, relative, tickDecimals(ticks, relative ? 100 : 1));
    },
    empty: "No posterior yet. Policies that learn have one after the first reward.",
  });
  const best = new LineChart(at("best"), {
    ...shares,
    title: "Probability that each arm is the best now",
    empty: "No posterior yet. Policies that learn have one after the first reward.",
  });
  const share = new LineChart(at("share"), { ...shares, title: "Each arm's share of the last pulls", empty: "No arm has been pulled yet." });
  const losses = new LineChart(at("losses"), {
    title: "Losses on the probe",
    format: measure,
    // Ticks of a log scale span magnitudes, so each has its own number of decimals.
    tick: (value, ticks) => (losses.log ? measure(value) : tick(value, ticks)),
    empty: "No loss has been reported yet.",
  });
  losses.log = get("log") === "1";
  at("losses-title").after(logButton(losses));
  return {
    posterior,
    best,
    share,
    losses,
    raster: new Raster(at("raster"), "Pulls by worker and arm"),
    terms: new LineChart(at("terms"), { title: "Loss terms, unweighted", format: measure, tick, empty: "No loss term has been reported yet." }),
    bought: new LineChart(at("bought"), { title: "Total loss decrement by arm", format: (value) => number(value, 4), tick, empty: "No round has been reported yet." }),
    spent: new LineChart(at("spent"), {
      title: "Total training time by arm",
      format: duration,
      tick: (value, ticks) => {
        const [size, unit] = unitOf(ticks.at(-1));
        return `${Number((value / size).toPrecision(4))}\u202f${unit}`;
      },
      incrs: SECONDS,
      empty: "No round has been reported yet.",
      low: 0,
    }),
    metrics: new LineChart(at("metrics"), { title: "Task metrics", format: measure, tick, empty: "" }),
  };
}

export function logButton(chart) {
  const log = el("button", { type: "button", class: "quiet tool", "aria-pressed": String(chart.log) }, "Log scale");
  log.addEventListener("click", () => {
    chart.setLog(!chart.log);
    log.setAttribute("aria-pressed", String(chart.log));
    set("log", chart.log ? "1" : "");
  });
  return log;
}

