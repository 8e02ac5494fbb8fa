/* One cell: its source, its stream while it runs, its outputs. */
import { StreamClient } from "../streaming/page/client.js";
import { edit, fit } from "./editor.js";
import { Outputs } from "./outputs.js";

/**
 * Dispatches `edited` (the source), `state` (running or not), `remove`, `insert`, `move` {by}, `run` {then} and
 * `obstacle` (it should run, and must not), as CustomEvents that bubble from `element`, each with `cell`.
 */
export class Cell {
  fault = ""; // how the last run failed, in a sentence
  #client = null;
  #stream = null; // the id of the last stream that was followed
  #number = null;
  #recorded = null; // the record's outputs as last seen; null: what is shown came over a stream
  #late = "[]"; // the record's late outputs as last seen

  /** `obstacle`: why nothing can be run here; empty if it can. */
  constructor(template, { headers, operations, silenceLimit, obstacle }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    Object.assign(this, { headers, operations, silenceLimit, obstacle });
    this.source = this.element.querySelector("textarea");
    this.area = this.element.querySelector("[data-outputs]");
    this.outputs = new Outputs(this.area);
    this.state = this.element.querySelector("[data-state]");
    this.number = this.element.querySelector("[data-number]");
    this.runButton = this.element.querySelector("[data-run]");
    this.#listen();
    this.#showButton();
  }

  get id() {
    return this.element.dataset.cell;
  }

  get running() {
    return this.#client !== null;
  }

  /** Its code is being written by somebody else. */
  get written() {
    return this.source.readOnly;
  }

  set written(value) {
    this.source.readOnly = value;
    this.element.classList.toggle("written", value);
    this.#showButton();
  }

  /** Where it is among the others, from 1. */
  set place(value) {
    const name = interpolate(gettext("Cell %s"), [value]);
    this.name = name;
    this.element.setAttribute("aria-label", name);
    this.source.setAttribute("aria-label", interpolate(gettext("Code of cell %s"), [value]));
    this.area.setAttribute("aria-label", interpolate(gettext("Output of cell %s"), [value]));
  }

  /** A cell of the record. */
  show({ cell_id, kind, source, ...result }) {
    this.element.dataset.cell = cell_id;
    this.showSource(kind, source);
    this.#showResult({ outputs: [], execution_count: null, dropped_chars: 0, ...result });
  }

  showSource(kind, source) {
    this.kind = kind;
    this.element.classList.toggle("prose", kind !== "code");
    if (this.source.value !== source) this.source.value = source;
    fit(this.source);
  }

  /**
   * The record says this now: what is new in it is shown, without disturbing what runs. Returns the id of a
   * stream that is to be followed, if there is one.
   */
  refresh(result) {
    if (this.running) return null;
    if (result.stream && result.stream !== this.#stream) return result.stream;
    const words = wordsOf(result);
    if (this.#recorded === null) this.#recorded = words.said;
    if (this.#recorded !== words.said) this.#showResult(result);
    else if (this.#late !== words.late) {
      this.#late = words.late;
      this.outputs.late(result.outputs.filter(isLate));
    }
    return null;
  }

  /** Run it; resolves with the way it ended: `stop`, `error`, or a word for what else happened. */
  run(notebook, lang) {
    if (this.running || this.written || this.kind !== "code") return Promise.resolve("stop");
    this.#begin();
    const operation = { type: "execute", code: this.source.value, cell_id: this.id };
    this.#client.start(this.operations, { notebook_id: notebook, operation, lang });
    return this.#over();
  }

  /** Go on with a run that is under way, or was when the server ended, from its first event. */
  follow(place) {
    this.#begin();
    this.#client.follow(place);
    return this.#over();
  }

  async stop() {
    await this.#client?.stop().catch((problem) => this.#complain(problem.detail ?? gettext("It could not be stopped.")));
  }

  /** It is gone from the page. */
  close() {
    this.stop();
    this.element.remove();
  }

  #begin() {
    this.outputs.hold();
    this.outputs.clear();
    this.#recorded = null;
    this.#late = "[]";
    this.fault = "";
    this.#client = new StreamClient({ headers: this.headers, silenceLimit: this.silenceLimit });
    this.#say("running", gettext("Starting…"));
    this.#showNumber("*");
    this.#client.addEventListener("event", ({ detail }) => this.#receive(detail));
    this.#client.addEventListener("started", ({ detail }) => (this.#stream = detail.id));
    this.#client.addEventListener("connection", ({ detail }) => this.#connection(detail.state));
    this.#client.addEventListener("refused", ({ detail }) => this.#refused(detail));
    this.#client.addEventListener("unstopped", ({ detail }) => this.#complain(detail.problem.detail));
    this.#tell("state");
  }

  #over() {
    this.ended = "interrupted";
    return new Promise((resolve) => {
      this.#client.addEventListener("over", () => {
        this.#stream = this.#client.id ?? this.#stream;
        this.#client = null;
        this.outputs.release();
        if (this.#number === "*") this.#showNumber(null);
        this.#showButton();
        this.#tell("state");
        resolve(this.ended);
      });
    });
  }

