/*
 * One stream over fetch: started by POST or followed by GET, resumed by itself after a cut, until its
 * terminal event. Only that event proves the end; a stream that stops without it was cut.
 */
import { EventDecoder } from "./sse.js";

export const TERMINAL = new Set(["complete", "error", "cancelled"]);
const MAX_DELAY = 30_000;
const REPEATS = 3; // of a POST whose answer was lost
const FIRST_REPEAT = 500; // ms; doubled each time

/**
 * Dispatches, as CustomEvents with `detail`:
 * `event` {type, data, id, at}: an event of the stream, `at` in milliseconds since the start;
 * `comment` {text, at}: a heartbeat;
 * `connection` {state}: `connecting`, `open`, `reconnected`, `waiting`, `offline`;
 * `started` {id, route}: the server took the task;
 * `unstopped` {problem}: the server refused to stop the task;
 * `refused` {problem, retryAfter}: nothing was started, or the stream cannot be read (`retryAfter` in s);
 * `over` {}: nothing more will come.
 */
export class StreamClient extends EventTarget {
  id = null;
  place = null; // the task's URL
  reconnects = 0;
  #lastId = 0;
  #retry = 2_000;
  #ended = false;
  #reading = false;
  #stopping = false;
  #abort = null;
  #wake = null;
  #alarm = null;

