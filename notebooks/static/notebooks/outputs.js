/* What a cell said: text as a terminal shows it, images, tables, errors. Foreign HTML only in a frame without scripts. */
import { Terminal } from "./ansi.js";
import { frame } from "./frame.js";

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const TEXTS = ["text/markdown", "text/latex", "text/plain"];

export class Outputs {
  #last = null; // the terminal that takes more of the same channel
  #clearNext = false;
  #late = null; // the element of what came after the cell's end
  #follows = true; // the reader is at the end, and stays there
  #top = 0; // where the reader is
  #pending = false;

  constructor(element) {
    this.element = element;
    element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
  }

  get empty() {
    return this.element.childElementCount === 0;
  }

  clear() {
    this.element.replaceChildren();
    this.#last = null;
    this.#late = null;
    this.#clearNext = false;
    this.#follows = true;
    this.#top = 0;
    this.#settle();
  }

  /** Until `release`, the area does not become smaller: what is below stays where it is. */
  hold() {
    this.element.style.minHeight = `${this.element.offsetHeight}px`;
    this.element.classList.toggle("held", !this.empty);
  }

  release() {
    this.element.style.minHeight = "";
    this.element.classList.remove("held");
    this.#settle();
  }

  text(channel, delta) {
    this.#makeRoom();
    if (this.#last?.channel !== channel) {
      const block = document.createElement("pre");
      block.className = `text ${channel === "stderr" ? "stderr" : "stdout"}`;
      block.dir = "auto";
      this.#add(block);
      this.#last = { channel, terminal: new Terminal(block) };
    }
    this.#last.terminal.write(delta);
    this.#settle();
  }

  /** An `output` event, or an output of the record (nbformat). */
  output(values) {
    switch (values.output_type) {
      case "stream":
        return this.text(values.name, asText(values.text));
      case "error":
        return this.#error(values);
      case "clear_output":
        if (values.wait) this.#clearNext = true;
        else this.clear();
        return undefined;
      case "update_display_data":
        return this.#update(values);
      default:
        this.#makeRoom();
        return this.#add(this.#shown(values));
    }
  }

  notice(sentence) {
    this.#makeRoom();
    const block = document.createElement("p");
    block.className = "remark";
    block.textContent = sentence;
    this.#add(block);
  }

  /** What came after the cell's end, all of it; in place of what was shown as that. */
  late(outputs) {
    this.#late?.remove();
    this.#late = null;
    if (outputs.length === 0) return;
    const label = document.createElement("span");
    label.className = "label";
    label.textContent = gettext("late");
    label.title = gettext("Said after the cell had ended");
    const inner = document.createElement("div");
    const section = document.createElement("div");
    section.className = "late";
    section.append(label, inner);
    this.#add(section);
    this.#late = section;
    const shown = new Outputs(inner);
    for (const output of outputs) shown.output(output);
  }

  #shown(values) {
    const element = document.createElement("div");
    element.className = "rich";
    element.append(shownAs(values.data ?? {}, values.metadata ?? {}));
    if (values.display_id) element.dataset.display = values.display_id;
    return element;
  }

  /** What is shown under that id, in whichever cell. */
  #update(values) {
    for (const element of document.querySelectorAll(".rich[data-display]")) {
      if (element.dataset.display === values.display_id) element.replaceWith(this.#shown(values));
    }
  }

  #error({ ename, evalue, traceback }) {
    this.#makeRoom();
    const block = document.createElement("pre");
    block.className = "text traceback";
    new Terminal(block).write(traceback?.length ? asText(traceback, "\n") : `${ename}: ${evalue}`);
    this.#add(block);
  }

  #add(element) {
    this.#last = null;
    this.element.append(element);
    this.#settle();
  }

  #makeRoom() {
    if (this.#clearNext) this.clear();
  }

  /** Who goes up stays there; that there is more below than before is no movement. */
  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.element;
    if (scrollTop + clientHeight >= scrollHeight - 8) this.#follows = true;
    else if (scrollTop < this.#top) this.#follows = false;
    this.#top = scrollTop;
  }

  /** Once a frame, as looking at sizes costs. What scrolls can be reached with the keyboard. */
  #settle() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      const { element } = this;
      if (this.#follows) element.scrollTop = element.scrollHeight;
      const scrolls = element.scrollHeight > element.clientHeight + 1 && element.classList.contains("outputs");
      element.toggleAttribute("tabindex", scrolls);
      if (scrolls) element.tabIndex = 0;
    });
  }
}

/** The richest form of a MIME bundle that is safe to show. */
function shownAs(data, metadata) {
  const description = data["text/plain"] === undefined ? gettext("Picture") : asText(data["text/plain"]);
  const kind = IMAGES.find((each) => typeof data[each] === "string" && data[each] !== "");
  if (data["text/html"] !== undefined) {
    return frame(asText(data["text/html"]), () => text(data));
  }
  if (kind) return image(`data:${kind};base64,${data[kind].replace(/\s/g, "")}`, description, metadata[kind]);
  if (data["image/svg+xml"]) {
    // As an image it runs nothing and loads nothing.
    return image(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(asText(data["image/svg+xml"]))}`, description);
  }
  return text(data);
}

function text(data) {
  const kind = TEXTS.find((each) => data[each] !== undefined);
  const words = document.createElement(kind ? "pre" : "p");
  if (kind) {
    words.className = "text result";
    words.dir = "auto";
    new Terminal(words).write(asText(data[kind]));
  } else if (data["application/json"] !== undefined) {
    const block = document.createElement("pre");
    block.className = "text result";
    block.textContent = JSON.stringify(data["application/json"], null, 2);
    return block;
  } else {
    words.className = "remark";
    words.textContent = interpolate(gettext("Not shown here: %s"), [Object.keys(data).join(", ") || "?"]);
  }
  return words;
}

/** Some senders give a text in lines, and some what is no text. */
function asText(value, between = "") {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map((each) => asText(each)).join(between);
  return JSON.stringify(value) ?? "";
}

function image(source, description, size) {
  const shown = document.createElement("img");
  shown.alt = description;
  // Known before it is decoded, so that nothing jumps.
  const [width, height] = size?.width && size?.height ? [size.width, size.height] : sizeOfPng(source);
  if (width && height) {
    shown.width = width;
    shown.height = height;
  }
  shown.src = source;
  return shown;
}

/** Width and height from the header of a PNG (its IHDR chunk); nothing of anything else. */
function sizeOfPng(source) {
  const start = "data:image/png;base64,";
  if (!source.startsWith(start)) return [];
  try {
    const bytes = Uint8Array.from(atob(source.slice(start.length, start.length + 32)), (each) => each.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return [view.getUint32(16), view.getUint32(20)];
  } catch {
    return [];
  }
}
