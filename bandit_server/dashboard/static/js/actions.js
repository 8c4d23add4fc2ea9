// What an operator does to a run: pause and resume an arm, end it, delete it. Refusals are shown in the server's words.
import { el } from "./dom.js";

const path = (...parts) => `/api/runs/${parts.map(encodeURIComponent).join("/")}`;

// Returns a sentence that says what went wrong, or nothing.
async function send(method, url, body) {
  try {
    const headers = body ? { "content-type": "application/json" } : {};
    const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
    if (answer.ok) return "";
    const { detail } = await answer.json();
    return typeof detail === "string" ? detail : `The dashboard answers ${answer.status}.`;
  } catch {
    return "The dashboard does not answer; nothing was changed.";
  }
}

// A line that says what became of the last action.
const told = document.getElementById("told");
function tell(text, bad) {
  told.textContent = text;
  told.className = bad ? "told bad" : "told";
}

export function armButton(run, arm) {
  const label = arm.paused ? "Resume" : "Pause";
  const button = el("button", { type: "button", class: "quiet act", "aria-label": `${label} arm ${arm.name}` }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    const problem = await send("PATCH", path(run, "arms", arm.name), { paused: !arm.paused });
    button.disabled = false;
    tell(problem || `Arm ${arm.name} is ${arm.paused ? "played again" : "paused: it is chosen no more"}.`, problem);
  });
  return button;
}

export function runButtons(run) {
  const finish = el("button", { type: "button", class: "quiet act", id: "finish" }, "Finish…");
  const remove = el("button", { type: "button", class: "quiet act", id: "delete" }, "Delete…");
  finish.addEventListener("click", () => askFinish(run));
  remove.addEventListener("click", () => askDelete(run));
  return [finish, remove];
}

function askFinish(run) {
  const text = "Its workers write their students and exit when they next ask for an arm. A finished run does not begin again.";
  ask(`Finish ${run}?`, [el("p", {}, text)], "Finish the run", async () => {
    const problem = await send("PATCH", path(run), { state: "finished" });
    if (!problem) tell("The run is finished.");
    return problem;
  });
}

function askDelete(run) {
  const typed = el("input", { id: "typed", type: "text", autocomplete: "off", spellcheck: "false" });
  const force = el("input", { id: "force", type: "checkbox" });
  const content = [
    el("p", {}, "Its history is gone for good, and its name is refused for 30 days. Take out first what you want to keep."),
    el("label", { for: "typed" }, "Type ", el("code", {}, run), " to confirm"),
    typed,
    el("label", { class: "check" }, force, "although workers are alive (they go on without a server)"),
  ];
  const dialog = ask(`Delete ${run}?`, content, "Delete the run", async () => {
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

// A dialog that does something or nothing; `act` returns what went wrong.
function ask(title, content, label, act) {
  const problem = el("p", { class: "bad", role: "alert" });
  const cancel = el("button", { type: "button", class: "quiet" }, "Cancel");
  const go = el("button", { type: "submit", class: "danger" }, label);
  const form = el("form", { method: "dialog" }, el("h2", { id: "asked" }, title), ...content, problem, el("div", { class: "buttons" }, cancel, go));
  const dialog = el("dialog", { "aria-labelledby": "asked" }, form);
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

