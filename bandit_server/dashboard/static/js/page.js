// What every page has: the event stream, the word on how things stand, the theme button, ages that tick.
import { age, clock, NONE } from "./format.js";

const LONGEST_PAUSE = 8000;

// Follow an event stream of this dashboard. EventSource reconnects by itself, except after an HTTP error.
// onData(message) for every message; onStatus(status) with what the dashboard says of the bandit server.
export function follow(url, onData, onStatus = () => {}) {
  let pause = 500;
  let seen = null;
  const open = () => {
    const source = new EventSource(url);
    source.addEventListener("status", (event) => {
      pause = 500;
      seen = Date.now() / 1000;
      const status = JSON.parse(event.data);
      tellTime(status.now);
      tell(status);
      onStatus(status);
    });
    source.addEventListener("data", (event) => {
      seen = Date.now() / 1000;
      const message = JSON.parse(event.data);
      tellTime(message.now);
      onData(message);
    });
    source.addEventListener("error", () => {
      tell({ state: "stale", since: seen === null ? null : seen + skew, reason: "the dashboard does not answer" });
      if (source.readyState === EventSource.CLOSED) {
        checkLogin();
        setTimeout(open, pause);
        pause = Math.min(2 * pause, LONGEST_PAUSE);
      }
    });
  };
  open();
}

// Whoever is not logged in any more, or never was, is shown the form; whoever is can log out.
async function checkLogin() {
  try {
    const answer = await fetch("/api/session");
    if (answer.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    else if (answer.ok) document.getElementById("logout").hidden = !(await answer.json()).login;
  } catch {
    // The dashboard is away; the event stream says so.
  }
}
checkLogin();

function tell(status) {
  const link = document.getElementById("link");
  const banner = document.getElementById("banner");
  link.textContent = status.state;
  link.className = `link ${status.state}`;
  const away = status.state === "stale";
  banner.hidden = !away;
  if (!away) return;
  const since = status.since === null ? "Nothing heard yet" : `Stale since ${clock(status.since - skew)}`;
  const shown = status.since === null ? "" : " Shown is what was known then.";
  banner.textContent = `${since}: ${status.reason}.${shown} Trying again.`;
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
