// The tables of one run: arms and workers.
import { el, rows, svg } from "./dom.js";
import { count, decimals, duration, NONE, number, percent, reward } from "./format.js";
import { since } from "./page.js";
import { armColourName } from "./palette.js";

const PM = "\u202f±\u202f";

// `button(arm)` returns the button that pauses or resumes an arm.
export function armsTable(body, run, button) {
  const all = run.arms.reduce((sum, arm) => sum + arm.pulls, 0);
  const scale = run.relative ? 100 : 1;
  const digits = decimals(run.arms.flatMap((arm) => [arm.mean, arm.last_reward]).map((v) => (v === null ? null : v * scale)));
  const lossDigits = decimals(run.arms.map((arm) => arm.total_decrement));
  const right = (...children) => el("td", { class: "number" }, ...children);
  const row = (arm, index) =>
    el(
      "tr",
      { class: arm.paused ? "paused" : null },
      el(
        "th",
        { scope: "row", title: `modules: ${arm.modules.join(", ")}` },
        el("span", { class: `swatch ${armColourName(arm.name, index).slice(2)}` }),
        arm.name,
        el("span", { class: "modules" }, arm.modules.join(", ")),
      ),
      right(
        arm.mean === null
          ? NONE
          : `${number(arm.mean * scale, digits, true)}${PM}${number(arm.sd * scale, digits)}${run.relative ? "\u202f%" : ""}`,
      ),
      el("td", {}, chance(arm, index)),
      right(count(arm.pulls), all > 0 && el("span", { class: "note" }, percent(arm.pulls / all, 0))),
      right(reward(arm.last_reward, run.relative, digits)),
      right(arm.total_seconds > 0 ? number(arm.total_decrement, lossDigits) : NONE),
      right(arm.total_seconds > 0 ? duration(arm.total_seconds) : NONE),
      el("td", {}, arm.paused ? el("span", { class: "badge paused" }, "paused") : "active", run.state === "active" && button(arm)),
    );
  rows(body, run.arms.map((arm, index) => [arm.name, row(arm, index)]));
}

// P(best) as a number and a bar.
function chance(arm, index) {
  if (arm.p_best === null) return NONE;
  const colour = armColourName(arm.name, index).slice(2);
  const bar = svg(
    "svg",
    { class: "track", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: `fill ${colour}`, width: 100 * arm.p_best, height: 8 }),
  );
  return el("span", { class: "chance" }, bar, el("span", {}, percent(arm.p_best, 0)));
}

// A worker without heartbeats is a problem only while it has rounds left.
function workerState(worker, run) {
  if (worker.alive) return "alive";
  if (worker.done) return "done";
  return run.state === "finished" ? "gone" : "silent";
}

export function workersTable(body, run) {
  const right = (...children) => el("td", { class: "number" }, ...children);
  const versions = (worker) => Object.entries(worker.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const row = (worker) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, worker.worker),
      el(
        "td",
        {},
        el("span", { class: `badge ${workerState(worker, run)}` }, workerState(worker, run)),
        worker.heard !== null && el("span", { class: "note" }, since(worker.heard, " ago")),
      ),
      right(count(worker.round)),
      right(count(worker.reports)),
      right(worker.steps_per_second === null ? NONE : `${number(worker.steps_per_second, decimals([worker.steps_per_second]))}\u202fsteps/s`),
      right(count(worker.ranks)),
      el("td", {}, worker.device || NONE),
      el("td", {}, worker.recipe || NONE),
      el("td", { class: "small" }, versions(worker) || NONE),
    );
  const empty = el("tr", {}, el("td", { colspan: 9, class: "hint" }, "No worker has joined yet."));
  const all = run.workers.map((worker) => [`w ${worker.worker}`, row(worker)]);
  rows(body, all.length > 0 ? all : [["empty", empty]]);
}
