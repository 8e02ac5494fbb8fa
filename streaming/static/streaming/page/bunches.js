/*
 * Whether somebody between the server and here holds events back: sent apart, they arrive together. The same
 * rule as `bunched` in streaming/core/diagnosis.py, with more patience, for a page has other things to do; what
 * holds each event for a moment only (one behind, a timer) is left to the doctor.
 */
const APART = 15; // ms from which on two events were sent apart
const TOGETHER = 0.25; // the share of that distance within which they arrived together
const BUNCHED = 0.5; // the share of pairs from which on somebody holds them
const HELD = 250; // ms that the most delayed one was held at least
const FEW = 5; // pairs, without which nothing is said
const TICK = 100; // ms between two looks at how late this page is itself
const REST = 1_000; // ms without an event after which nobody looks

export class Bunches {
  #timer = null;

  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { last: null, apart: 0, together: 0, fastest: Infinity, slowest: -Infinity, ownLag: 0 });
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** An event came `at` (ms), and was sent at `sentAt` (s on the server's clock; undefined: not told). */
  add(at, sentAt) {
    if (sentAt === undefined) return;
    const sent = sentAt * 1000;
    if (this.last !== null && sent - this.last.sent >= APART) {
      const distance = sent - this.last.sent;
      this.apart += 1;
      if (at - this.last.at < distance * TOGETHER) this.together += 1;
    }
    // The clocks differ by what nobody knows, which is the same for all events.
    this.fastest = Math.min(this.fastest, at - sent);
    this.slowest = Math.max(this.slowest, at - sent);
    this.last = { at, sent };
    this.#watchMyself(performance.now() + REST);
  }

  /** Milliseconds by which events were held back; 0 where nobody holds them, or this page was late itself. */
  get held() {
    const delay = this.slowest - this.fastest;
    const is = this.apart >= FEW && this.together >= this.apart * BUNCHED && delay >= Math.max(HELD, 2 * this.ownLag);
    return is ? delay : 0;
  }

  #watchMyself(until) {
    this.until = until;
    this.#timer ??= this.#tick();
  }

  #tick() {
    const due = performance.now() + TICK;
    return setTimeout(() => {
      const now = performance.now();
      // A hidden page's timers are late on purpose.
      this.ownLag = Math.max(this.ownLag, now - due);
      this.#timer = now < this.until ? this.#tick() : null;
    }, TICK);
  }
}
