// The table of a run's events, with filters. Events older than those received are fetched on demand.
import { el, rows } from "./dom.js";
import { clock, count, duration, measure, NONE, reward } from "./format.js";
import { armColourName } from "./palette.js";
import { get, set } from "./view.js";

const PAGE_SIZE = 50;
const KINDS = [
  ["", "all"],
  ["pull", "arms chosen"],
  ["report", "rounds reported"],
  ["diverged", "rounds diverged"],
  ["superseded", "pulls superseded"],
  ["worker", "workers started"],
  ["arm", "arms paused and resumed"],
  ["finished", "run finished"],
  ["restored", "history restored"],
  ["created", "run created"],
];
const CHOSEN_BY = { fallback: "the worker while the server was unreachable", tail: "the joint tail" };

export class Log {
  constructor(host, name) {
    this.name = name;
    this.older = [];
    this.shown = PAGE_SIZE;
    this.done = false;
    this.kind = this.select("kind", "Events", KINDS);
    this.arm = this.select("arm", "Arm", [["", "all"]]);
    this.worker = this.select("worker", "Worker", [["", "all"]]);
    this.body = el("tbody");
    this.more = el("button", { type: "button", class: "quiet" }, "Older");
    this.more.addEventListener("click", () => this.fetchMore());
    const head = ["When", "Event", "Worker", "Round", "Pull", "Arm", "Result"].map((text, at) =>
      el("th", { scope: "col", class: at === 3 || at === 4 ? "number" : null }, text),
    );
    const table = el("table", { class: "wide", id: "events" }, el("caption", { class: "hidden" }, "Events of the run, newest first"), el("thead", {}, el("tr", {}, ...head)), this.body);
    this.none = el("p", { class: "hint", hidden: "" }, "No event matches the filter.");
    host.append(
      el("div", { class: "filters" }, ...[this.kind, this.arm, this.worker].map((select) => select.parentElement)),
      el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Events" }, table, this.none),
      this.more,
    );
  }

  select(id, label, options) {
    const select = el("select", { id: `filter-${id}` });
    el("label", { class: "filter" }, label, select);
    fill(select, options, get(id));
    select.addEventListener("change", () => {
      set(id, select.value);
      this.refetch();
    });
    return select;
  }

  update(run) {
    this.run = run;
    fill(this.arm, [["", "all"], ...run.head.arm_names.map((arm) => [arm, arm])], this.arm.value || get("arm"));
    fill(this.worker, [["", "all"], ...run.head.worker_ids.map((worker) => [worker, worker])], this.worker.value || get("worker"));
    if (!this.started) {
      this.started = true;
      if (this.filtered()) this.refetch();
    }
    this.draw();
  }

  filtered() {
    return this.kind.value || this.arm.value || this.worker.value;
  }

  matches(row) {
    const fits = (select, value) => !select.value || select.value === value;
    return fits(this.kind, row.kind) && fits(this.arm, row.arm) && fits(this.worker, row.worker);
  }

  // The loaded events that match the filters, newest first, each once.
  loaded() {
    const all = new Map([...this.run.log.filter((row) => this.matches(row)), ...this.older].map((row) => [row.version, row]));
    return [...all.values()].sort((a, b) => b.version - a.version);
  }

  draw() {
    const loaded = this.loaded();
    const table = loaded.slice(0, this.shown).map((row) => [String(row.version), this.row(row)]);
    rows(this.body, table);
    this.none.hidden = loaded.length > 0;
    this.more.hidden = loaded.length <= this.shown && (this.done || loaded.some((row) => row.version === 1));
  }

  refetch() {
    this.older = [];
    this.done = false;
    this.shown = PAGE_SIZE;
    this.draw();
    if (this.loaded().length < PAGE_SIZE) this.fetchMore(0);
  }

  async fetchMore(more = PAGE_SIZE) {
    this.shown += more;
    const loaded = this.loaded();
    if (loaded.length < this.shown && !this.done) {
      const query = new URLSearchParams({ limit: "200" });
      if (loaded.length) query.set("before", String(loaded.at(-1).version));
      for (const [name, select] of [["kind", this.kind], ["arm", this.arm], ["worker", this.worker]]) {
        if (select.value) query.set(name, select.value);
      }
      try {
        const response = await fetch(`/api/runs/${encodeURIComponent(this.name)}/events?${query}`);
        if (response.ok) {
          const { events } = await response.json();
          this.older = [...this.older, ...events.filter((row) => this.matches(row))];
          this.done = events.length < 200;
        }
      } catch {
        // The dashboard is unreachable, as the banner shows; the button can be pressed again.
      }
    }
    this.draw();
  }

  row(event) {
    const index = this.run.head.arm_names.indexOf(event.arm);
    const swatch = el("span", { class: `swatch ${armColourName(event.arm, index).slice(2)}` });
    const right = (value) => el("td", { class: "number" }, value === null ? NONE : count(value));
    return el(
      "tr",
      { class: event.kind },
      el("td", {}, el("time", { datetime: new Date(1000 * event.time).toISOString() }, clock(event.time))),
      el("td", {}, eventName(event)),
      el("td", {}, event.worker || NONE),
      right(event.round),
      right(event.pull),
      el("td", {}, event.arm ? swatch : NONE, event.arm),
      el("td", {}, this.outcome(event)),
    );
  }

  outcome(event) {
    const { relative } = this.run.head.run;
    const parts = [];
    if (event.before !== null && event.after !== null) parts.push(`loss ${measure(event.before)} → ${measure(event.after)}`);
    if (event.reward !== null) parts.push(`reward ${reward(event.reward, relative)}`);
    if (event.total !== null) parts.push(`total loss ${measure(event.total)}`);
    if (event.seconds !== null) parts.push(duration(event.seconds));
    if (event.by && event.by !== "policy") parts.push(`by ${CHOSEN_BY[event.by] ?? event.by}`);
    if (event.note && event.kind !== "arm") parts.push(event.note);
    return parts.join(", ");
  }
}

function eventName(event) {
  if (event.kind === "arm") return `arm ${event.note}`;
  return {
    pull: "arm chosen",
    report: "round reported",
    diverged: "round diverged",
    superseded: "round reported",
    worker: "worker started",
    finished: "run finished",
    restored: "history restored",
    created: "run created",
  }[event.kind];
}

function fill(select, options, value) {
  const shape = JSON.stringify(options);
  if (select.dataset.shape === shape) return;
  select.dataset.shape = shape;
  const exists = options.some(([option]) => option === value);
  select.replaceChildren(...options.map(([option, text]) => el("option", { value: option }, text)));
  select.value = exists ? value : "";
}
