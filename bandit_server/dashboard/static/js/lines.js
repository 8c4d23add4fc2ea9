// What the charts of a run draw: its lines, and the same in one sentence for those who do not see them.
import { count, measure, reward } from "./format.js";
import { headlines, told } from "./metrics.js";
import { armColourName, armDash } from "./palette.js";

export function posteriorLines(run) {
  const lines = run.of("posterior").map((line) => ({
    key: line.key,
    label: line.name,
    colour: armColourName(line.name, line.index),
    dash: armDash(line.index),
    x: line.x,
    y: line.y[0],
    band: [line.y[1], line.y[2]],
    // A line needs two points to be seen.
    points: line.x.length < 3,
  }));
  const text = lines.map((line) => `${line.label} ${reward(line.y.at(-1), run.head.run.relative)}`).join(", ");
  return [lines, `Posterior mean of the next reward after ${count(run.head.highest + 1)} pulls: ${text}`];
}

// Lines that several workers have are told apart by the worker's name and by dashes.
const DASHES = [[], [8, 3], [2, 3], [8, 3, 2, 3]];
const ofWorker = (run, line, label) =>
  (run.head.worker_ids.length > 1 ? `${label}, ${run.head.worker_ids[line.index]}` : label);

export function lossLines(run) {
  const total = run.of("total").map((line) => ({
    key: line.key,
    group: "total distillation loss",
    label: ofWorker(run, line, "total distillation loss"),
    colour: "--ink",
    width: 2,
    dash: DASHES[line.index % 4],
    points: line.x.length < 100,
    x: line.x,
    y: line.y[0],
  }));
  const part = (line, label, index, colour, width) => ({
    key: `${line.key} ${label}`,
    group: label,
    label: ofWorker(run, line, label),
    colour,
    width,
    dash: DASHES[line.index % 4],
    points: line.x.length < 3,
    x: line.x,
    y: line.y[index],
  });
  const bandit = run.of("bandit").flatMap((line) => [
    part(line, "bandit loss after the round", 1, "--loss-after", 1.5),
    part(line, "bandit loss before it", 0, "--loss-before", 1),
  ]);
  const lines = [...total, ...bandit];
  const text = lines.map((line) => `${line.label} from ${measure(line.y[0])} to ${measure(line.y.at(-1))}`).join("; ");
  return [lines, `Losses on the probe: ${text}`];
}

export function metricLines(run) {
  const shown = headlines(run);
  const measured = run.of("metric").filter((line) => shown.includes(line.name)).map((line, order) => ({
    key: line.key,
    group: `student ${line.name}`,
    label: ofWorker(run, line, `student ${line.name}`),
    colour: "--ink",
    dash: DASHES[order % 4],
    points: line.x.length < 100,
    x: line.x,
    y: line.y[0],
  }));
  const levels = shown.flatMap((metric) => [level(run, metric, "teacher_metrics", "teacher"), level(run, metric, "student_metrics", "start")]);
  const lines = [...measured, ...levels.filter(Boolean)];
  const text = lines.map((line) => `${line.label} ${measure(line.y.at(-1))}`).join("; ");
  return [lines, `Task metrics: ${text}`];
}

// A level to compare with: what a worker told of the teacher, or of the student at its start.
function level(run, metric, kind, who) {
  const value = told(run, kind, metric);
  if (value === undefined) return null;
  return {
    key: `${kind} ${metric}`,
    label: who === "teacher" ? `teacher ${metric}` : `student ${metric} at the start`,
    colour: who === "teacher" ? "--teacher" : "--start",
    width: 1.25,
    dash: [4, 4],
    x: [0, Math.max(9, run.head.highest)],
    y: [value, value],
  };
}
