// The student's task metrics, beside the teacher's and its own at the start.
import { el, rows } from "./dom.js";
import { measure, NONE } from "./format.js";

// Every metric that was measured, or told of the teacher.
export function metricNames(run) {
  const named = run.head.run.workers.flatMap((worker) => Object.keys(worker.teacher_metrics));
  return [...new Set([...run.of("metric").map((line) => line.name), ...named])].sort();
}

// A metric "accuracy/position" is a part of "accuracy": the table tells of it, charts and headlines do not.
export function headlines(run) {
  const names = metricNames(run);
  return names.filter((name) => !names.some((whole) => name.startsWith(`${whole}/`)));
}

// The value that was measured last, by whichever worker.
export function latest(run, metric) {
  const measured = run.of("metric").filter((line) => line.name === metric);
  const last = measured.sort((a, b) => b.x.at(-1) - a.x.at(-1))[0];
  return last ? last.y[0].at(-1) : undefined;
}

// What a worker told of the teacher ("teacher_metrics") or of the student at its start ("student_metrics").
export function told(run, kind, metric) {
  return run.head.run.workers.map((worker) => worker[kind][metric]).find((value) => value !== undefined);
}

export function metricsTable(body, run) {
  const cell = (value) => el("td", { class: "number" }, value === undefined ? NONE : measure(value));
  const row = (metric) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, metric),
      cell(told(run, "student_metrics", metric)),
      cell(latest(run, metric)),
      cell(told(run, "teacher_metrics", metric)),
    );
  rows(body, metricNames(run).map((metric) => [`m ${metric}`, row(metric)]));
}
