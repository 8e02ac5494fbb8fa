/* Charts without a library: stacked bars or lines, the largest value and the ends of the time axis in words. */
import { atAxis, units } from "./words.js";

const HEIGHT = 180;
const MARGIN = 16; // px of the section around it
const SVG = "http://www.w3.org/2000/svg";

/** See `charts.draw`. */
export function plain(place, { shape, unit, series }, starts) {
  const sums = starts.map((_, at) => series.reduce((sum, { values }) => sum + (values[at] ?? 0), 0));
  const all = shape === "bars" ? sums : series.flatMap(({ values }) => values.map((value) => value ?? 0));
  const largest = Math.max(...all, 0) || 1;
  // As wide as there is room, so that words keep their size; an empty place has no width of its own.
  const width = Math.max(place.parentElement.clientWidth - 2 * MARGIN, 200);
  const picture = element("svg", { viewBox: `0 -16 ${width} ${HEIGHT + 32}`, "aria-hidden": "true" });
  picture.append(element("line", { x1: 0, x2: width, y1: HEIGHT, y2: HEIGHT, stroke: "currentColor", "stroke-opacity": 0.3 }));
  const below = starts.map(() => 0);
  for (const { colour, values } of series) {
    if (shape === "bars") picture.append(...bars(values, colour, below, largest, width));
    else picture.append(...lines(values, colour, largest, width));
  }
  const span = (starts.at(-1) - starts[0]) * 1000;
  picture.append(label(0, -4, units[unit](largest)), label(0, HEIGHT + 14, atAxis(starts[0] * 1000, span)));
  picture.append(label(width, HEIGHT + 14, atAxis(starts.at(-1) * 1000, span), "end"));
  place.replaceChildren(picture, key(series));
}

function bars(values, colour, below, largest, width) {
  const step = width / values.length;
  return values.flatMap((value, at) => {
    if (!value) return [];
    const height = (value / largest) * HEIGHT;
    below[at] += height;
    return [element("rect", { x: at * step, y: HEIGHT - below[at], width: Math.max(step - 1, 1), height, fill: colour })];
  });
}

function lines(values, colour, largest, width) {
  const step = width / Math.max(values.length - 1, 1);
  const pieces = [[]];
  values.forEach((value, at) => {
    if (value === null) pieces.push([]);
    else pieces.at(-1).push([at * step, HEIGHT - (value / largest) * HEIGHT]);
  });
  return pieces.filter((points) => points.length > 0).map((points) => {
    if (points.length === 1) return element("circle", { cx: points[0][0], cy: points[0][1], r: 2.5, fill: colour });
    return element("polyline", { points: points.join(" "), fill: "none", stroke: colour, "stroke-width": 2 });
  });
}

function key(series) {
  const list = document.createElement("div");
  list.className = "stats-key";
  for (const { name, colour } of series) {
    const item = document.createElement("span");
    const dot = element("svg", { width: 10, height: 10, "aria-hidden": "true" });
    dot.append(element("rect", { width: 10, height: 10, rx: 2, fill: colour }));
    dot.style.cssText = "display: inline; height: 10px; width: 10px";
    item.append(dot, ` ${name}`);
    list.append(item);
  }
  return list;
}

function label(x, y, text, anchor = "start") {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

/** An element of a picture (SVG). */
export function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
