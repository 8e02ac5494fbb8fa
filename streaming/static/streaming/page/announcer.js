/* A live region that does not chatter: one sentence each four seconds at most. */
const PAUSE = 4_000;

export class Announcer {
  #important = []; // each of them is said
  #latest = null; // of the rest only the newest
  #timer = null;

  constructor(region) {
    this.region = region;
  }

  /** `important`: to be said although newer sentences come. */
  say(sentence, { important = false } = {}) {
    if (!important) this.#latest = sentence;
    else if (this.#important.at(-1) !== sentence) this.#important.push(sentence);
    if (this.#timer === null) this.#speak();
  }

  #speak() {
    this.#timer = null;
    const sentence = this.#important.shift() ?? this.#latest;
    if (sentence === null) return;
    if (sentence === this.#latest) this.#latest = null;
    this.region.textContent = sentence;
    this.#timer = setTimeout(() => this.#speak(), PAUSE);
  }
}
