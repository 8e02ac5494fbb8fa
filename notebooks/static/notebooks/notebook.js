/* The page of a notebook: its cells, its kernel, and the box that asks for code. */
import { requestHeaders } from "../streaming/page/headers.js";
import { StreamClient, problemOf } from "../streaming/page/client.js";
import { Announcer } from "../streaming/page/announcer.js";
import { Cell } from "./cell.js";

const SAVE_AFTER = 800; // ms without a change

const root = document.querySelector("[data-notebook]");
const { id: notebook, operations, place, streams, silence } = root.dataset;
const lang = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
const list = root.querySelector("[data-cells]");
const template = document.getElementById("cell-template");
const title = root.querySelector("[data-title]");
const kernel = root.querySelector("[data-kernel]");
const saved = root.querySelector("[data-saved]");
const announcer = new Announcer(root.querySelector("[data-announce]"));
const cells = [];
let timer = null;
let saving = Promise.resolve();
let runningAll = false;

// Cells

function newCell(values, before = null) {
  const cell = new Cell(template, { headers: requestHeaders, operations, silenceLimit: Number(silence) });
  cell.show(values);
  const index = before === null ? cells.length : cells.indexOf(before) + 1;
  cells.splice(index, 0, cell);
  list.insertBefore(cell.element, list.children[index] ?? null);
  return cell;
}

function emptyCell(after = null, source = "") {
  const cell_id = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return newCell({ cell_id: `c${cell_id}`, kind: "code", source, outputs: [], execution_count: null }, after);
}

async function run(cell, then) {
  showKernel("busy");
  await save();
  if (then === "next") {
    const next = cells[cells.indexOf(cell) + 1] ?? emptyCell(cell);
    next.source.focus();
  }
  const ended = await cell.run(notebook, lang);
  announcer.say(ended === "stop" ? gettext("The cell is done.") : gettext("The cell ended with an error."), { important: true });
  askForStatus();
  return ended;
}

list.addEventListener("run", ({ detail }) => run(detail.cell, detail.then));
list.addEventListener("change", saveSoon);
list.addEventListener("remove", async ({ detail: { cell } }) => {
  await cell.stop();
  cells.splice(cells.indexOf(cell), 1);
  cell.element.remove();
  if (!cells.length) emptyCell();
  saveSoon();
});
list.addEventListener("move", ({ detail: { cell, by } }) => {
  const from = cells.indexOf(cell);
  const to = from + by;
  if (to < 0 || to >= cells.length) return;
  cells.splice(from, 1);
  cells.splice(to, 0, cell);
  list.insertBefore(cell.element, list.children[by > 0 ? to + 1 : to] ?? null);
  cell.element.querySelector(by > 0 ? "[data-down]" : "[data-up]").focus();
  saveSoon();
});

// The record

function saveSoon() {
  clearTimeout(timer);
  timer = setTimeout(save, SAVE_AFTER);
  saved.textContent = gettext("Not saved yet");
}

function save() {
  clearTimeout(timer);
  saving = saving.then(async () => {
    const body = { title: title.value, cells: cells.map(({ id, kind, source }) => ({ cell_id: id, kind, source: source.value })) };
    const headers = { ...requestHeaders(), "Content-Type": "application/json" };
    const response = await fetch(place, { method: "PUT", headers, body: JSON.stringify(body) }).catch(() => null);
    if (response?.ok) saved.textContent = gettext("Saved");
    else saved.textContent = response === null ? gettext("Not saved: the server cannot be reached.") : (await problemOf(response)).detail || gettext("Not saved");
  });
  return saving;
}

async function load() {
  const response = await fetch(place, { headers: requestHeaders() }).catch(() => null);
  list.removeAttribute("aria-busy");
  if (response?.ok) {
    const found = await response.json();
    title.value = found.title;
    for (const values of found.cells) {
      const cell = newCell(values);
      if (values.stream) cell.follow(`${streams}${values.stream}`).then(askForStatus);
    }
    showKernel(found.kernel.state);
  } else if (response?.status !== 404) {
    const problem = response === null ? {} : await problemOf(response);
    saved.textContent = problem.detail || gettext("The server cannot be reached.");
    return;
  }
  if (!cells.length) emptyCell();
}

