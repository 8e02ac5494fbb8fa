/* The numbers of this moment over an event stream of ours, again and again until it is stopped. */
import { EventDecoder } from "../page/sse.js";

const SILENCE = 75_000; // ms; a stream lasts a minute, so one that says nothing for longer is dead
const FIRST_PAUSE = 1_000; // ms; doubled each time
const LONGEST_PAUSE = 30_000;

/**
 * Dispatches, as CustomEvents with `detail`:
 * `numbers` {…}: what the server told;
 * `state` {state}: `connecting`, `live`, `paused`, `waiting` (for the next try), `refused` (the reader is signed
 * out, or may not watch any more; it has stopped).
 */
export class Live extends EventTarget {
  #place;
  #abort = null;
  #running = false;

  constructor(place) {
    super();
    this.#place = place;
  }

  get running() {
    return this.#running;
  }

  go() {
    if (this.#running) return;
    this.#running = true;
    this.#run();
  }

  stop() {
    this.#end("paused");
  }

  refuse() {
    this.#end("refused");
  }

  #end(state) {
    this.#running = false;
    this.#abort?.abort();
    this.#tell("state", { state });
  }

  async #run() {
    const abort = (this.#abort = new AbortController());
    let failures = 0;
    this.#tell("state", { state: "connecting" });
    while (!abort.signal.aborted) {
      const heard = await this.#read(abort).catch(() => false);
      if (abort.signal.aborted) return;
      failures = heard ? 0 : failures + 1;
      if (failures === 0) continue; // it was over in order, or cut after it worked
      this.#tell("state", { state: "waiting" });
      await pause(Math.min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE), abort.signal);
    }
  }

  /** Whether anything was told. */
  async #read(abort) {
    const response = await fetch(this.#place, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      redirect: "error",
      signal: abort.signal,
    });
    if (response.status === 401 || response.status === 403) {
      this.refuse();
      return false;
    }
    if (!response.ok) return false;
    let heard = false;
    const decoder = new EventDecoder({
      onEvent: ({ type, data }) => {
        heard = true;
        this.#tell("state", { state: "live" });
        if (type === "result") this.#tell("numbers", JSON.parse(data).data);
      },
    });
    const reader = response.body.getReader();
    let alarm;
    try {
      for (;;) {
        alarm = setTimeout(() => reader.cancel(), SILENCE);
        const { done, value } = await reader.read();
        clearTimeout(alarm);
        if (done) return heard;
        decoder.feed(value);
      }
    } catch {
      return false;
    } finally {
      clearTimeout(alarm);
    }
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds * (0.75 + Math.random() / 2));
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
