/* Numbers and moments of the statistics, in the reader's language and time zone. */
import { duration, number } from "../page/format.js";

const language = document.documentElement.lang || "en";
const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
const few = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });
const time = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat(language, { month: "short", day: "numeric" });
const whole = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "short" });
const DAY = 86_400_000;

/** By the unit's name, as the server names them. */
export const units = {
  count: number,
  duration,
  share: (value) => percent.format(value),
  decimal: (value) => (value < 100 ? few.format(value) : number(value)),
};

/** `value` in words of its unit, a dash for none. */
export const inWords = (unit, value) => (value === null || value === undefined ? "-" : units[unit](value));

/** A moment at an axis that spans so many milliseconds: a time of day, or a date. */
export const atAxis = (moment, span) => (span > 2 * DAY ? date : time).format(new Date(moment));

/** `atAxis` for round moments of the reader's zone, nothing for those between; fewer where it is `narrow`. */
export function tick(moment, span, narrow) {
  const at = new Date(moment);
  const minutes = at.getHours() * 60 + at.getMinutes();
  let round;
  if (span > 2 * DAY) round = minutes < 60 && (!narrow || at.getDate() % 2 === 0);
  else if (span > DAY / 4) round = minutes % (narrow ? 480 : 240) === 0;
  else round = minutes % (narrow ? 20 : 10) === 0;
  return round ? atAxis(moment, span) : null;
}

export const moment = (at) => whole.format(new Date(at));
