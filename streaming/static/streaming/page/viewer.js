/* A stream on the page: binds a StreamClient to the markup of streaming/viewer.html. */
import { Announcer } from "./announcer.js";
import { problemOf, StreamClient, TERMINAL } from "./client.js";
import { copy } from "./clipboard.js";
import { fill, number } from "./format.js";
import { Inspector } from "./inspector.js";
import { Receipt } from "./receipt.js";
import { showCleaned } from "./trusted.js";

const ROUTES = { direct: gettext("direct"), queued: gettext("queued") };
const RECONNECTED_SHOWN = 6_000; // ms
const AT_THE_END = 48; // px: a reader who is this close to the end is taken along

/**
 * `headers()`: those of a request. `onAgain()`: the reader wants the same once more; without it there is no
 * such button. `onChange(client)`: a stream was asked for, began or ended.
 */
export class Viewer {
  #client = null;
  #pieces = [];
  #frame = null;
  #countdown = null;
  #badge = null;
  #live = false; // whether the text is being written now, and not replayed
  #retry = () => {};

  constructor(root, { headers, onAgain = null, onChange = () => {} }) {
    Object.assign(this, { root, headers, onAgain, onChange });
    this.inspector = new Inspector(root);
    this.receipt = new Receipt(root);
    this.announcer = new Announcer(this.#part("announcer"));
    this.#part("stop").addEventListener("click", () => this.#stop());
    this.#part("copy").addEventListener("click", () => this.#copy());
    this.#part("plain").addEventListener("click", () => this.#togglePlain());
    this.#part("again").addEventListener("click", () => this.onAgain());
    this.#part("retry").addEventListener("click", () => this.#retry());
  }

  get busy() {
    return this.root.dataset.state === "working" || this.root.dataset.state === "waiting";
  }

  /** Start a task and show it; `key`: see `StreamClient.start`. */
  start(url, body, key) {
    const client = this.#begin();
    this.#live = true;
    this.#retry = this.onAgain;
    client.start(url, body, key);
  }

  /** Show the task at `place`, from its beginning. */
  follow(place) {
    this.place = place;
    const client = this.#begin();
    this.#retry = () => this.follow(place);
    client.follow(place);
  }

  #begin() {
    const focused = this.root.contains(document.activeElement);
    this.#client?.close();
    this.#reset();
    const client = new StreamClient({
      headers: this.headers,
      silenceLimit: Number(this.root.dataset.silenceLimit),
      timing: true,
    });
    const on = (name, handle) =>
      client.addEventListener(name, ({ detail }) => {
        if (client === this.#client) handle.call(this, detail);
      });
    on("started", this.#started);
    on("connection", this.#connection);
    on("event", this.#event);
    on("comment", ({ text, at }) => this.inspector.add({ type: "comment", data: { type: "comment", text }, id: null, at }));
    on("refused", this.#refused);
    on("unstopped", ({ problem }) => this.#notStopped(problem));
    on("over", () => this.#over());
    this.#client = client;
    this.#state("working", gettext("Connecting"));
    this.#show("stop", true);
    this.#keepFocus(focused);
    this.onChange(client);
    return client;
  }

  #reset() {
    clearInterval(this.#countdown);
    this.#pieces = [];
    this.counts = { events: 0, statuses: 0, reconnects: 0 };
    this.text = "";
    this.#part("text").replaceChildren(document.createTextNode(""));
    this.#part("reasoning-text").replaceChildren(document.createTextNode(""));
    this.#part("rendered").replaceChildren();
    this.#show("text", true);
    for (const name of ["hint", "wait", "notice", "reasoning", "rendered", "gap", "route", "connection", "stop", "plain", "again"]) {
      this.#show(name, false);
    }
    this.#show("hint", true);
    this.#part("copy").disabled = true;
    this.inspector.clear();
    this.receipt.clear();
  }

  // What the client tells

  #started({ route }) {
    this.place = this.#client.place;
    if (route) this.#showRoute(route);
    this.onChange(this.#client);
  }

  #connection({ state }) {
    clearTimeout(this.#badge);
    const words = {
      waiting: gettext("Connection lost; trying again"),
      offline: gettext("You are offline; the text goes on when you are back"),
      reconnected: gettext("Reconnected"),
    }[state];
    const badge = this.#part("connection");
    if (!words) {
      // While it connects again, what was said last still holds.
      if (state === "open") badge.hidden = true;
      return;
    }
    badge.textContent = words;
    badge.dataset.connection = state;
    badge.hidden = false;
    this.announcer.say(words, { important: true });
    if (state === "reconnected") {
      this.counts.reconnects = this.#client.reconnects;
      this.receipt.count(this.counts);
      this.#badge = setTimeout(() => (badge.hidden = true), RECONNECTED_SHOWN);
    }
  }

  #event(event) {
    this.inspector.add(event);
    this.counts.events += 1;
    if (event.type === "status") this.counts.statuses += 1;
    if (event.type === "content") this.#content(event.data);
    else if (event.type === "status") this.#status(event.data);
    else if (event.type === "restart") this.#restart();
    else if (event.type === "gap") this.#note(gettext("A part of the text is no longer kept."));
    else if (event.type === "truncated") this.#note(gettext("The text was cut: it grew too long."));
    else if (TERMINAL.has(event.type)) this.#end(event);
    this.#drawSoon();
  }

  #content({ delta, channel }) {
    if (this.root.dataset.state === "waiting" || this.text === "") this.#writing();
    this.#pieces.push([channel, delta]);
    if (!channel) this.text += delta;
    this.#part("copy").disabled = this.text === "";
  }

  #writing() {
    this.#state("working", gettext("Writing"));
    this.#show("hint", false);
    this.#show("wait", false);
  }

  #status({ status, message, route, position }) {
    this.#live = true; // of an ended task there is none
    this.#showRoute(route);
    if (status === "queued") {
      this.#state("waiting", gettext("Waiting"));
      this.#show("hint", false);
      this.#show("wait", true);
      this.#part("place").textContent = position === undefined ? "…" : number(position);
      this.#part("wait-text").textContent = message;
    } else if (this.text === "") {
      this.#state("working", status === "started" ? gettext("Started") : message);
      this.#show("wait", false);
      this.#show("hint", true);
    }
    this.announcer.say(message);
  }

  #restart() {
    this.text = "";
    this.#pieces = [];
    this.#part("text").replaceChildren(document.createTextNode(""));
    this.#part("reasoning-text").replaceChildren(document.createTextNode(""));
    this.#show("reasoning", false);
  }

  #end({ type, data }) {
    const focused = this.root.contains(document.activeElement);
    this.#draw();
    this.#show("stop", false);
    this.#show("connection", false);
    this.#show("again", this.onAgain !== null);
    this.#show("hint", false);
    this.#show("wait", false);
    this.receipt.count(this.counts);
    if (type === "complete") this.#complete(data);
    else if (type === "cancelled") this.#state("cancelled", gettext("Stopped"));
    else this.#failed(data);
    // Who may not read the stream may not read its record either.
    if (type !== "complete" && data.code !== "access_revoked") this.#receiptOfRecord();
    if (!this.#live) this.#part("sheet").scrollTop = 0;
    this.#keepFocus(focused);
  }

  #complete(data) {
    const words = data.finish_reason === "length" ? gettext("Finished: the length limit was reached") : gettext("Finished");
    this.#state("finished", words);
    this.receipt.fill(data.timing, { characters: data.content_length, usage: data.usage, model: data.model });
    this.announcer.say(fill(gettext("Finished, with {count} characters."), { count: number(data.content_length) }));
    if (data.content_length === 0) this.#note(gettext("The answer is empty."));
    this.#render();
  }

  #failed({ code, message, retryable }) {
    this.#state("failed", gettext("Failed"));
    this.#retry = this.onAgain;
    const revoked = code === "access_revoked";
    const title = revoked ? gettext("You may not read this any more") : gettext("The stream ended with an error");
    this.#notice(title, message, retryable);
    if (revoked) this.#offerSignIn();
    this.announcer.say(message, { important: true });
    this.#part("notice").dataset.code = code;
  }

