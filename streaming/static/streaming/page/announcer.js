/* A live region that does not chatter: the newest sentence, one each four seconds at most. */
const PAUSE = 4_000;

export class Announcer {
  #next = null;
  #timer = null;

  constructor(region) {
    this.region = region;
  }

  say(sentence) {
    this.#next = sentence;
    if (this.#timer === null) this.#speak();
  }

  #speak() {
    this.#timer = null;
    if (this.#next === null) return;
    this.region.textContent = this.#next;
    this.#next = null;
    this.#timer = setTimeout(() => this.#speak(), PAUSE);
  }
}
