// The recent losses of a run as a small line.
import { svg } from "./dom.js";
import { count, measure, NONE } from "./format.js";

const WIDTH = 100;
const HEIGHT = 22;
const MAX_POINTS = 12;

export function sparkline(losses) {
  const known = losses.filter((loss) => loss !== null);
  if (known.length < 2) return NONE;
  const low = Math.min(...known);
  const high = Math.max(...known);
  const x = (at) => 2 + ((WIDTH - 4) * at) / (losses.length - 1);
  const y = (loss) => (high === low ? HEIGHT / 2 : 2 + ((HEIGHT - 4) * (high - loss)) / (high - low));
  let path = "";
  losses.forEach((loss, at) => {
    if (loss === null) return;
    path += `${at === 0 || losses[at - 1] === null ? "M" : "L"}${x(at).toFixed(1)} ${y(loss).toFixed(1)}`;
  });
  // With few measurements, points show how few they are.
  const points = known.length > MAX_POINTS ? [] : losses.flatMap((loss, at) => (loss === null ? [] : [svg("circle", { cx: x(at).toFixed(1), cy: y(loss).toFixed(1), r: 1.75 })]));
  const text = `from ${measure(known[0])} to ${measure(known.at(-1))}, last ${count(losses.length)} measurements`;
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": text },
    svg("path", { d: path }),
    ...points,
  );
}
