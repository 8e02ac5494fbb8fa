/*
 * Charts of the statistics: with Chart.js where the admin's theme brings it, else drawn plainly.
 *
 * A chart is {shape: "bars" | "lines", unit, series: [{name, colour, values}]}, its buckets begin at `starts`
 * (seconds since the epoch). Bars are stacked; null is a gap.
 */
import { plain } from "./plain.js";
import { moment, tick, units } from "./words.js";

const DASHES = [[], [6, 3], [2, 3]]; // lines can be told apart without their colours

const NARROW = 420; // px; fewer moments at the axis

const drawn = new Map();

/** Draw the chart into `place`, or change what was drawn there. */
export function draw(place, chart, starts) {
  if (!globalThis.Chart) return plain(place, chart, starts);
  const known = drawn.get(place);
  if (known !== undefined) return renew(known, chart, starts);
  const canvas = document.createElement("canvas");
  place.replaceChildren(canvas);
  const made = new globalThis.Chart(canvas, { type: chart.shape === "bars" ? "bar" : "line", data: {}, options: {} });
  drawn.set(place, made);
  renew(made, chart, starts);
}

/** After the theme has changed. */
export function repaint() {
  for (const made of drawn.values()) {
    paint(made.options);
    made.update("none");
  }
}

function renew(made, chart, starts) {
  made.data.labels = starts.map((start) => start * 1000);
  made.data.datasets = chart.series.map((series, number) => dataset(series, number, chart.shape));
  made.options = options(chart, starts, made.width < NARROW);
  made.update("none");
}

function dataset({ name, colour, values }, number, shape) {
  const shared = { label: name, data: values, borderColor: colour, backgroundColor: colour };
  if (shape === "bars") return { ...shared, stack: "all", categoryPercentage: 0.9, barPercentage: 1 };
  const lonely = values.map((value, at) => (values[at - 1] ?? values[at + 1] ?? null) === null);
  return { ...shared, borderWidth: 2, borderDash: DASHES[number], pointRadius: lonely.map((is) => (is ? 2.5 : 0)), pointHitRadius: 8, tension: 0.25 };
}

function options(chart, starts, narrow) {
  const bars = chart.shape === "bars";
  const span = (starts.at(-1) - starts[0]) * 1000;
  const inWords = units[chart.unit];
  const made = {
    animation: false,
    maintainAspectRatio: false,
    interaction: { mode: "index", intersect: false },
    plugins: {
      legend: { position: "bottom", align: "start", labels: { boxHeight: 8, boxWidth: bars ? 8 : 24, usePointStyle: true, pointStyle: bars ? "rectRounded" : "line" } },
      tooltip: {
        callbacks: {
          title: ([item]) => moment(item.label * 1),
          label: ({ dataset: { label }, raw }) => `${label}: ${raw === null ? "-" : inWords(raw)}`,
        },
      },
    },
    scales: {
      x: {
        stacked: bars,
        grid: { display: false },
        ticks: { autoSkip: false, maxRotation: 0, callback: (_, at) => tick(starts[at] * 1000, span, narrow) },
      },
      y: {
        stacked: bars,
        beginAtZero: true,
        max: chart.unit === "share" ? 1 : undefined,
        suggestedMax: chart.unit === "count" ? 4 : undefined,
        border: { display: false },
        grid: {},
        ticks: { maxTicksLimit: 5, precision: chart.unit === "count" ? 0 : undefined, callback: (value) => inWords(value) },
      },
    },
  };
  return paint(made);
}

/** In the colours of the page's text. */
function paint(made) {
  const { color, fontFamily } = getComputedStyle(document.querySelector("[data-statistics]"));
  const faint = `color-mix(in srgb, ${color} 12%, transparent)`;
  globalThis.Chart.defaults.font.family = fontFamily;
  made.color = color;
  if (made.plugins?.legend?.labels) made.plugins.legend.labels.color = color;
  for (const scale of Object.values(made.scales ?? {})) {
    if (scale.ticks) scale.ticks.color = color;
    if (scale.grid) scale.grid.color = faint;
  }
  return made;
}
