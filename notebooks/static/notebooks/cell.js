/* One cell: its source, its stream while it runs, its outputs. */
import { StreamClient } from "../streaming/page/client.js";
import { Outputs } from "./outputs.js";

const INDENT = "    ";

/**
 * Dispatches `change` (source or place), `state` (running, done), `remove`, `move` {by}, `run` {then}, as
 * CustomEvents that bubble from `element`.
 */
export class Cell {
  #client = null;

  constructor(template, { headers, operations, silenceLimit }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.headers = headers;
    this.operations = operations;
    this.silenceLimit = silenceLimit;
    this.source = this.element.querySelector("textarea");
    this.outputs = new Outputs(this.element.querySelector("[data-outputs]"));
    this.state = this.element.querySelector("[data-state]");
    this.number = this.element.querySelector("[data-number]");
    this.runButton = this.element.querySelector("[data-run]");
    this.#listen();
  }

  get id() {
    return this.element.dataset.cell;
  }

  get running() {
    return this.#client !== null;
  }

  /** A cell of the record. */
  show({ cell_id, kind, source, outputs, execution_count }) {
    this.element.dataset.cell = cell_id;
    this.kind = kind;
    this.element.classList.toggle("prose", kind !== "code");
    this.source.value = source;
    this.#grow();
    this.#showNumber(execution_count);
    for (const output of outputs) this.outputs.output(output);
  }

  /** Run it; resolves with the way it ended: `stop`, `error`, or a word for what else happened. */
  run(notebook, lang) {
    if (this.running || this.kind !== "code") return Promise.resolve("stop");
    this.#begin();
    const operation = { type: "execute", code: this.source.value, cell_id: this.id };
    this.#client.start(this.operations, { notebook_id: notebook, operation, lang });
    return this.#over();
  }

  /** Go on with a run that is under way, from its first event. */
  follow(place) {
    this.#begin();
    this.#client.follow(place);
    return this.#over();
  }

  async stop() {
    await this.#client?.stop();
  }

  #begin() {
    this.outputs.clear();
    this.#client = new StreamClient({ headers: this.headers, silenceLimit: this.silenceLimit });
    this.#say(gettext("Starting…"));
    this.element.classList.add("running");
    this.#showNumber("*");
    this.#client.addEventListener("event", ({ detail }) => this.#receive(detail));
    this.#client.addEventListener("connection", ({ detail }) => this.#connection(detail.state));
    this.#client.addEventListener("refused", ({ detail }) => this.#refused(detail.problem));
    this.#tell("state");
  }

  #over() {
    this.ended = "interrupted";
    return new Promise((resolve) => {
      this.#client.addEventListener("over", () => {
        this.#client = null;
        this.element.classList.remove("running");
        if (this.number.textContent.includes("*")) this.#showNumber(null);
        this.#tell("state");
        resolve(this.ended);
      });
    });
  }

  #receive({ type, data }) {
    if (type === "content") this.outputs.text(data.channel ?? "stdout", data.delta);
    else if (type === "output") this.outputs.output(data);
    else if (type === "status") this.#say(data.message);
    else if (type === "truncated") {
      this.outputs.notice(interpolate(gettext("Too much output: %s characters were left out."), [data.dropped_chars.toLocaleString()]));
    } else if (type === "complete") {
      this.ended = data.finish_reason;
      this.#showNumber(data.execution_count ?? null);
      this.#say(data.duration_ms === undefined ? "" : interpolate(gettext("%s s"), [(data.duration_ms / 1000).toFixed(data.duration_ms < 10_000 ? 2 : 1)]));
    } else if (type === "error") {
      this.ended = data.code;
      this.outputs.notice(data.message);
      this.#say("");
    } else if (type === "cancelled") {
      this.ended = "cancelled";
      this.#say(gettext("Stopped"));
    }
    if (type === "content" || type === "output") this.#say(gettext("Running"));
  }

  #connection(state) {
    const words = { waiting: gettext("Connecting again…"), offline: gettext("Offline"), reconnected: gettext("Reconnected") };
    if (words[state]) this.#say(words[state]);
  }

  #refused(problem) {
    this.ended = problem.code;
    this.outputs.notice(problem.detail || problem.title || gettext("The server cannot be reached."));
    this.#say("");
  }

  #listen() {
    this.source.addEventListener("input", () => {
      this.#grow();
      this.#tell("change");
    });
    this.source.addEventListener("keydown", (event) => this.#onKey(event));
    this.runButton.addEventListener("click", () => (this.running ? this.stop() : this.#tell("run", { then: "stay" })));
    this.element.querySelector("[data-remove]").addEventListener("click", () => this.#tell("remove"));
    this.element.querySelector("[data-up]").addEventListener("click", () => this.#tell("move", { by: -1 }));
    this.element.querySelector("[data-down]").addEventListener("click", () => this.#tell("move", { by: 1 }));
  }

  #onKey(event) {
    const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
    if (key === "Enter" && (shiftKey || ctrlKey || metaKey)) {
      event.preventDefault();
      this.#tell("run", { then: shiftKey ? "next" : "stay" });
    } else if (key === "Escape") {
      // Out of the editor, so that Tab moves on.
      this.runButton.focus();
    } else if (key === "Tab" && !ctrlKey && !metaKey && !altKey) {
      event.preventDefault();
      this.#indent(shiftKey);
    } else if (key === "Enter") {
      event.preventDefault();
      this.#newLine();
    }
  }

  #indent(back) {
    const { value, selectionStart: from, selectionEnd: to } = this.source;
    const first = value.lastIndexOf("\n", from - 1) + 1;
    if (from === to && !back) return this.#type(INDENT);
    const lines = value.slice(first, to).split("\n");
    const changed = lines.map((line) => (back ? line.replace(/^ {1,4}/, "") : INDENT + line)).join("\n");
    this.source.setSelectionRange(first, to);
    this.#type(changed);
    this.source.setSelectionRange(first, first + changed.length);
    return undefined;
  }

  #newLine() {
    const { value, selectionStart } = this.source;
    const line = value.slice(value.lastIndexOf("\n", selectionStart - 1) + 1, selectionStart);
    const indent = line.match(/^ */)[0] + (/:\s*$/.test(line) ? INDENT : "");
    this.#type(`\n${indent}`);
  }

  /** Like typing, so that the browser can undo it. */
  #type(text) {
    this.source.focus();
    if (!document.execCommand("insertText", false, text)) {
      this.source.setRangeText(text, this.source.selectionStart, this.source.selectionEnd, "end");
      this.source.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  #grow() {
    this.source.rows = Math.min(Math.max(this.source.value.split("\n").length, 2), 30);
  }

  #showNumber(number) {
    this.number.textContent = `[${number ?? " "}]`;
  }

  #say(sentence) {
    this.state.textContent = sentence;
    const label = this.running ? gettext("Stop") : gettext("Run");
    this.runButton.textContent = label;
  }

  #tell(name, detail = {}) {
    if (name === "state") this.runButton.textContent = this.running ? gettext("Stop") : gettext("Run");
    this.element.dispatchEvent(new CustomEvent(name, { detail: { cell: this, ...detail }, bubbles: true }));
  }
}