  async #refused({ problem, retryAfter }) {
    this.#show("stop", false);
    this.#show("connection", false);
    this.#show("hint", false);
    if (problem.code === "events_pruned") return this.#showRecord();
    this.#state("refused", problem.status === 404 ? gettext("Not found") : gettext("Refused"));
    const [title, text] = wordsFor(problem);
    this.#notice(title, text, true);
    this.#part("notice").dataset.code = problem.code;
    if (problem.status === 401) this.#offerSignIn();
    if (retryAfter) this.#countDown(retryAfter);
    this.root.dispatchEvent(new CustomEvent("refusal", { detail: problem }));
  }

  #over() {
    if (this.busy) {
      // Nobody reads any more, and no end was told.
      this.#state("cancelled", gettext("Stopped"));
      this.#show("hint", false);
      this.#show("again", this.onAgain !== null);
    }
    this.#show("stop", false);
    this.onChange(this.#client);
  }

  // What the reader does

  async #stop() {
    this.#state(this.root.dataset.state, gettext("Stopping"));
    try {
      await this.#client.stop();
    } catch (problem) {
      this.#notStopped(problem);
    }
  }

  #notStopped(problem) {
    const words = problem.title ?? gettext("The server could not be told to stop.");
    this.announcer.say(words, { important: true });
    this.#note(words);
  }

  async #copy() {
    const button = this.#part("copy");
    try {
      await copy(this.text);
      button.textContent = gettext("Copied");
    } catch {
      button.textContent = gettext("Not copied");
    }
    this.announcer.say(button.textContent, { important: true });
    setTimeout(() => (button.textContent = button.dataset.copy), 2_000);
  }

  #togglePlain() {
    const plain = this.#part("text").hidden;
    this.#show("text", plain);
    this.#show("rendered", !plain);
    this.#part("plain").setAttribute("aria-pressed", String(plain));
  }

  // The document

  /** The server reads the finished text as Markdown and cleans it; only that is inserted as HTML. */
  async #render() {
    const client = this.#client;
    const response = await fetch(`${this.place}/rendered`, { headers: this.headers() }).catch(() => null);
    if (!response?.ok || client !== this.#client) return; // the plain text stays
    const { html } = await response.json();
    if (html === null) this.#note(gettext("The text is too long to be formatted, and stays plain."));
    if (!html?.trim()) return;
    showCleaned(this.#part("rendered"), html);
    this.#show("rendered", true);
    this.#show("text", false);
    this.#show("plain", true);
    this.#part("plain").setAttribute("aria-pressed", "false");
  }

  /** Instead of events that are no longer kept. What was seen before and the record lacks stays. */
  async #showRecord() {
    const record = await this.#record();
    if (record === null) return;
    if (record.text.length >= this.text.length) {
      this.text = record.text;
      this.#part("text").firstChild.data = record.text;
    }
    this.#showRoute(record.route);
    this.#part("copy").disabled = this.text === "";
    if (record.state === "complete") {
      this.#state("finished", gettext("Finished"));
      this.#render();
    } else if (record.state === "cancelled") this.#state("cancelled", gettext("Stopped"));
    else if (record.error) this.#failed(record.error);
    else this.#failed({ code: "interrupted", message: gettext("The server that wrote it is gone."), retryable: true });
    if (record.timing) this.receipt.fill(record.timing, { characters: [...record.text].length });
    if (this.text === "") this.#note(gettext("The text is no longer kept."));
    else this.#note(gettext("The events of this stream are no longer kept; this is its record."));
    this.#show("again", this.onAgain !== null);
  }

  async #receiptOfRecord() {
    const client = this.#client;
    const record = await this.#record();
    if (record?.timing && client === this.#client) {
      this.receipt.fill(record.timing, { characters: [...this.text].length });
    }
  }

  async #record() {
    const response = await fetch(this.place, { headers: this.headers() }).catch(() => null);
    if (response?.ok) return response.json();
    if (response) this.#refused({ problem: await problemOf(response) });
    return null;
  }

  #drawSoon() {
    // Hidden pages get no frames, so a timer stands in for them.
    this.#frame ??= document.hidden
      ? { timer: setTimeout(() => this.#draw(), 200) }
      : { request: requestAnimationFrame(() => this.#draw()) };
  }

  #draw() {
    clearTimeout(this.#frame?.timer);
    cancelAnimationFrame(this.#frame?.request);
    this.#frame = null;
    const sheet = this.#part("sheet");
    const follows = this.#live && sheet.scrollHeight - sheet.scrollTop - sheet.clientHeight < AT_THE_END;
    const added = { text: "", reasoning: "" };
    for (const [channel, delta] of this.#pieces) added[channel === "reasoning" ? "reasoning" : "text"] += delta;
    this.#pieces = [];
    if (added.text) this.#part("text").firstChild.appendData(added.text);
    if (added.reasoning) {
      this.#show("reasoning", true);
      this.#part("reasoning-text").firstChild.appendData(added.reasoning);
    }
    if (this.busy) this.receipt.count(this.counts);
    if (follows) sheet.scrollTop = sheet.scrollHeight;
  }

  #notice(title, text, again) {
    this.#part("notice-title").textContent = title;
    this.#part("notice-text").textContent = text;
    this.#part("retry").textContent = gettext("Try again");
    this.#part("retry").disabled = false;
    this.#show("retry", again && this.#retry !== null);
    this.#show("notice-link", false);
    this.#show("hint", false);
    this.#show("notice", true);
  }

  #offerSignIn() {
    if (!this.root.dataset.login) return;
    const here = encodeURIComponent(location.pathname + location.hash);
    this.#link(gettext("Sign in"), `${this.root.dataset.login}?next=${here}`);
  }

  #link(words, href) {
    const link = this.#part("notice-link");
    Object.assign(link, { textContent: words, href, hidden: false });
    this.#show("retry", false);
  }

  /** The server said when a new try makes sense: count down, then offer it. */
  #countDown(seconds) {
    const button = this.#part("retry");
    const end = performance.now() + seconds * 1000;
    const tick = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      button.disabled = left > 0;
      button.textContent = left > 0 ? fill(gettext("Try again in {seconds} s"), { seconds: left }) : gettext("Try again");
      if (left <= 0) clearInterval(this.#countdown);
    };
    this.#countdown = setInterval(tick, 250);
    tick();
  }

  /** Who worked with a button that is gone goes on with one that is there. */
  #keepFocus(focused) {
    const lost = document.activeElement === document.body || document.activeElement?.closest("[hidden]");
    if (!focused || !lost) return;
    const usable = (button) => !button.hidden && !button.disabled;
    [...this.root.querySelectorAll(".bar button")].find(usable)?.focus();
  }

  #note(text) {
    this.#part("gap").textContent = text;
    this.#show("gap", true);
  }

  #showRoute(route) {
    const badge = this.#part("route");
    badge.textContent = ROUTES[route] ?? route;
    badge.dataset.route = route;
    badge.hidden = false;
  }

  #state(state, words) {
    this.root.dataset.state = state;
    this.#part("state-text").textContent = words;
    this.#part("sheet").setAttribute("aria-busy", String(this.busy));
  }

  #show(name, shown) {
    this.#part(name).hidden = !shown;
  }

  #part(name) {
    return this.root.querySelector(`[data-${name}]`);
  }
}

function wordsFor(problem) {
  const own = {
    not_found: [gettext("The stream is not there"), gettext("It may have ended with the server that wrote it, or it belongs to somebody else.")],
    unreachable: [gettext("The server cannot be reached"), gettext("No answer came. If a text was started all the same, it ends by itself after a while.")],
    unexpected_answer: [gettext("An unexpected answer"), gettext("Something between here and the server answered in its place.")],
  }[problem.code];
  return own ?? [problem.title, problem.detail ?? ""];
}