  #receive({ type, data }) {
    if (type === "content") this.outputs.text(data.channel ?? "stdout", data.delta);
    else if (type === "output") this.#output(data);
    else if (type === "status") this.#say(data.status === "queued" ? "queued" : "running", data.message);
    else if (type === "truncated") this.#sayCut(data.dropped_chars);
    else if (type === "gap") this.outputs.notice(gettext("A part of the output is lost."));
    else if (type === "restart") this.outputs.clear();
    else if (type === "complete") this.#complete(data);
    else if (type === "error") {
      this.ended = data.code;
      this.#complain(data.message);
    } else if (type === "cancelled") {
      this.ended = "cancelled";
      this.#say("failed", gettext("Stopped"));
    }
    if (type === "content" || type === "output") this.#say("running", gettext("Running"));
  }

  #output(data) {
    if (data.output_type === "error") this.fault = `${data.ename}: ${data.evalue}`.slice(0, 200);
    this.outputs.output(data);
  }

  #complete({ finish_reason, execution_count = null, duration_ms }) {
    this.ended = finish_reason;
    this.#showNumber(execution_count);
    const seconds = duration_ms === undefined ? "" : (duration_ms / 1000).toFixed(duration_ms < 10_000 ? 2 : 1);
    this.#say(finish_reason === "stop" ? "done" : "failed", seconds && interpolate(gettext("%s s"), [seconds]));
  }

  #connection(state) {
    const words = { waiting: gettext("Connecting again…"), offline: gettext("Offline"), reconnected: gettext("Reconnected") };
    if (words[state] && this.running) this.#say("running", words[state]);
  }

  #refused({ problem, retryAfter }) {
    this.ended = problem.code;
    const again = retryAfter ? interpolate(gettext("Try again in %s s."), [retryAfter]) : "";
    this.#complain(`${problem.detail || problem.title || gettext("The server cannot be reached.")} ${again}`.trim());
  }

  #complain(sentence) {
    this.fault = sentence;
    this.outputs.notice(sentence);
    this.#say("failed", "");
  }

  #showResult(result) {
    const { outputs, execution_count, dropped_chars } = result;
    this.outputs.clear();
    for (const output of outputs) if (!isLate(output)) this.outputs.output(output);
    if (dropped_chars) this.#sayCut(dropped_chars);
    this.outputs.late(outputs.filter(isLate));
    const words = wordsOf(result);
    this.#recorded = words.said;
    this.#late = words.late;
    this.#showNumber(execution_count);
    this.#say("", "");
  }

  #sayCut(characters) {
    this.outputs.notice(interpolate(gettext("Too much output: %s characters were left out."), [characters.toLocaleString()]));
  }

  #listen() {
    this.source.addEventListener("input", () => this.#tell("edited"));
    const run = (then) => (this.obstacle ? this.#tell("obstacle") : this.#tell("run", { then }));
    edit(this.source, { leave: () => this.runButton.focus(), run });
    this.runButton.addEventListener("click", () => (this.running ? this.stop() : run("stay")));
    for (const [name, detail] of [["remove"], ["insert"], ["up", { by: -1 }], ["down", { by: 1 }]]) {
      const button = this.element.querySelector(`[data-${name}]`);
      button.addEventListener("click", () => this.#tell(detail ? "move" : name, detail));
    }
  }

  #showNumber(number) {
    this.#number = number;
    this.number.textContent = `[${number ?? " "}]`;
  }

  #say(state, sentence) {
    this.element.dataset.phase = state;
    this.state.textContent = sentence;
    this.#showButton();
  }

  #showButton() {
    this.runButton.textContent = this.running ? gettext("Stop") : gettext("Run");
    this.runButton.classList.toggle("danger", this.running);
    this.runButton.setAttribute("aria-disabled", String(!this.running && Boolean(this.obstacle || this.written)));
    this.runButton.title = this.running ? "" : this.obstacle;
  }

  #tell(name, detail = {}) {
    this.element.dispatchEvent(new CustomEvent(name, { detail: { cell: this, ...detail }, bubbles: true }));
  }
}

/** Said after the cell's end (files of Jupyter keep it in the metadata). */
function isLate(output) {
  return Boolean(output.late ?? output.metadata?.late);
}

/** What tells results from each other. */
function wordsOf({ outputs, execution_count }) {
  const said = JSON.stringify([execution_count, outputs.filter((each) => !isLate(each))]);
  return { said, late: JSON.stringify(outputs.filter(isLate)) };
}
