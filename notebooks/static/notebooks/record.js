/*
 * The notebook on the server, and what is typed here and not there yet: saved a moment after each change and when
 * the page goes, again when the server can be reached again, and kept by this browser until then.
 */
import { problemOf } from "../streaming/page/client.js";
import { Kept } from "../streaming/page/storage.js";

const SAVE_AFTER = 800; // ms without a change
const SAVE_WITHIN = 5_000; // ms of changes
const RETRY_AFTER = 2_000; // ms; doubled each time
const RETRY_WITHIN = 30_000;
const KEEPALIVE = 60_000; // bytes; browsers let 64 KiB outlive their page (Fetch, 4.6)
const REMEMBERED = 16; // contents of ours that the server may have

/**
 * Dispatches `state` {state, sentence}: `saved`, `unsaved`, `unreachable`, `refused`, or `conflict`: somebody
 * changed the notebook elsewhere, and `other` is that version.
 */
export class Record extends EventTarget {
  other = null;
  #version;
  #known = []; // prints of what the server may have from here
  #saved = ""; // print of what is there for certain
  #queue = Promise.resolve();
  #timer = null;
  #since = null; // when the first unsaved change was made
  #failures = 0;
  #leaving = false; // the next page may have been asked for already
  #parting = null; // print of what was sent last while leaving
  #draft;
  #tab = Math.random().toString(36).slice(2);

  /** `contents()`: {title, cells: [{cell_id, kind, source}]} of the page. `version`: null for none yet. */
  constructor({ place, headers, contents, version, name }) {
    super();
    Object.assign(this, { place, headers, contents });
    this.#version = version;
    this.#draft = new Kept("localStorage", name);
    addEventListener("online", () => this.unsaved && this.save());
    addEventListener("pagehide", () => this.#leave());
    // A reload asks for the new page before the old one is hidden.
    addEventListener("beforeunload", (event) => this.#leave() || event.preventDefault());
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#leave() : this.#stay()));
  }

  get unsaved() {
    return printOf(this.contents()) !== this.#saved;
  }

  /** The page shows what is on the server now. */
  settle(record) {
    this.#version = record?.version ?? this.#version;
    this.#saved = printOf(this.contents());
    this.#remember(this.#saved);
    if (record) this.#remember(printOf(record));
    this.other = null;
    this.#dropDraft();
  }

  /** What was typed here and did not reach the server, as contents; null if there is nothing. */
  restored(record) {
    const draft = this.#draft.get();
    const landed = draft?.landed <= record.version; // false if one of them is not known
    if (!draft?.contents || landed || printOf(draft.contents) === printOf(record)) {
      this.#draft.drop();
      return null;
    }
    if (!draft.known.includes(printOf(record))) this.other = record;
    for (const print of [...draft.known.toReversed(), printOf(draft.contents)]) this.#remember(print);
    this.#draft.set({ ...draft, tab: this.#tab }); // it is this tab's from now on
    return draft.contents;
  }

  changed() {
    this.#leaving = false;
    this.#parting = null;
    this.#since ??= performance.now();
    clearTimeout(this.#timer);
    if (this.other) return void this.#keepDraft();
    const left = SAVE_WITHIN - (performance.now() - this.#since);
    this.#timer = setTimeout(() => this.save(), Math.max(0, Math.min(SAVE_AFTER, left)));
    if (this.#failures) this.#keepDraft();
    else this.#tell("unsaved", gettext("Not saved yet"));
  }

  /** Save now, if there is something; `force`: whatever somebody else has done meanwhile. */
  save({ force = false } = {}) {
    clearTimeout(this.#timer);
    if (force) this.other = null;
    this.#queue = this.#queue.then(() => this.#save(force));
    return this.#queue;
  }

  /** The record as it is now, after what is being saved; null if it cannot be had. `fresh`: nothing typed here
   * is in its way, and the page should show it. */
  read() {
    const reading = this.#queue.then(async () => {
      const response = await fetch(this.place, { headers: this.headers() }).catch(() => null);
      if (!response?.ok) return null;
      const record = await response.json();
      return { record, fresh: this.#consider(record) };
    });
    this.#queue = reading.catch(() => null);
    return this.#queue;
  }

  async #save(force) {
    if (this.other) return this.#clash(this.other);
    if (!force && !this.unsaved) return this.#tellIfSaved();
    this.#since = null;
    const contents = this.contents();
    const response = await this.#put(contents, force ? null : this.#version);
    if (response?.ok) return this.#done(contents, await response.json());
    if (response?.status === 412) return this.#meet();
    this.#keepDraft();
    if (response === null || response.status >= 500 || response.status === 429) return this.#retryLater();
    const problem = await problemOf(response);
    return this.#tell("refused", interpolate(gettext("Not saved: %s"), [problem.detail || problem.title || response.status]));
  }

  #put(contents, version, options = {}) {
    this.#remember(printOf(contents));
    const headers = { ...this.headers(), "Content-Type": "application/json" };
    if (version !== null) headers["If-Match"] = `"${version}"`;
    return fetch(this.place, { method: "PUT", headers, body: JSON.stringify(contents), ...options }).catch(() => null);
  }

  #done(contents, record) {
    this.#failures = 0;
    this.#version = record.version ?? null;
    this.#saved = printOf(contents);
    this.#remember(printOf(record));
    if (this.unsaved) return this.changed();
    // The next page may show what was before this.
    if (this.#leaving) this.#draft.set({ ...this.#draftNow(), landed: this.#version });
    else this.#dropDraft();
    return this.#tellIfSaved();
  }

  /** The server has something else than we believed. */
  async #meet() {
    const response = await fetch(this.place, { headers: this.headers() }).catch(() => null);
    if (response?.ok) {
      const record = await response.json();
      if (!this.#isOurs(record)) return this.#clash(record);
      this.#version = record.version ?? null;
    } else if (response?.status === 404) {
      this.#version = null; // deleted elsewhere; what is here is all there is
    } else return this.#retryLater();
    return this.#save(false);
  }

  /** Whether the page should show `record`, and nothing here is in its way. */
  #consider(record) {
    if (this.other) return false;
    if (this.#isOurs(record)) {
      this.#version = record.version ?? null;
      return false;
    }
    if (!this.unsaved) return true;
    this.#clash(record);
    return false;
  }

  #isOurs(record) {
    return this.#known.includes(printOf(record));
  }

  #clash(record) {
    this.other = record;
    this.#keepDraft();
    this.#tell("conflict", gettext("Not saved: the notebook was changed in another window."));
  }

