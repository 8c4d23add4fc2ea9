// Numbers as text: with unit, a real minus sign, and only significant digits.

export const NONE = "–";
const MINUS = "\u2212";
const THIN = "\u202f";

// The number of decimals that shows three significant digits of the largest value.
export function decimals(values) {
  const largest = Math.max(0, ...values.filter((value) => value !== null).map(Math.abs));
  if (largest >= 100 || largest === 0) return 0;
  if (largest >= 10) return 1;
  if (largest >= 1) return 2;
  if (largest >= 0.1) return 3;
  return 4;
}

// Creating a formatter costs a hundred times more than using it, and a page has thousands of numbers.
const formatters = new Map();
function formatter(digits) {
  if (!formatters.has(digits)) {
    const exactly = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    formatters.set(digits, new Intl.NumberFormat("en", exactly));
  }
  return formatters.get(digits);
}

export function number(value, digits, signed = false) {
  if (value === null || value === undefined) return NONE;
  const text = formatter(digits).format(Math.abs(value));
  const zero = Number(text.replaceAll(",", "")) === 0;
  return `${value < 0 && !zero ? MINUS : signed && !zero ? "+" : ""}${text}`;
}

// The number of decimals that distinguishes the ticks of an axis. `scale`: to the unit in which they are shown.
export function tickDecimals(ticks, scale = 1) {
  const known = ticks.filter((tick) => tick !== null);
  const step = Math.abs(known.length > 1 ? known[1] - known[0] : (known[0] ?? 1)) * scale;
  for (let digits = 0; digits < 8; digits += 1) {
    const shown = step * 10 ** digits;
    if (Math.abs(shown - Math.round(shown)) < 1e-6 * Math.max(1, shown)) return digits;
  }
  return 8;
}

export const count = (value) => number(value, 0);

// A fraction in percent. `digits`: decimals of the percentage.
export function percent(value, digits, signed = false) {
  if (value === null || value === undefined) return NONE;
  return `${number(100 * value, digits ?? decimals([100 * value]), signed)}${THIN}%`;
}

// A reward: in percent if it is a relative decrement.
export function reward(value, relative, digits, signed = true) {
  if (relative) return percent(value, digits, signed);
  return number(value, digits ?? decimals([value]), signed);
}

// A loss or a metric: four significant digits.
export function measure(value) {
  if (value === null || value === undefined) return NONE;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    return value.toExponential(2).replaceAll("-", MINUS);
  }
  return number(value, value === 0 ? 0 : Math.min(4, decimals([value]) + 1));
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const s = Math.max(0, seconds);
  if (s < 10) return `${number(s, 1)}${THIN}s`;
  if (s < 120) return `${number(s, 0)}${THIN}s`;
  if (s < 7200) return `${number(s / 60, s < 600 ? 1 : 0)}${THIN}min`;
  if (s < 172800) return `${number(s / 3600, s < 36000 ? 1 : 0)}${THIN}h`;
  return `${number(s / 86400, s < 864000 ? 1 : 0)}${THIN}d`;
}

// A duration in whole units, for ages.
export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s}${THIN}s`;
  if (s < 3600) return `${Math.floor(s / 60)}${THIN}min`;
  if (s < 172800) return `${Math.floor(s / 3600)}${THIN}h`;
  return `${Math.floor(s / 86400)}${THIN}d`;
}

// Local time as hh:mm:ss, preceded by the date if it is not today.
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-CA");
export function clock(seconds) {
  const time = new Date(1000 * seconds);
  const text = CLOCK.format(time);
  return time.toDateString() === new Date().toDateString() ? text : `${DAY.format(time)} ${text}`;
}
