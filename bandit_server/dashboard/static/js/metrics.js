// Task metrics of the student, of the teacher, and of the student at its start.
import { el, rows } from "./dom.js";
import { measure, NONE } from "./format.js";

// The names of all metrics of the student and the teacher.
export function metricNames(run) {
  const ofTeacher = run.head.run.workers.flatMap((worker) => Object.keys(worker.teacher_metrics));
  return [...new Set([...run.linesOf("metric").map((line) => line.name), ...ofTeacher])].sort();
}

// Metrics for charts and key figures. "accuracy/position" details "accuracy" and is shown in the table only.
export function headlineMetrics(run) {
  const names = metricNames(run);
  return names.filter((name) => !names.some((whole) => name.startsWith(`${whole}/`)));
}

// The latest value of a metric, of any worker.
export function latestMetric(run, metric) {
  const measured = run.linesOf("metric").filter((line) => line.name === metric);
  const last = measured.sort((a, b) => b.x.at(-1) - a.x.at(-1))[0];
  return last ? last.y[0].at(-1) : undefined;
}

// A metric of the teacher (kind "teacher_metrics") or of the student at its start ("student_metrics").
export function initialMetric(run, kind, metric) {
  return run.head.run.workers.map((worker) => worker[kind][metric]).find((value) => value !== undefined);
}

export function metricsTable(body, run) {
  const cell = (value) => el("td", { class: "number" }, value === undefined ? NONE : measure(value));
  const row = (metric) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, ...metric.split(/(?<=\/)/).flatMap((text) => [text, el("wbr")])),
      cell(initialMetric(run, "student_metrics", metric)),
      cell(latestMetric(run, metric)),
      cell(initialMetric(run, "teacher_metrics", metric)),
    );
  rows(body, metricNames(run).map((metric) => [`m ${metric}`, row(metric)]));
}
