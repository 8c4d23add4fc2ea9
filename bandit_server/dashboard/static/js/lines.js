// The lines of a run's charts, and a sentence with their last values for screen readers.
import { count, decimals, duration, measure, number, percent, reward } from "./format.js";
import { headlineMetrics, initialMetric } from "./metrics.js";
import { armColourName, armDash } from "./palette.js";

// Half the width of a 90 % interval of the normal distribution, in standard deviations.
const BAND_90 = 1.6448536269514722;

// The line of an arm. A very short one also shows its points.
const armLine = (line, y) => ({
  key: line.name,
  label: line.name,
  colour: armColourName(line.name, line.index),
  dash: armDash(line.index),
  x: line.x,
  t: line.t,
  y,
  points: line.x.length < 3,
});

const sentence = (lines, format) => lines.map((line) => `${line.label} ${format(line.y.at(-1))}`).join(", ");

export function posteriorLines(run) {
  const { relative } = run.head.run;
  const lines = run.linesOf("posterior").map((line) => {
    const [mean, sd] = line.y;
    const edge = (side) => mean.map((value, at) => (value === null ? null : value + side * BAND_90 * sd[at]));
    return { ...armLine(line, mean), band: [edge(-1), edge(1)] };
  });
  const text = sentence(lines, (value) => reward(value, relative));
  return [lines, `Expected next reward after ${count(run.head.highest + 1)} pulls: ${text}`];
}

export function bestLines(run) {
  const lines = run.linesOf("best").map((line) => armLine(line, line.y[0]));
  return [lines, `Probability that an arm is the best: ${sentence(lines, (value) => percent(value, 0))}`];
}

// The window of recent pulls in words; `Shares` in series.py has the same rule.
export function recentPulls(run) {
  const pulls = run.head.highest + 1;
  return pulls > 1000 ? `the last 2\u202f% of pulls, now ${count(Math.floor(pulls / 50))}` : "the last 20 pulls";
}

export function shareLines(run) {
  const lines = run.linesOf("share").map((line) => armLine(line, line.y[0]));
  return [lines, `Share of ${recentPulls(run)}: ${sentence(lines, (value) => percent(value, 0))}`];
}

// Totals as steps, from zero at the start to the current end of the run.
function totals(run, column) {
  const { highest, seconds } = run.head;
  return run.linesOf("spent").map((line) => ({
    ...armLine({ ...line, x: [-1, ...line.x, highest], t: [0, ...line.t, seconds] }, [0, ...line.y[column], line.y[column].at(-1)]),
    stepped: true,
  }));
}

export function boughtLines(run) {
  const lines = totals(run, 0);
  const digits = decimals(lines.map((line) => line.y.at(-1)));
  return [lines, `Total loss decrement by arm: ${sentence(lines, (value) => number(value, digits))}`];
}

export function spentLines(run) {
  const lines = totals(run, 1);
  return [lines, `Total training time by arm: ${sentence(lines, duration)}`];
}

// The lines of several workers differ by name and dash.
const DASHES = [[], [8, 3], [2, 3], [8, 3, 2, 3]];
const workerLabel = (run, line, label) =>
  (run.head.worker_ids.length > 1 ? `${label}, ${run.head.worker_ids[line.index]}` : label);

function workerLine(run, line, label, column, style) {
  return {
    key: `${line.key} ${label}`,
    group: label,
    label: workerLabel(run, line, label),
    dash: DASHES[line.index % 4],
    points: line.x.length < 3,
    x: line.x,
    t: line.t,
    y: line.y[column],
    ...style,
  };
}

export function lossLines(run) {
  const total = run.linesOf("total").map((line) =>
    workerLine(run, line, line.name, 0, { colour: "--ink", width: 2, points: line.x.length < 100 }),
  );
  const bandit = run.linesOf("bandit").flatMap((line) => [
    workerLine(run, line, "bandit loss after the round", 1, { colour: "--loss-after", width: 1.5 }),
    workerLine(run, line, "bandit loss before the round", 0, { colour: "--loss-before", width: 1 }),
  ]);
  const lines = [...total, ...bandit];
  const text = lines.map((line) => `${line.label} from ${measure(line.y[0])} to ${measure(line.y.at(-1))}`).join("; ");
  return [lines, `Losses on the probe: ${text}`];
}

export function termLines(run) {
  const names = [...new Set(run.linesOf("term").map((line) => line.name))].sort();
  const lines = run.linesOf("term").map((line) => {
    const order = names.indexOf(line.name);
    return workerLine(run, line, line.name, 0, { colour: `--term-${order % 8}`, dash: order < 8 ? DASHES[line.index % 4] : [6, 3] });
  });
  lines.sort((a, b) => a.group.localeCompare(b.group));
  return [lines, `Loss terms on the probe, unweighted: ${sentence(lines, measure)}`];
}

export function metricLines(run) {
  const shown = headlineMetrics(run);
  const measured = run.linesOf("metric").filter((line) => shown.includes(line.name)).map((line, order) =>
    workerLine(run, line, `student ${line.name}`, 0, { colour: "--ink", dash: DASHES[order % 4], points: line.x.length < 100 }),
  );
  const levels = shown.flatMap((metric) => [level(run, metric, "teacher_metrics", "teacher"), level(run, metric, "student_metrics", "start")]);
  const lines = [...measured, ...levels.filter(Boolean)];
  const text = lines.map((line) => `${line.label} ${measure(line.y.at(-1))}`).join("; ");
  return [lines, `Task metrics: ${text}`];
}

// A constant line: a metric of the teacher, or of the student at its start.
function level(run, metric, kind, who) {
  const value = initialMetric(run, kind, metric);
  if (value === undefined) return null;
  return {
    key: `${kind} ${metric}`,
    label: who === "teacher" ? `teacher ${metric}` : `student ${metric} at the start`,
    colour: who === "teacher" ? "--teacher" : "--start",
    width: 1.25,
    dash: [4, 4],
    x: [-1, Math.max(9, run.head.highest)],
    t: [0, Math.max(1, run.head.seconds)],
    y: [value, value],
  };
}
