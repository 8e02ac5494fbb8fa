/* Incremental decoder of text/event-stream (HTML standard, 9.2.6). */

export class EventDecoder {
  #text = new TextDecoder(); // keeps cut code points for the next bytes, and drops one leading BOM
  #line = ""; // the unfinished line
  #afterCarriageReturn = false;
  #data = [];
  #type = "";
  #lastId = "";

  /** `onEvent({type, data, id})`, `onRetry(milliseconds)`, `onComment(text)`. */
  constructor({ onEvent, onRetry = () => {}, onComment = () => {} }) {
    Object.assign(this, { onEvent, onRetry, onComment });
  }

  /** Take in some bytes, cut anywhere. What is unfinished at the end of a stream is no event. */
  feed(bytes) {
    let text = this.#text.decode(bytes, { stream: true });
    if (this.#afterCarriageReturn && text !== "") {
      if (text[0] === "\n") text = text.slice(1);
      this.#afterCarriageReturn = false;
    }
    if (text.endsWith("\r")) this.#afterCarriageReturn = true;
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    for (const line of lines) this.#take(line);
  }

  #take(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return this.onComment(line.slice(1).trimStart());
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#lastId = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.onRetry(Number(value));
  }

  #dispatch() {
    const data = this.#data;
    const type = this.#type || "message";
    this.#data = [];
    this.#type = "";
    if (data.length > 0) this.onEvent({ type, data: data.join("\n"), id: this.#lastId });
  }
}
