/*
 * The statistics page. The server renders everything; this draws the charts, keeps the numbers of this moment
 * up to date, and takes over a new rendering when the server says that something was counted.
 */
import { inertDocument } from "../page/trusted.js";
import { draw, repaint } from "./charts.js";
import { Live } from "./live.js";
import { element } from "./plain.js";
import { inWords, moment } from "./words.js";

const REFRESH = 5_000; // ms at least between two renderings
const MINUTE = 60_000; // then also without news: time goes on
const TRACE = 120; // samples of a pool that are drawn, a second apart

const page = document.querySelector("[data-statistics]");

const read = (root, id) => JSON.parse(root.getElementById(id)?.textContent ?? "null");

function show(root = document) {
  const data = read(root, "stats-drawn");
  for (const place of page.querySelectorAll("[data-chart]")) {
    const chart = data?.charts[place.dataset.chart];
    if (chart) draw(place, chart, data.starts);
  }
  for (const time of page.querySelectorAll("time")) time.textContent = moment(time.dateTime);
}

// A new rendering

let refreshed = performance.now();
let counted = null;
let refreshing = false;
const stale = page?.querySelector("[data-stale]");

async function refresh(live) {
  refreshing = true;
  try {
    const response = await fetch(location.href, { redirect: "manual", cache: "no-store" });
    // To the sign-in page.
    if (response.type === "opaqueredirect" || response.status === 403) return live.refuse();
    stale.hidden = response.status < 500;
    if (!response.ok) return;
    const fresh = inertDocument(await response.text());
    if (outline(fresh) !== outline(page)) return location.reload();
    for (const part of page.querySelectorAll("[data-swap]")) swap(part, fresh);
    show(fresh);
  } catch {
    // The next news brings the next try.
  } finally {
    refreshed = performance.now();
    refreshing = false;
  }
}

/** Which parts there are: some come with the first task, or the first refusal. */
const outline = (root) => Array.from(root.querySelectorAll("[data-chart], [data-empty]"), ({ dataset }) => dataset.chart).join();

/** Nothing is taken away under somebody's finger: a part that has the focus stays as it is. */
function swap(part, fresh) {
  const other = fresh.querySelector(`[data-swap="${part.dataset.swap}"]`);
  if (other === null || part.querySelector(":focus") !== null || part.innerHTML === other.innerHTML) return;
  part.replaceChildren(...other.childNodes);
}

// The numbers of this moment

const traces = new Map();

function tell(numbers) {
  for (const place of page.querySelectorAll("[data-now]")) {
    const text = inWords(place.dataset.unit ?? "count", valueAt(numbers, place.dataset.now));
    if (place.textContent !== text) place.textContent = text;
  }
  for (const meter of page.querySelectorAll("[data-meter]")) meter.value = valueAt(numbers, meter.dataset.meter) ?? 0;
}

/** Names of pools and classes may have dots of their own: the longest name that is there wins. */
function valueAt(values, path) {
  if (values === null || values === undefined || path === "") return values;
  const names = Object.keys(values).filter((name) => path === name || path.startsWith(`${name}.`));
  const name = names.sort((one, other) => other.length - one.length)[0];
  return name === undefined ? null : valueAt(values[name], path.slice(name.length + 1));
}

/** One more sample of each pool, each second: also when nothing has changed. */
function trace(numbers) {
  for (const place of page.querySelectorAll("[data-trace]")) {
    const pool = numbers.pools[place.dataset.trace];
    if (!pool) continue;
    const samples = traces.get(place) ?? [];
    samples.push([Date.now() / 1000, pool.running, pool.waiting]);
    traces.set(place, samples.slice(-TRACE));
    const name = [place.dataset.running, place.dataset.waiting];
    const series = name.map((words, at) => ({
      name: words,
      colour: ["#2a86b8", "#d08700"][at],
      values: traces.get(place).map((sample) => sample[at + 1]),
    }));
    sparkline(place, series);
  }
}

function sparkline(place, series) {
  const largest = Math.max(...series.flatMap(({ values }) => values), 4);
  const thin = { fill: "none", "vector-effect": "non-scaling-stroke" };
  const picture = element("svg", { viewBox: "0 0 119 54", preserveAspectRatio: "none", width: "100%", height: "100%" });
  picture.append(element("line", { ...thin, x1: 0, x2: 119, y1: 51, y2: 51, stroke: "currentColor", "stroke-opacity": 0.25 }));
  for (const { colour, values } of series) {
    const first = TRACE - values.length;
    const points = values.map((value, at) => `${first + at},${50 - (value / largest) * 46}`).join(" ");
    picture.append(element("polyline", { ...thin, points, stroke: colour, "stroke-width": 2, "stroke-linejoin": "round" }));
  }
  place.replaceChildren(picture);
}

function watch() {
  const live = new Live(page.dataset.live);
  const state = page.querySelector("[data-connection]");
  const signIn = page.querySelector("[data-sign-in]");
  const button = page.querySelector("[data-pause]");
  let newest = read(document, "stats-now");
  let wanted = true;

  if (newest !== null) tell(newest);
  live.addEventListener("numbers", ({ detail }) => {
    newest = detail;
    tell(detail);
  });
  live.addEventListener("state", ({ detail }) => {
    if (state.dataset.state === detail.state) return;
    state.dataset.state = detail.state;
    state.textContent = state.dataset[`words${detail.state[0].toUpperCase()}${detail.state.slice(1)}`];
    button.hidden = detail.state === "refused";
    signIn.hidden = !button.hidden;
  });

  button.addEventListener("click", () => {
    wanted = !wanted;
    button.textContent = wanted ? button.dataset.wordsStop : button.dataset.wordsGo;
    if (wanted) live.go();
    else live.stop();
  });
  // Nobody looks at a page that is hidden.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && wanted) live.go();
    else if (live.running) live.stop();
  });
  addEventListener("pagehide", () => live.running && live.stop());

  setInterval(() => {
    if (!live.running || newest === null || state.dataset.state !== "live") return;
    trace(newest);
    const passed = performance.now() - refreshed;
    const news = (counted !== newest.counted || !stale.hidden) && passed > REFRESH;
    if (!refreshing && (news || passed > MINUTE)) {
      counted = newest.counted;
      refresh(live);
    }
  }, 1000);

  counted = newest?.counted ?? null;
  live.go();
}

if (page !== null) {
  show();
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["class", "data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  watch();
}
