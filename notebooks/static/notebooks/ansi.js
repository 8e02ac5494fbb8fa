/*
 * What a terminal would show of a text: colours (SGR of ECMA-48), carriage return, backspace, and the erasing of
 * a line. Everything becomes text nodes, classes, and colours set over the CSSOM; nothing in it is markup.
 */
const CONTROL = /\x1b\[([0-9;]*)m|\x1b\[([0-2]?)K|(\r\n|[\n\r\b])|\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;
// A sequence may be cut between two events.
const UNFINISHED = /(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,200})?|\r)$/;
const BLOCK = 200; // lines of an element: only the last one is laid out anew when text comes
const PLAIN = Object.freeze({ key: "" });

export class Terminal {
  #block = null; // the element of the last lines
  #lines = 0; // in it
  #line = new Line();
  #style = PLAIN;
  #rest = ""; // what is not complete yet

  constructor(element) {
    this.element = element;
  }

  write(text) {
    const whole = this.#rest + text;
    const cut = whole.search(UNFINISHED);
    this.#rest = cut < 0 ? "" : whole.slice(cut);
    this.#take(cut < 0 ? whole : whole.slice(0, cut));
    this.#draw();
  }

  #take(text) {
    let from = 0;
    for (const found of text.matchAll(CONTROL)) {
      if (found.index > from) this.#line.put(text.slice(from, found.index), this.#style);
      from = found.index + found[0].length;
      const [, colours, erase, move] = found;
      if (colours !== undefined) this.#style = styled(this.#style, colours);
      else if (erase !== undefined) this.#line.erase(erase || "0");
      else if (move === "\r") this.#line.cursor = 0;
      else if (move === "\b") this.#line.cursor = Math.max(0, this.#line.cursor - 1);
      else if (move) this.#newLine();
    }
    if (from < text.length) this.#line.put(text.slice(from), this.#style);
  }

  #newLine() {
    this.#draw();
    this.#lines += 1;
    if (this.#lines < BLOCK) this.#block.append("\n");
    else {
      this.#block.normalize();
      this.#block = null; // its end is the end of a line, too
      this.#lines = 0;
    }
    this.#line = new Line();
  }

  /** Only the last line can change. */
  #draw() {
    if (!this.#block) {
      this.#block = document.createElement("span");
      this.#block.className = "lines";
      this.element.append(this.#block);
    }
    this.#line.draw(this.#block);
  }
}

/** The last line: stretches of one style each, and a place for the next character. */
class Line {
  cursor = 0;
  #length = 0; // characters
  #runs = []; // {style, text, node}

  put(text, style) {
    const size = lengthOf(text);
    if (this.cursor < this.#length) this.#overwrite(text, style);
    else {
      for (let gap = this.cursor - this.#length; gap > 0; gap -= 1) text = ` ${text}`;
      this.#append(text, style);
    }
    this.cursor += size;
    this.#length = Math.max(this.#length, this.cursor);
  }

  /** 0: what is right of the cursor, 1: left of it, 2: all. */
  erase(what) {
    const cells = this.#cells();
    const kept = cells.slice(0, what === "0" ? this.cursor : cells.length);
    if (what !== "0") kept.fill([" ", PLAIN], 0, what === "1" ? this.cursor : undefined);
    this.#rebuild(what === "2" ? [] : kept);
  }

  /** Bring the nodes at the end of `block` up to date. */
  draw(block) {
    for (const run of this.#runs) {
      if (run.node === undefined) {
        run.node = run.style === PLAIN ? document.createTextNode(run.text) : coloured(run);
        block.append(run.node);
      } else if (run.more) {
        (run.style === PLAIN ? run.node : run.node.firstChild).appendData(run.more);
      }
      run.more = "";
    }
  }

  #append(text, style) {
    const last = this.#runs.at(-1);
    if (last?.style.key === style.key) {
      last.text += text;
      last.more += text;
    } else this.#runs.push({ style, text, more: "" });
  }

  #overwrite(text, style) {
    const cells = this.#cells();
    let place = this.cursor;
    for (const character of text) cells[place++] = [character, style];
    this.#rebuild(cells);
  }

