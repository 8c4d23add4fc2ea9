// Changes to a run: pause and resume an arm, finish the run, delete it. Refusals are shown with the server's message.
import { el } from "./dom.js";

const path = (...parts) => `/api/runs/${parts.map(encodeURIComponent).join("/")}`;

// Returns an error message, or an empty string.
async function send(method, url, body) {
  try {
    const headers = body ? { "content-type": "application/json" } : {};
    const response = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    if (response.ok) return "";
    const { detail } = await response.json();
    return typeof detail === "string" ? detail : `The dashboard answered with HTTP status ${response.status}.`;
  } catch {
    return "The dashboard does not answer; nothing was changed.";
  }
}

// The line with the result of the last action.
const result = document.getElementById("result");
function showResult(text, bad) {
  result.textContent = text;
  result.className = bad ? "result bad" : "result";
}

export function armButton(run, arm) {
  const label = arm.paused ? "Resume" : "Pause";
  const button = el("button", { type: "button", class: "quiet act", "aria-label": `${label} arm ${arm.name}` }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const problem = await send("PATCH", path(run, "arms", arm.name), { paused: !arm.paused });
    button.disabled = false;
    showResult(problem || `Arm ${arm.name} is ${arm.paused ? "active again" : "paused and no longer chosen"}.`, problem);
  });
  return button;
}

export function runButtons(run) {
  const finish = el("button", { type: "button", class: "quiet act", id: "finish" }, "Finish…");
  const remove = el("button", { type: "button", class: "quiet act", id: "delete" }, "Delete…");
  finish.addEventListener("click", () => confirmFinish(run));
  remove.addEventListener("click", () => confirmDelete(run));
  return [finish, remove];
}

function confirmFinish(run) {
  const text = "Its workers save their students and exit when they next ask for an arm. A finished run cannot be resumed.";
  openDialog(`Finish ${run}?`, [el("p", {}, text)], "Finish the run", async () => {
    const problem = await send("PATCH", path(run), { state: "finished" });
    if (!problem) showResult("The run is finished.");
    return problem;
  });
}

function confirmDelete(run) {
  const typed = el("input", { id: "typed", type: "text", autocomplete: "off", spellcheck: "false" });
  const force = el("input", { id: "force", type: "checkbox" });
  const content = [
    el("p", {}, "This deletes its history for good. Its name cannot be used again for 30 days. Export first what you want to keep."),
    el("label", { for: "typed" }, "Type ", el("code", {}, run), " to confirm"),
    typed,
    el("label", { class: "check" }, force, "Delete even if workers are alive (they train on without a server)"),
  ];
  const dialog = openDialog(`Delete ${run}?`, content, "Delete the run", async () => {
    const query = new URLSearchParams({ confirm: typed.value, force: String(force.checked) });
    const problem = await send("DELETE", `${path(run)}?${query}`);
    if (!problem) location.assign("/");
    return problem;
  });
  const go = dialog.querySelector("button[type=submit]");
  go.disabled = true;
  typed.addEventListener("input", () => {
    go.disabled = typed.value !== run;
  });
}

// A dialog with a confirm button. `act` returns an error message, or an empty string to close the dialog.
function openDialog(title, content, label, act) {
  const problem = el("p", { class: "bad", role: "alert" });
  const cancel = el("button", { type: "button", class: "quiet" }, "Cancel");
  const go = el("button", { type: "submit", class: "danger" }, label);
  const form = el("form", { method: "dialog" }, el("h2", { id: "dialog-title" }, title), ...content, problem, el("div", { class: "buttons" }, cancel, go));
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form);
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    problem.textContent = await act();
    go.disabled = false;
    if (!problem.textContent) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

