/* The page of a notebook: its cells, its kernel, and the box that asks for code. */
import { Announcer } from "../streaming/page/announcer.js";
import { StreamClient, problemOf } from "../streaming/page/client.js";
import { requestHeaders } from "../streaming/page/headers.js";
import { Cell } from "./cell.js";
import { fit } from "./editor.js";
import { Record } from "./record.js";

const root = document.querySelector("[data-notebook]");
const { id: notebook, owner, operations, place, streams, silence, obstacle } = root.dataset;
const initial = JSON.parse(document.getElementById("record").textContent);
const lang = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
const part = (name) => root.querySelector(`[data-${name}]`);
const list = part("cells");
const title = part("title");
const kernel = part("kernel");
const saved = part("saved");
const clash = part("clash");
const template = document.getElementById("cell-template");
const announcer = new Announcer(part("announce"));
const cells = [];
const record = new Record({
  place,
  headers: requestHeaders,
  contents: () => ({ title: title.value, cells: cells.map(({ id, kind, source }) => ({ cell_id: id, kind, source: source.value })) }),
  version: initial.version ?? null,
  name: `sluice.notebook.${owner}.${notebook}`,
});
const LATE_FIRST = 1_000; // ms after a run; doubled while nothing new comes
const LATE_LAST = 32_000;
let lateTimer = null;
let runningAll = false;

function announce(sentence) {
  announcer.say(sentence, { important: true });
}

// Cells

function newCell(values, after = null) {
  const cell = new Cell(template, { headers: requestHeaders, operations, silenceLimit: Number(silence), obstacle });
  cell.show(values);
  const index = after === null ? cells.length : cells.indexOf(after) + 1;
  cells.splice(index, 0, cell);
  list.insertBefore(cell.element, list.children[index] ?? null);
  fit(cell.source); // its width is known now
  number();
  return cell;
}

