/* Numbers and times for people. */
const language = document.documentElement.lang || "en";
const whole = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const date = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "short" });

export const number = (value) => whole.format(value);
export const decimal = (value) => (value < 100 ? fine : whole).format(value);
export const moment = (text) => date.format(new Date(text));

/** Milliseconds as `0.4 ms`, `350 ms`, `2.4 s`, `3 min 5 s`. */
export function duration(milliseconds) {
  if (milliseconds < 10) return `${fine.format(milliseconds)} ms`;
  if (milliseconds < 1000) return `${whole.format(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${fine.format(milliseconds / 1000)} s`;
  const seconds = Math.round(milliseconds / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** `text` with each {name} replaced by the value of that name. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
