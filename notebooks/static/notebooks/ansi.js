/*
 * What a terminal would show of a text: colours (SGR of ECMA-48), carriage return and backspace. Everything
 * becomes text nodes and classes; nothing in it is markup.
 */
const SGR = /\x1b\[([0-9;]*)m/;
// Other escape sequences: CSI, OSC, and single ones. They are dropped.
const OTHER = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

export class Terminal {
  #line = null; // the last line's element
  #column = []; // its characters, each with its style
  #cursor = 0;
  #style = "";
  #rest = ""; // an escape sequence that is not complete yet

  constructor(element) {
    this.element = element;
  }

  write(text) {
    const whole = this.#rest + text;
    // A sequence may be cut between two events.
    const cut = whole.search(/\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,200})?$/);
    this.#rest = cut < 0 ? "" : whole.slice(cut);
    const parts = (cut < 0 ? whole : whole.slice(0, cut)).split(SGR);
    parts.forEach((part, index) => {
      if (index % 2) this.#style = styled(this.#style, part);
      else this.#print(part.replace(OTHER, ""));
    });
    this.#draw();
  }

  #print(text) {
    const pieces = text.split(/(\r\n|[\n\r\b])/);
    for (const piece of pieces) {
      if (piece === "\n" || piece === "\r\n") this.#newLine();
      else if (piece === "\r") this.#cursor = 0;
      else if (piece === "\b") this.#cursor = Math.max(0, this.#cursor - 1);
      else if (piece) this.#put(piece);
    }
  }

  #put(text) {
    for (const character of text) this.#column[this.#cursor++] = [character, this.#style];
  }

  #newLine() {
    this.#draw();
    this.#line?.append("\n");
    this.#line = null;
    this.#column = [];
    this.#cursor = 0;
  }

  /** The last line anew: only it can change. */
  #draw() {
    if (!this.#line) {
      this.#line = document.createElement("span");
      this.element.append(this.#line);
    }
    const runs = [];
    for (const [character, style] of this.#column) {
      if (runs.at(-1)?.style === style) runs.at(-1).text += character;
      else runs.push({ style, text: character });
    }
    this.#line.replaceChildren(
      ...runs.map(({ style, text }) => {
        if (!style) return document.createTextNode(text);
        return Object.assign(document.createElement("span"), { className: style, textContent: text });
      }),
    );
  }
}

/** The classes after a sequence of codes; 256 colours and RGB are taken for what is nearest: none. */
function styled(style, codes) {
  const classes = new Set(style.split(" ").filter(Boolean));
  const numbers = codes.split(";").map(Number);
  for (let index = 0; index < numbers.length; index += 1) {
    const code = numbers[index];
    if (code === 0) classes.clear();
    else if (code === 1) classes.add("ansi-bold");
    else if (code === 3) classes.add("ansi-italic");
    else if (code === 4) classes.add("ansi-underline");
    else if (code === 22) classes.delete("ansi-bold");
    else if (code === 23) classes.delete("ansi-italic");
    else if (code === 24) classes.delete("ansi-underline");
    else if (code === 38 || code === 48) {
      const kind = numbers[index + 1];
      if (kind === 5 && numbers[index + 2] < 16) colour(classes, code === 38 ? "fg" : "bg", numbers[index + 2]);
      index += kind === 5 ? 2 : 4;
    } else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) colour(classes, "fg", code % 10 + (code >= 90 ? 8 : 0));
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) colour(classes, "bg", code % 10 + (code >= 100 ? 8 : 0));
    else if (code === 39) drop(classes, "fg");
    else if (code === 49) drop(classes, "bg");
  }
  return [...classes].join(" ");
}

function colour(classes, ground, number) {
  drop(classes, ground);
  classes.add(`ansi-${ground}-${number}`);
}

function drop(classes, ground) {
  for (const name of [...classes]) if (name.startsWith(`ansi-${ground}-`)) classes.delete(name);
}
