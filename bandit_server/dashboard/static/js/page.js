// What every page has: the event stream, the word on how things stand, the theme button, ages that tick.
import { age, clock, NONE } from "./format.js";

const LONGEST_PAUSE = 8000;

// Browsers open six connections to a server and no more: a page that nobody sees gives its own back after so long.
const HIDDEN_MS = 20000;

// Follow an event stream of this dashboard. EventSource reconnects by itself, except after an HTTP error.
// onData(message) for every message; onStatus(status) with what the dashboard says of the bandit server.
// `many`: of several runs, so that one that is missing says nothing of the others. Returns a function that ends it.
export function follow(url, onData, onStatus = () => {}, many = false) {
  let pause = 500;
  let seen = null;
  let source = null;
  let timer = null;
  let ended = false;
  const open = () => {
    source = new EventSource(url);
    const here = source;
    here.addEventListener("status", (event) => {
      pause = 500;
      seen = Date.now() / 1000;
      const status = JSON.parse(event.data);
      tellTime(status.now);
      tell(many && status.state === "missing" ? { state: "live" } : status);
      onStatus(status);
    });
    here.addEventListener("data", (event) => {
      seen = Date.now() / 1000;
      const message = JSON.parse(event.data);
      tellTime(message.now);
      onData(message);
    });
    here.addEventListener("error", () => {
      if (ended) return;
      tell({ state: "stale", since: seen === null ? null : seen + skew, reason: "the dashboard does not answer" });
      if (here.readyState === EventSource.CLOSED && here === source) {
        checkLogin();
        timer = setTimeout(open, pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE);
      }
    });
  };
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const onVisibility = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(close, HIDDEN_MS);
    else if (source === null || source.readyState === EventSource.CLOSED) open();
  };
  document.addEventListener("visibilitychange", onVisibility);
  open();
  return () => {
    ended = true;
    document.removeEventListener("visibilitychange", onVisibility);
    close();
  };
}

// Whoever is not logged in any more, or never was, is shown the form; whoever is can log out.
const loginAddress = () => `/login?next=${encodeURIComponent(location.pathname + location.search)}`;

// Whether this browser may change runs.
export const mayAct = () => document.documentElement.classList.contains("acts");

async function checkLogin() {
  try {
    const answer = await fetch("/api/session");
    if (answer.status === 401) location.assign(loginAddress());
    if (!answer.ok) return;
    const { login, acts } = await answer.json();
    document.getElementById("logout").hidden = !(login && acts);
    document.getElementById("login").hidden = acts;
    document.getElementById("login").href = loginAddress();
    document.documentElement.classList.toggle("acts", acts);
    document.dispatchEvent(new Event("optima-session"));
  } catch {
    // The dashboard is away; the event stream says so.
  }
}
checkLogin();

function tell(status) {
  const link = document.getElementById("link");
  const banner = document.getElementById("banner");
  link.textContent = status.state === "reading" ? `reading, ${status.reason}` : status.state;
  link.className = `link ${status.state}`;
  const away = status.state === "stale";
  banner.hidden = !away;
  if (!away) return;
  const shown = status.since === null ? "nothing heard yet" : `showing data from ${clock(status.since - skew)}`;
  banner.textContent = `Server unreachable, ${shown} (${status.reason}). Trying again.`;
}

// Seconds by which the dashboard's clock is ahead of this browser's.
let skew = 0;
function tellTime(now) {
  skew = now - Date.now() / 1000;
}

// An element whose text is the age of a moment (Unix seconds, the dashboard's clock), kept right by `tick`.
export function since(moment, suffix = "") {
  if (!moment) return NONE;
  const node = document.createElement("time");
  node.dateTime = new Date(1000 * moment).toISOString();
  node.title = clock(moment - skew);
  node.dataset.since = moment;
  node.dataset.suffix = suffix;
  refresh(node);
  return node;
}

function refresh(node) {
  const text = age(Date.now() / 1000 + skew - Number(node.dataset.since)) + node.dataset.suffix;
  if (node.textContent !== text) node.textContent = text;
}

setInterval(() => document.querySelectorAll("time[data-since]").forEach(refresh), 1000);

// The theme button walks through: as the system, light, dark. Charts redraw on the event "optima-theme".
const button = document.getElementById("theme");
const chosen = () => document.documentElement.dataset.theme ?? "auto";
const announce = () => {
  button.textContent = `Theme: ${chosen()}`;
  document.dispatchEvent(new Event("optima-theme"));
};
button.addEventListener("click", () => {
  const next = { auto: "light", light: "dark", dark: "auto" }[chosen()];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === "auto") localStorage.removeItem("optima-theme");
    else localStorage.setItem("optima-theme", next);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
  announce();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);
announce();
