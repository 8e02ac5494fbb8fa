/* What a cell said: text as a terminal shows it, images, tables, errors. Foreign HTML only in a frame without scripts. */
import { Terminal } from "./ansi.js";

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];

export class Outputs {
  #last = null; // the terminal that takes more of the same channel
  #displays = new Map(); // elements by display id
  #clearNext = false;

  constructor(element) {
    this.element = element;
  }

  get empty() {
    return this.element.childElementCount === 0;
  }

  clear() {
    this.element.replaceChildren();
    this.#last = null;
    this.#displays.clear();
    this.#clearNext = false;
  }

  text(channel, delta) {
    this.#makeRoom();
    if (this.#last?.channel !== channel) {
      const block = document.createElement("pre");
      block.className = `text ${channel}`;
      block.dir = "auto";
      this.#add(block);
      this.#last = { channel, terminal: new Terminal(block) };
    }
    this.#last.terminal.write(delta);
  }

  /** An `output` event, or an output of the record (nbformat). */
  output(values) {
    switch (values.output_type) {
      case "stream":
        return this.text(values.name, values.text);
      case "error":
        return this.#error(values);
      case "clear_output":
        if (values.wait) this.#clearNext = true;
        else this.clear();
        return undefined;
      case "update_display_data":
        return this.#displays.get(values.display_id)?.replaceWith(this.#shown(values));
      default:
        this.#makeRoom();
        return this.#add(this.#shown(values));
    }
  }

  notice(sentence) {
    this.#makeRoom();
    const block = document.createElement("p");
    block.className = "notice small";
    block.textContent = sentence;
    this.#add(block);
  }

  #shown(values) {
    const element = document.createElement("div");
    element.className = "rich";
    element.append(shownAs(values.data ?? {}));
    if (values.display_id) this.#displays.set(values.display_id, element);
    return element;
  }

  #error({ ename, evalue, traceback }) {
    this.#makeRoom();
    const block = document.createElement("pre");
    block.className = "text traceback";
    block.setAttribute("role", "alert");
    new Terminal(block).write(traceback?.length ? traceback.join("\n") : `${ename}: ${evalue}`);
    this.#add(block);
  }

  #add(element) {
    this.#last = null;
    this.element.append(element);
  }

  #makeRoom() {
    if (this.#clearNext) this.clear();
  }
}

/** The richest form of a MIME bundle that is safe to show. */
function shownAs(data) {
  if (data["text/html"] !== undefined) return frame(data["text/html"]);
  for (const kind of IMAGES) {
    if (data[kind]) return image(`data:${kind};base64,${data[kind].replace(/\s/g, "")}`, data["text/plain"]);
  }
  if (data["image/svg+xml"]) {
    // As an image it runs nothing and loads nothing.
    return image(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(data["image/svg+xml"])}`, data["text/plain"]);
  }
  const block = document.createElement("pre");
  block.className = "text result";
  block.dir = "auto";
  const json = data["application/json"];
  new Terminal(block).write(data["text/plain"] ?? (json === undefined ? Object.keys(data).join(", ") : JSON.stringify(json, null, 2)));
  return block;
}

function image(source, description) {
  const shown = document.createElement("img");
  shown.src = source;
  shown.alt = description ?? "";
  return shown;
}

/** A document of its own without scripts, forms, or anything from the network. */
function frame(html) {
  const shown = document.createElement("iframe");
  shown.setAttribute("sandbox", "allow-same-origin"); // so that its height can be measured; scripts stay off
  shown.title = gettext("Output");
  shown.srcdoc = `<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>${FRAME_STYLE}</style><body>${html}`;
  shown.addEventListener("load", () => {
    const body = shown.contentDocument?.body;
    if (body) shown.style.height = `${Math.min(body.offsetHeight + 12, 600)}px`;
  });
  return shown;
}

const FRAME_STYLE = `:root { color-scheme: light; font: 14px/1.45 system-ui, sans-serif; background: #fff; color: #12222b; }
body { margin: 4px; overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3rem .6rem; text-align: right; border: 0; border-bottom: 1px solid #d8e1e6; } thead th { border-bottom: 2px solid #9bb0bb; }
img { max-width: 100%; }`;
