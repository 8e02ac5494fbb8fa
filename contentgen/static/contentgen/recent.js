/*
 * The caller's recent streams. A signed-in caller's come from the server; an anonymous one owns none there,
 * so this browser keeps their ids.
 */
import { moment } from "../streaming/page/format.js";
import { Kept } from "../streaming/page/storage.js";

const kept = new Kept("localStorage", "sluice.recent");
const KEPT = 8;
const TITLE = 80; // characters
const STATES = {
  queued: gettext("waiting"),
  running: gettext("running"),
  complete: gettext("finished"),
  error: gettext("failed"),
  cancelled: gettext("stopped"),
};

export class Recent {
  #here = []; // this page's own, where the browser stores nothing

  /** `headers()`: those of a request. `owned`: the server knows which streams are the caller's. */
  constructor(root, { headers, owned }) {
    Object.assign(this, { headers, owned });
    this.list = root.querySelector("[data-recent]");
    this.empty = root.querySelector("[data-recent-empty]");
    this.streams = root.querySelector("[data-brief]").dataset.streams;
  }

  place(id) {
    return `${this.streams}${id}`;
  }

  /** A stream of this browser began. */
  remember(id, topic) {
    const others = this.#stored().filter((each) => each.id !== id);
    this.#store([{ id, topic }, ...others].slice(0, KEPT));
  }

  /** Show the list anew. What cannot be loaded now stays as it is shown, until the next time. */
  async load() {
    const topics = new Map(this.#stored().map(({ id, topic }) => [id, topic]));
    const records = this.owned ? await this.#own() : await this.#known([...topics.keys()]);
    if (records === null) return;
    this.list.replaceChildren(...records.map((record) => this.#item(record, topics.get(record.id))));
    this.empty.hidden = records.length > 0;
  }

  /** A stream changed its state. */
  refresh() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(), 300);
  }

  async #own() {
    const response = await this.#get(`${this.streams.replace(/\/$/, "")}?limit=${KEPT}`);
    return response?.ok ? (await response.json()).items : null;
  }

  async #known(ids) {
    const responses = await Promise.all(ids.map((id) => this.#get(this.place(id))));
    if (responses.includes(null)) return null;
    const gone = ids.filter((_, index) => responses[index]?.status === 404);
    if (gone.length > 0) this.#store(this.#stored().filter(({ id }) => !gone.includes(id)));
    return Promise.all(responses.filter((response) => response?.ok).map((response) => response.json()));
  }

  #get(url) {
    return fetch(url, { headers: this.headers() }).catch(() => null);
  }

  #item(record, topic) {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const title = document.createElement("span");
    const facts = document.createElement("span");
    link.href = `${this.place(record.id)}/view`;
    link.dataset.state = record.state;
    title.className = "title";
    title.dir = "auto";
    title.textContent = topic || firstLine(record.text) || record.id.slice(0, 8);
    facts.className = "small";
    facts.textContent = `${STATES[record.state]} · ${moment(record.created_at)}`;
    link.append(title, facts);
    item.append(link);
    return item;
  }

  #stored() {
    return kept.get() ?? this.#here;
  }

  #store(entries) {
    this.#here = entries;
    kept.set(entries); // where that fails, the list is this page's only
  }
}

function firstLine(text) {
  const line = text.split("\n").find((each) => each.trim()) ?? "";
  return [...line.replace(/^#+\s*/, "")].slice(0, TITLE).join("");
}
