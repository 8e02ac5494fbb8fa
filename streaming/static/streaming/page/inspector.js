/* Every event with its arrival and the gap before it, as rows and on a timeline; and whether a proxy holds them. */
import { Bunches } from "./bunches.js";
import { TERMINAL } from "./client.js";
import { duration, fill, number } from "./format.js";
import { Timeline } from "./timeline.js";

const MAX_ROWS = 2_000; // the newest; more would make the page slow

export class Inspector {
  #waiting = []; // rows that are not in the document yet
  #frame = null;

  constructor(root) {
    this.summary = root.querySelector("[data-inspector-summary]");
    this.warning = root.querySelector("[data-inspector-warning]");
    this.bunches = new Bunches();
    this.rows = root.querySelector("[data-rows-body]");
    this.more = root.querySelector("[data-rows-more]");
    this.canvas = root.querySelector("[data-timeline]");
    this.timeline = new Timeline(this.canvas);
    this.intro = this.summary.textContent;
    this.clear();
  }

  clear() {
    Object.assign(this, { count: 0, last: null, longest: 0, hidden: 0 });
    this.#waiting = [];
    this.rows.replaceChildren();
    this.more.hidden = true;
    this.warning.hidden = true;
    this.bunches.clear();
    this.summary.textContent = this.intro;
    this.timeline.clear();
  }

  /** `event`: {type, data, id, at}. */
  add(event) {
    const gap = this.last === null ? null : event.at - this.last;
    this.last = event.at;
    this.count += 1;
    this.bunches.add(event.at, event.data.sent_at);
    this.longest = Math.max(this.longest, gap ?? 0);
    this.timeline.add(event.at, kindOf(event.type), event.data.delta?.length ?? 0);
    this.#waiting.push([event.id ?? "", duration(event.at), gap === null ? "" : duration(gap), event.type, excerpt(event.data)]);
    this.#frame ??= setTimeout(() => this.#show(), 100);
  }

  #show() {
    this.#frame = null;
    const surplus = this.#waiting.length - MAX_ROWS;
    if (surplus > 0) {
      this.hidden += surplus;
      this.#waiting.splice(0, surplus);
    }
    this.rows.append(...this.#waiting.map(row));
    this.#waiting = [];
    while (this.rows.childElementCount > MAX_ROWS) {
      this.rows.firstElementChild.remove();
      this.hidden += 1;
    }
    this.more.hidden = this.hidden === 0;
    this.more.textContent = fill(gettext("Earlier events that are not shown: {count}"), { count: number(this.hidden) });
    const values = { count: number(this.count), total: duration(this.last), gap: duration(this.longest) };
    this.summary.textContent = fill(gettext("Events: {count} · {total} · longest gap {gap}"), values);
    this.canvas.setAttribute("aria-label", this.summary.textContent);
    if (this.warning.hidden && this.bunches.held) {
      const words = gettext("A proxy is buffering this stream: events that were sent apart arrive together, up to {delay} late.");
      this.warning.textContent = fill(words, { delay: duration(this.bunches.held) });
      this.warning.hidden = false;
    }
  }
}

function kindOf(type) {
  if (TERMINAL.has(type)) return type;
  return type === "content" || type === "status" ? type : "other";
}

function excerpt(data) {
  const { type, sent_at, ...rest } = data;
  if (type === "content" && Object.keys(rest).length === 1) return JSON.stringify(rest.delta);
  if (type === "comment") return rest.text;
  return JSON.stringify(rest);
}

function row(cells) {
  const line = document.createElement("tr");
  line.className = TERMINAL.has(cells[3]) ? `end ${cells[3]}` : kindOf(cells[3]);
  for (const [index, text] of cells.entries()) {
    const cell = document.createElement("td");
    cell.textContent = text;
    if (index === 4) cell.dir = "auto";
    line.append(cell);
  }
  return line;
}
