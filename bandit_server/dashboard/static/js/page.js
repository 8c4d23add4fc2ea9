// Shared by all pages: the event stream, the connection status, the theme button, ages that update.
import { age, clock, NONE } from "./format.js";

const LONGEST_PAUSE = 8000;

// Browsers open at most six connections to a server, so a hidden page closes its own after this time.
const HIDDEN_MS = 20000;

// Follow an event stream of this dashboard. EventSource reconnects by itself, except after an HTTP error.
// onData(message) is called for every message, onStatus(status) with the state of the bandit server.
// `many`: the stream has several runs, of which one that is missing says nothing about the others.
// Returns a function that ends the stream.
export function follow(url, onData, onStatus = () => {}, many = false) {
  let pause = 500;
  let lastMessage = null;
  let source = null;
  let timer = null;
  let stopped = false;
  const open = () => {
    source = new EventSource(url);
    const current = source;
    current.addEventListener("status", (event) => {
      pause = 500;
      lastMessage = Date.now() / 1000;
      const status = JSON.parse(event.data);
      syncClock(status.now);
      showStatus(many && status.state === "missing" ? { state: "live" } : status);
      onStatus(status);
    });
    current.addEventListener("data", (event) => {
      lastMessage = Date.now() / 1000;
      const message = JSON.parse(event.data);
      syncClock(message.now);
      onData(message);
    });
    current.addEventListener("error", () => {
      if (stopped) return;
      showStatus({ state: "stale", since: lastMessage === null ? null : lastMessage + skew, reason: "the dashboard does not answer" });
      if (current.readyState === EventSource.CLOSED && current === source) {
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
    stopped = true;
    document.removeEventListener("visibilitychange", onVisibility);
    close();
  };
}

// Without a login the page shows the form; with one it offers to log out.
const loginAddress = () => `/login?next=${encodeURIComponent(location.pathname + location.search)}`;

// Whether this browser may change runs.
export const mayAct = () => document.documentElement.classList.contains("acts");

async function checkLogin() {
  try {
    const response = await fetch("/api/session");
    if (response.status === 401) location.assign(loginAddress());
    if (!response.ok) return;
    const { login, acts } = await response.json();
    document.getElementById("logout").hidden = !(login && acts);
    document.getElementById("login").hidden = acts;
    document.getElementById("login").href = loginAddress();
    document.documentElement.classList.toggle("acts", acts);
    document.dispatchEvent(new Event("optima-session"));
  } catch {
    // The dashboard is unreachable; the event stream shows that.
  }
}
checkLogin();

function showStatus(status) {
  const link = document.getElementById("link");
  const banner = document.getElementById("banner");
  link.textContent = status.state === "reading" ? `reading, ${status.reason}` : status.state;
  link.className = `link ${status.state}`;
  const stale = status.state === "stale";
  banner.hidden = !stale;
  if (!stale) return;
  const shown = status.since === null ? "no data yet" : `showing data from ${clock(status.since - skew)}`;
  banner.textContent = `Server unreachable, ${shown} (${status.reason}). Reconnecting.`;
}

// Seconds that the dashboard's clock is ahead of this browser's.
let skew = 0;
function syncClock(now) {
  skew = now - Date.now() / 1000;
}

// An element that shows the age of a moment (Unix seconds by the dashboard's clock) and is refreshed every second.
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

// The theme button cycles through auto (the system's), light and dark. Charts redraw on the event "optima-theme".
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
    // Storage may be disabled; the choice then lasts until the page is closed.
  }
  announce();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", announce);
announce();