  #cells() {
    return this.#runs.flatMap(({ text, style }) => Array.from(text, (character) => [character, style]));
  }

  #rebuild(cells) {
    for (const { node } of this.#runs) node?.remove();
    this.#runs = [];
    for (const [character, style] of cells) this.#append(character, style);
    this.#length = cells.length;
  }
}

function lengthOf(text) {
  let length = 0;
  for (const _ of text) length += 1;
  return length;
}

// Styles: frozen, and equal if their keys are.

/** The style after a sequence of codes. */
function styled(style, codes) {
  const next = { ...style };
  const numbers = codes.split(";").map(Number);
  for (let index = 0; index < numbers.length; index += 1) {
    const code = numbers[index];
    if (code === 0) for (const name of Object.keys(next)) delete next[name];
    else if (code === 1) next.bold = true;
    else if (code === 2) next.faint = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 22) next.bold = next.faint = false;
    else if (code === 23) next.italic = false;
    else if (code === 24) next.underline = false;
    else if (code === 27) next.inverse = false;
    else if (code === 38 || code === 48) {
      const ground = code === 38 ? "fg" : "bg";
      if (numbers[index + 1] === 5) next[ground] = ofTable(numbers[index + 2]);
      else next[ground] = rgb(numbers.slice(index + 2, index + 5));
      index += numbers[index + 1] === 5 ? 2 : 4;
    } else if (code === 39) next.fg = undefined;
    else if (code === 49) next.bg = undefined;
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) next.fg = (code % 10) + (code >= 90 ? 8 : 0);
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) next.bg = (code % 10) + (code >= 100 ? 8 : 0);
  }
  return keyed(next);
}

function keyed(style) {
  delete style.key;
  const key = Object.keys(style)
    .filter((name) => style[name] || style[name] === 0)
    .sort()
    .map((name) => `${name}=${style[name]}`)
    .join(" ");
  return key === "" ? PLAIN : Object.freeze({ ...style, key });
}

/** A colour of the 256: a number below 16, or what xterm shows. */
function ofTable(number) {
  if (!(number < 256)) return undefined;
  if (number < 16) return number;
  if (number >= 232) return rgb([8, 8, 8].map((base) => base + (number - 232) * 10));
  const steps = [Math.floor((number - 16) / 36), Math.floor((number - 16) / 6) % 6, (number - 16) % 6];
  return rgb(steps.map((step) => (step === 0 ? 0 : 55 + step * 40)));
}

function rgb(parts) {
  if (parts.length !== 3 || !parts.every((part) => part >= 0 && part < 256)) return undefined;
  return `rgb(${parts.join(", ")})`;
}

function coloured({ style, text }) {
  const element = document.createElement("span");
  element.textContent = text;
  for (const name of ["bold", "faint", "italic", "underline"]) element.classList.toggle(`ansi-${name}`, Boolean(style[name]));
  const [fg, bg] = style.inverse ? [style.bg, style.fg] : [style.fg, style.bg];
  if (style.inverse) element.classList.add("ansi-inverse");
  paint(element, "fg", fg);
  paint(element, "bg", bg);
  if (typeof bg === "string" && fg === undefined) element.classList.add(isLight(bg) ? "ansi-on-light" : "ansi-on-dark");
  return element;
}

function paint(element, ground, colour) {
  if (typeof colour === "number") element.classList.add(`ansi-${ground}-${colour}`);
  else if (colour !== undefined) {
    element.classList.add(`ansi-${ground}`);
    element.style.setProperty(`--ansi-${ground}`, colour);
  }
}

function isLight(colour) {
  const [red, green, blue] = colour.match(/\d+/g).map(Number);
  return red * 0.299 + green * 0.587 + blue * 0.114 > 140;
}