function emptyCell(after = null) {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  const cell_id = `c${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  return newCell({ cell_id, kind: "code", source: "" }, after);
}

function number() {
  cells.forEach((cell, index) => (cell.place = index + 1));
}

async function run(cell, then = "stay") {
  const index = cells.indexOf(cell);
  if (then === "insert") emptyCell(cell).source.focus();
  if (then === "next") (cells[index + 1] ?? emptyCell(cell)).source.focus();
  await record.save();
  // Running writes the source down: not over what another window has written.
  if ((await refresh()) || record.other) {
    announce(gettext("The notebook was changed in another window. Look at it, and run again."));
    return "changed_meanwhile";
  }
  if (cell.running) return "stop";
  showKernel("busy");
  return over(cell, await cell.run(notebook, lang));
}

async function follow(cell, stream) {
  return over(cell, await cell.follow(`${streams}${stream}`));
}

function over(cell, ended) {
  if (ended === "stop") announce(interpolate(gettext("%s is done."), [cell.name]));
  else if (ended === "cancelled") announce(interpolate(gettext("%s was stopped."), [cell.name]));
  else announce(`${interpolate(gettext("%s ended with an error."), [cell.name])} ${cell.fault}`);
  if (!runningAll) refresh();
  lookForLate();
  return ended;
}

/** Threads may go on after a cell's end, and no stream tells of that: look again, less and less often. */
function lookForLate(delay = LATE_FIRST) {
  clearTimeout(lateTimer);
  if (delay > LATE_LAST) return;
  lateTimer = setTimeout(async () => {
    const before = lateText();
    if (!document.hidden && !cells.some((cell) => cell.running)) await refresh();
    lookForLate(lateText() === before ? delay * 2 : LATE_FIRST);
  }, delay);
}

function lateText() {
  return Array.from(list.querySelectorAll(".late"), (element) => element.textContent).join();
}

list.addEventListener("run", ({ detail }) => run(detail.cell, detail.then));
list.addEventListener("obstacle", () => announce(obstacle));
list.addEventListener("edited", () => record.changed());
list.addEventListener("insert", ({ detail: { cell } }) => {
  emptyCell(cell).source.focus();
  record.changed();
});
list.addEventListener("remove", ({ detail: { cell } }) => remove(cell));
list.addEventListener("move", ({ detail: { cell, by } }) => {
  const from = cells.indexOf(cell);
  const to = from + by;
  if (to < 0 || to >= cells.length) return;
  cells.splice(from, 1);
  cells.splice(to, 0, cell);
  // The neighbour moves, as an element that is moved loses its focus and its frames.
  const neighbour = cells[from].element;
  if (by > 0) cell.element.before(neighbour);
  else cell.element.after(neighbour);
  number();
  announce(cell.name);
  record.changed();
});

function remove(cell) {
  const index = cells.indexOf(cell);
  const { id: cell_id, kind, name } = cell;
  const source = cell.source.value;
  cells.splice(index, 1);
  cell.close();
  if (!cells.length) emptyCell();
  number();
  record.changed();
  (cells[index] ?? cells.at(-1)).source.focus();
  if (source.trim()) offerUndo(name, () => newCell({ cell_id, kind, source }, cells[index - 1] ?? null), index);
}

function offerUndo(name, restore, index) {
  const bar = part("removed");
  bar.querySelector("span").textContent = interpolate(gettext("%s is deleted."), [name]);
  bar.hidden = false;
  announce(interpolate(gettext("%s is deleted."), [name]));
  bar.querySelector("button").onclick = () => {
    bar.hidden = true;
    const cell = restore();
    if (index === 0) {
      cells.splice(cells.indexOf(cell), 1);
      cells.unshift(cell);
      list.prepend(cell.element);
      number();
    }
    cell.source.focus();
    record.changed();
  };
}

// The record

record.addEventListener("state", ({ detail: { state, sentence } }) => {
  saved.dataset.state = state;
  saved.textContent = sentence;
  clash.hidden = record.other === null;
  if (state !== "saved" && state !== "unsaved") announce(sentence);
});
title.addEventListener("input", () => record.changed());
part("load-other").addEventListener("click", () => {
  showContents(record.other);
  refreshCells(record.other);
  record.settle(record.other);
  clash.hidden = true;
  record.save();
  title.focus();
});
part("keep-mine").addEventListener("click", () => {
  clash.hidden = true;
  record.save({ force: true });
  title.focus();
});

/** Title, cells and their order as `contents` says; what stays keeps its outputs and its run. */
function showContents(contents) {
  title.value = contents.title;
  const old = new Map(cells.map((cell) => [cell.id, cell]));
  const wanted = contents.cells.map((values) => {
    const cell = old.get(values.cell_id);
    old.delete(values.cell_id);
    cell?.showSource(values.kind, values.source);
    return cell ?? newCell(values);
  });
  for (const cell of old.values()) cell.close();
  cells.splice(0, cells.length, ...wanted);
  cells.forEach((cell, index) => {
    if (list.children[index] !== cell.element) list.insertBefore(cell.element, list.children[index] ?? null);
  });
  if (!cells.length) emptyCell();
  number();
}

/** What others, and threads after the end of their cell, have said meanwhile. Resolves with whether others have
 * written something. */
async function refresh() {
  const found = await record.read();
  if (found === null) return false;
  if (found.fresh) {
    showContents(found.record);
    record.settle(found.record);
  }
  refreshCells(found.record);
  return found.fresh;
}

function refreshCells(found) {
  const known = new Map(cells.map((cell) => [cell.id, cell]));
  for (const values of found.cells) {
    const cell = known.get(values.cell_id);
    const stream = cell?.refresh(values);
    if (stream) follow(cell, stream);
  }
  showKernel(found.kernel.state, found.kernel.execution_count);
}

function load() {
  for (const values of initial.cells) newCell(values);
  title.value = initial.title;
  if (!cells.length) emptyCell();
  record.settle(initial);
  const draft = record.restored(initial);
  if (draft) {
    showContents(draft);
    // What the last page sent when it went may have come after this page was asked for.
    if (initial.version !== null) record.read();
    record.save();
  } else if (initial.version !== null) saved.textContent = gettext("Saved");
  refreshCells(initial);
  list.removeAttribute("aria-busy");
}

addEventListener("focus", () => cells.length && refresh());

// The kernel

const STATES = {
  none: gettext("no kernel yet"),
  starting: gettext("kernel starts"),
  idle: gettext("kernel ready"),
  busy: gettext("kernel at work"),
};
let remembers = false; // whether variables would be lost

function showKernel(state, executions = null) {
  kernel.dataset.state = state;
  kernel.textContent = STATES[state] ?? state;
  remembers = state === "busy" || executions > 0;
  const stoppable = !obstacle && (state === "busy" || cells.some((cell) => cell.running));
  part("interrupt").setAttribute("aria-disabled", String(!stoppable));
}

function tell(sentence) {
  part("told").textContent = sentence;
  if (sentence) announce(sentence);
}

/** One operation that answers with one result; resolves with its data, null if it was refused. */
function ask(type) {
  tell("");
  return new Promise((resolve) => {
    const client = new StreamClient({ headers: requestHeaders });
    let answer = null;
    client.addEventListener("event", ({ detail }) => {
      if (detail.type === "result") answer = detail.data.data;
      if (detail.type === "error") tell(detail.data.message);
    });
    client.addEventListener("refused", ({ detail }) => tell(reasonOf(detail.problem)));
    client.addEventListener("over", () => resolve(answer));
    client.start(operations, { notebook_id: notebook, operation: { type }, lang });
  });
}

function reasonOf(problem) {
  return problem.detail || problem.title || gettext("The server cannot be reached.");
}

async function runAll() {
  if (runningAll) return;
  runningAll = true;
  part("run-all").setAttribute("aria-disabled", "true");
  tell("");
  for (const cell of [...cells]) {
    if (cell.kind !== "code" || !cell.source.value.trim() || !cells.includes(cell)) continue;
    if ((await run(cell)) === "stop") continue;
    tell(interpolate(gettext("%s did not succeed; those after it were not run."), [cell.name]));
    cell.element.scrollIntoView({ block: "nearest" });
    break;
  }
  runningAll = false;
  part("run-all").setAttribute("aria-disabled", "false");
  refresh();
}

async function restart() {
  showKernel("starting");
  const answer = await ask("restart");
  if (answer) {
    showKernel(answer.state, answer.execution_count);
    tell(gettext("The kernel is new: variables are gone."));
  } else refresh();
}

/** A button that says why it does nothing, if there is a reason. */
function onClick(name, action) {
  const button = part(name);
  if (obstacle) {
    button.setAttribute("aria-disabled", "true");
    button.title = obstacle;
  }
  button.addEventListener("click", () => {
    if (obstacle) announce(obstacle);
    else if (button.getAttribute("aria-disabled") !== "true") action();
  });
}

onClick("run-all", runAll);
onClick("interrupt", async () => {
  const answer = await ask("interrupt");
  if (answer) showKernel(answer.state, answer.execution_count);
});
onClick("restart", () => (remembers ? part("restart-dialog").showModal() : restart()));
part("restart-dialog").addEventListener("close", ({ target }) => {
  if (target.returnValue === "restart") restart();
  target.returnValue = "";
});
part("add").addEventListener("click", () => {
  emptyCell().source.focus();
  record.changed();
});
part("import").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  const headers = { ...requestHeaders(), "Content-Type": "application/json" };
  const response = await fetch(`${place}.ipynb`, { method: "PUT", headers, body: await file.text() }).catch(() => null);
  target.value = "";
  if (response?.ok) {
    record.settle(); // what was here is replaced
    location.reload();
  } else tell(response === null ? gettext("The server cannot be reached.") : reasonOf(await problemOf(response)));
});

// Code on demand: it is written, and nothing runs it but its reader.

const wish = part("generate");
const writeButton = part("write");
let writing = null; // the stream that writes

function write(prompt) {
  const last = cells.at(-1);
  const blank = !last.source.value.trim() && !last.running;
  const cell = blank ? last : emptyCell();
  const client = new StreamClient({ headers: requestHeaders, silenceLimit: Number(silence) });
  let failure = null;
  writing = client;
  showWriting(gettext("Writing…"));
  cell.written = true;
  client.addEventListener("event", ({ detail: { type, data } }) => {
    if (type === "content") put(cell, cell.source.value + data.delta);
    else if (type === "restart") put(cell, "");
    else if (type === "status") showWriting(data.message);
    else if (type === "error") failure = data.message;
    else if (type === "cancelled") failure = gettext("Stopped. What was written stays.");
  });
  client.addEventListener("refused", ({ detail }) => (failure = reasonOf(detail.problem)));
  client.addEventListener("unstopped", ({ detail }) => showWriting(reasonOf(detail.problem)));
  client.addEventListener("over", () => {
    writing = null;
    cell.written = false;
    if (!cell.source.value && !blank && cells.length > 1) remove(cell);
    showWriting(failure ?? gettext("The code is written. Read it before you run it."));
    announce(part("written").textContent);
    if (failure) return wish.elements.prompt.focus();
    wish.reset();
    cell.source.focus();
  });
  client.start(operations, { notebook_id: notebook, operation: { type: "generate", prompt }, lang });
  cell.element.scrollIntoView({ block: "center" });
}

function put(cell, source) {
  cell.source.value = source;
  fit(cell.source);
  record.changed();
}

function showWriting(sentence) {
  part("written").textContent = sentence;
  writeButton.textContent = writing ? gettext("Stop") : gettext("Write");
  wish.toggleAttribute("data-busy", writing !== null);
}

wish.addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = wish.elements.prompt.value.trim();
  if (writing) writing.stop().catch((problem) => showWriting(reasonOf(problem)));
  else if (prompt) write(prompt);
  else wish.elements.prompt.focus();
});

load();