  /**
   * `headers()`: those of a request. `silenceLimit`: seconds without a byte before a resume; 0: never.
   * `timing`: whether each event shall say when the server sent it (`sent_at`).
   */
  constructor({ headers = () => ({}), silenceLimit = 0, timing = false } = {}) {
    super();
    this.headers = headers;
    this.query = timing ? "?timing=1" : "";
    this.silenceLimit = silenceLimit;
    this.begun = performance.now();
    addEventListener("online", this.#online);
    addEventListener("offline", this.#offline);
  }

  /** Start a task: POST `body` (JSON) to `url`; the same `key` again is the same task, not a second one. */
  start(url, body, key = newKey()) {
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    this.#run({ url: url + this.query, options: { method: "POST", headers, body: JSON.stringify(body) } });
  }

  /** Follow the task at `place` (`/streams/<id>`) from its first event. */
  follow(place) {
    this.#adopt(place);
    this.#run(this.#resumption());
  }

  /**
   * Ask the server to end the task; its `cancelled` event comes over the stream. A task whose id is not known
   * yet, or a server that cannot be reached now, is told as soon as it can be; asked again before that, the
   * client gives up waiting. Throws a problem document.
   */
  async stop() {
    if (this.place === null && this.#stopping) return this.close();
    this.#stopping = true;
    if (this.place === null) return;
    const request = { method: "DELETE", headers: this.headers() };
    const response = await fetch(this.place, request).catch(() => null);
    if (response === null) return;
    this.#stopping = false;
    if (!response.ok) throw await problemOf(response);
  }

  /** Read no more; the task goes on. */
  close() {
    this.#finish();
    this.#abort?.abort();
    this.#wake?.();
  }

  async #run(request) {
    for (let attempt = 0; !this.#ended; ) {
      this.#tell("connection", { state: "connecting" });
      const before = this.#lastId;
      await this.#read(request, attempt > 0 && this.place !== null).catch(() => null); // a cut
      if (this.#ended) return;
      if (this.place === null) {
        // Whether a task began is not known; the same call again is the same task.
        if (attempt >= REPEATS) return this.#refuse({ code: "unreachable" });
        attempt += 1;
        await this.#pause(attempt, FIRST_REPEAT);
        continue;
      }
      attempt = this.#lastId > before ? 1 : attempt + 1;
      await this.#pause(attempt);
      request = this.#resumption();
    }
  }

  async #read({ url, options }, resumed) {
    this.#abort = new AbortController();
    this.#watch();
    this.#reading = true;
    try {
      const response = await fetch(url, {
        ...options,
        headers: { Accept: "text/event-stream", ...this.headers(), ...options.headers },
        cache: "no-store",
        signal: this.#abort.signal,
      });
      if (await this.#refusedBy(response, resumed)) return;
      this.#opened(response, resumed);
      await this.#drain(response.body.getReader());
    } finally {
      this.#reading = false;
      clearTimeout(this.#alarm);
    }
  }

  /** Whether the answer is no stream; one that may become one later is left to the next try. */
  async #refusedBy(response, resumed) {
    if (response.status === 204) {
      this.#finish();
      return true;
    }
    const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
    if (response.ok && isStream) return false;
    if (resumed && (response.status >= 500 || response.status === 429)) return true;
    this.#refuse(await problemOf(response), retryAfter(response));
    return true;
  }

  #opened(response, resumed) {
    const place = response.headers.get("Location");
    if (this.place === null && place) this.#adopt(place);
    const route = response.headers.get("X-Stream-Route");
    if (resumed) this.reconnects += 1;
    else this.#tell("started", { id: this.id, route });
    this.#tell("connection", { state: resumed ? "reconnected" : "open" });
    if (this.#stopping) this.stop().catch((problem) => this.#tell("unstopped", { problem }));
  }

  async #drain(reader) {
    const decoder = new EventDecoder({
      onEvent: (event) => this.#receive(event),
      onRetry: (milliseconds) => (this.#retry = milliseconds),
      onComment: (text) => this.#tell("comment", { text, at: this.#now() }),
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#ended) return;
      this.#watch();
      decoder.feed(value);
    }
  }

  #receive({ type, data, id }) {
    const values = JSON.parse(data);
    const durable = !["status", "gap", "reconnect", "ping"].includes(type);
    if (durable) this.#lastId = Math.max(this.#lastId, Number(id));
    // `access_revoked` ends the reader and not the task, so it has none of its own.
    const own = durable && values.code !== "access_revoked";
    this.#tell("event", { type, data: values, id: own ? Number(id) : null, at: this.#now() });
    if (TERMINAL.has(type)) this.#finish();
  }

  #resumption() {
    const headers = this.#lastId ? { "Last-Event-ID": String(this.#lastId) } : {};
    return { url: `${this.place}/events${this.query}`, options: { headers } };
  }

  #adopt(place) {
    this.place = place;
    this.id = place.split("/").pop();
  }

  /** Wait before the next try: the server's delay, doubled each time, with jitter; less once online again. */
  async #pause(attempt, first = this.#retry) {
    const delay = Math.min(first * 2 ** (attempt - 1), MAX_DELAY) * (0.75 + Math.random() / 2);
    if (navigator.onLine) this.#tell("connection", { state: "waiting" });
    else this.#tell("connection", { state: "offline" });
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, delay);
    });
  }

  /** A connection that says nothing for too long is dead, whatever the system believes. */
  #watch() {
    clearTimeout(this.#alarm);
    if (this.silenceLimit) {
      this.#alarm = setTimeout(() => this.#abort.abort(), this.silenceLimit * 1000);
    }
  }

  // Perhaps the connection survived; if not, it is time to try again.
  #online = () => {
    if (this.#reading) this.#tell("connection", { state: "open" });
    this.#wake?.();
  };

  #offline = () => this.#tell("connection", { state: "offline" });

  #refuse(problem, seconds = null) {
    this.#tell("refused", { problem, retryAfter: seconds });
    this.#finish();
  }

  #finish() {
    if (this.#ended) return;
    this.#ended = true;
    removeEventListener("online", this.#online);
    removeEventListener("offline", this.#offline);
    this.#tell("over", {});
  }

  #now() {
    return performance.now() - this.begun;
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A key that nobody has used. `randomUUID` is for pages from this machine or over TLS only. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16).padStart(8, "0")).join("");
}

/** The problem document (RFC 9457) of a refusal; of anything else what can be said about it. */
export async function problemOf(response) {
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  if (isProblem) return response.json();
  return { code: "unexpected_answer", status: response.status };
}

function retryAfter(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  return Number.isFinite(seconds) && seconds > 0 ? seconds : null;
}