// The kernel

const STATES = {
  none: gettext("no kernel yet"),
  starting: gettext("kernel starts"),
  idle: gettext("kernel ready"),
  busy: gettext("kernel at work"),
};

function showKernel(state) {
  kernel.dataset.state = state;
  kernel.textContent = STATES[state] ?? state;
}

/** One operation that answers with one result; resolves with its data, null if it was refused. */
function ask(type) {
  return new Promise((resolve) => {
    const client = new StreamClient({ headers: requestHeaders });
    let answer = null;
    client.addEventListener("event", ({ detail }) => {
      if (detail.type === "result") answer = detail.data.data;
      if (detail.type === "error") saved.textContent = detail.data.message;
    });
    client.addEventListener("refused", ({ detail }) => (saved.textContent = detail.problem.detail || detail.problem.title || ""));
    client.addEventListener("over", () => resolve(answer));
    client.start(operations, { notebook_id: notebook, operation: { type }, lang });
  });
}

async function askForStatus() {
  const status = await ask("status");
  if (status) showKernel(status.state);
}

root.querySelector("[data-run-all]").addEventListener("click", async () => {
  if (runningAll) return;
  runningAll = true;
  for (const cell of [...cells]) {
    if (cell.kind === "code" && cell.source.value.trim() && (await run(cell, "stay")) !== "stop") break;
  }
  runningAll = false;
});
root.querySelector("[data-interrupt]").addEventListener("click", async () => {
  const answer = await ask("interrupt");
  if (answer) showKernel(answer.state);
});
root.querySelector("[data-restart]").addEventListener("click", async () => {
  showKernel("starting");
  const answer = await ask("restart");
  if (answer) showKernel(answer.state);
});
root.querySelector("[data-add]").addEventListener("click", () => {
  emptyCell().source.focus();
  saveSoon();
});
title.addEventListener("input", saveSoon);
root.querySelector("[data-import]").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  const headers = { ...requestHeaders(), "Content-Type": "application/json" };
  const response = await fetch(`${place}.ipynb`, { method: "PUT", headers, body: await file.text() }).catch(() => null);
  if (response?.ok) location.reload();
  else saved.textContent = response === null ? gettext("The server cannot be reached.") : (await problemOf(response)).detail;
  target.value = "";
});

// Code on demand

const wish = root.querySelector("[data-generate]");
wish.addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = wish.elements.prompt.value.trim();
  if (!prompt || wish.getAttribute("aria-busy") === "true") return;
  wish.setAttribute("aria-busy", "true");
  const last = cells.at(-1);
  const cell = last && !last.source.value.trim() && !last.running ? last : emptyCell();
  const client = new StreamClient({ headers: requestHeaders });
  client.addEventListener("event", ({ detail: { type, data } }) => {
    if (type === "content") {
      cell.source.value += data.delta;
      cell.source.dispatchEvent(new Event("input", { bubbles: true }));
    } else if (type === "error") saved.textContent = data.message;
  });
  client.addEventListener("refused", ({ detail }) => (saved.textContent = detail.problem.detail || detail.problem.title || ""));
  client.addEventListener("over", () => {
    wish.removeAttribute("aria-busy");
    wish.reset();
    cell.source.focus();
    announcer.say(gettext("The code is written. Read it before you run it."), { important: true });
  });
  client.start(operations, { notebook_id: notebook, operation: { type: "generate", prompt }, lang });
  cell.element.scrollIntoView({ block: "center", behavior: "smooth" });
});

addEventListener("beforeunload", () => {
  if (saved.textContent === gettext("Not saved yet")) save();
});
load();