  #retryLater() {
    this.#keepDraft();
    this.#failures += 1;
    const delay = Math.min(RETRY_AFTER * 2 ** (this.#failures - 1), RETRY_WITHIN);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.save(), delay);
    this.#tell("unreachable", gettext("Not saved: the server cannot be reached. What you typed is kept in this browser."));
  }

  /** The page goes, perhaps for ever. Whether nothing that was typed gets lost by that. */
  #leave() {
    if (!this.unsaved) return true;
    this.#leaving = true;
    const contents = this.contents();
    const kept = this.#keepDraft();
    if (this.other) return kept;
    const small = new Blob([JSON.stringify(contents)]).size < KEEPALIVE;
    if (small && this.#parting !== printOf(contents)) {
      this.#parting = printOf(contents);
      this.#put(contents, this.#version, { keepalive: true }).then(async (response) => {
        if (response?.ok) this.#done(contents, await response.json());
      });
    }
    return kept || (small && navigator.onLine);
  }

  /** The page stays after all. */
  #stay() {
    this.#leaving = false;
    this.#parting = null;
    if (!this.unsaved) this.#dropDraft();
  }

  #keepDraft() {
    return this.#draft.set(this.#draftNow());
  }

  #draftNow() {
    return { tab: this.#tab, contents: this.contents(), known: this.#known };
  }

  /** Another tab's is that tab's. */
  #dropDraft() {
    if (this.#draft.get()?.tab === this.#tab) this.#draft.drop();
  }

  #remember(print) {
    this.#known = [print, ...this.#known.filter((each) => each !== print)].slice(0, REMEMBERED);
  }

  #tellIfSaved() {
    if (!this.unsaved) this.#tell("saved", gettext("Saved"));
  }

  #tell(state, sentence) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, sentence } }));
  }
}

/** What tells contents from each other: 53 bits of their words (cyrb53, public domain), and their length. */
function printOf({ title, cells }) {
  const words = JSON.stringify([title, cells.map(({ cell_id, kind, source }) => [cell_id, kind, source])]);
  let [one, two] = [0xdeadbeef, 0x41c6ce57];
  for (let index = 0; index < words.length; index += 1) {
    const code = words.charCodeAt(index);
    one = Math.imul(one ^ code, 2654435761);
    two = Math.imul(two ^ code, 1597334677);
  }
  one = Math.imul(one ^ (one >>> 16), 2246822507) ^ Math.imul(two ^ (two >>> 13), 3266489909);
  two = Math.imul(two ^ (two >>> 16), 2246822507) ^ Math.imul(one ^ (one >>> 13), 3266489909);
  return `${words.length}.${4294967296 * (2097151 & two) + (one >>> 0)}`;
}
