/* The events of a stream over time: a bar for each text event (its height is its length), a dot for the rest. */
const HEIGHT = 84;
const REDRAW = 100; // ms between two drawings
const MAX_MARKS = 4_000; // more than there are pixels
const LANES = { status: 12, complete: 12, error: 12, cancelled: 12, other: 26 };

export class Timeline {
  #marks = []; // {at, kind, size}
  #timer = null;
  #last = 0;

  constructor(canvas) {
    this.canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    addEventListener("themechange", () => this.#draw());
  }

  clear() {
    this.#marks = [];
    this.#last = 0;
    this.#draw();
  }

  add(at, kind, size) {
    this.#marks.push({ at, kind, size });
    if (this.#marks.length > MAX_MARKS) this.#thin();
    this.#last = at;
    this.#timer ??= setTimeout(() => this.#draw(), REDRAW);
  }

  /** Text events that would share a pixel become one. */
  #thin() {
    const step = this.#last / (MAX_MARKS / 4);
    const kept = [];
    for (const mark of this.#marks) {
      const before = kept.at(-1);
      const joins = before?.kind === "content" && mark.kind === "content" && mark.at - before.at < step;
      if (joins) before.size = Math.max(before.size, mark.size);
      else kept.push(mark);
    }
    this.#marks = kept;
  }

  #draw() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const width = this.canvas.clientWidth;
    const scale = devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = HEIGHT * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const colours = this.#colours();
    const span = Math.max(this.#last, 1_000);
    const x = (at) => 6 + (at / span) * (width - 12);
    this.#axis(pen, colours, span, x);
    const largest = Math.max(20, ...this.#marks.slice(-5_000).map((mark) => mark.size));
    for (const { at, kind, size } of this.#marks) {
      pen.fillStyle = colours[kind];
      if (kind === "content") {
        const height = 4 + (size / largest) * 36;
        pen.fillRect(x(at) - 1, HEIGHT - 18 - height, 2, height);
      } else {
        pen.beginPath();
        pen.arc(x(at), LANES[kind], 3.5, 0, 2 * Math.PI);
        pen.fill();
      }
    }
  }

  #axis(pen, colours, span, x) {
    pen.strokeStyle = pen.fillStyle = colours.axis;
    pen.font = "11px system-ui, sans-serif";
    pen.beginPath();
    pen.moveTo(0, HEIGHT - 17.5);
    pen.lineTo(this.canvas.clientWidth, HEIGHT - 17.5);
    pen.stroke();
    const step = niceStep(span / 4);
    for (let at = 0; at <= span; at += step) {
      pen.textAlign = at === 0 ? "left" : x(at) > this.canvas.clientWidth - 24 ? "right" : "center";
      pen.fillText(`${Number((at / 1000).toFixed(1))} s`, x(at), HEIGHT - 4);
    }
  }

  #colours() {
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      content: colour("accent"),
      status: colour("warm"),
      complete: colour("good"),
      error: colour("bad"),
      cancelled: colour("muted"),
      other: colour("muted"),
      axis: colour("muted"),
    };
  }
}

/** The smallest of 1, 2, 5 × 10ⁿ that is not below `least`. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}
