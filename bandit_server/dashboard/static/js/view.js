// What a page shows of its data, kept in its address: whoever opens the address sees the same.

const known = new URLSearchParams(location.search);

export const get = (name, otherwise = "") => known.get(name) ?? otherwise;
export const all = (name) => known.getAll(name);

// Replace a value, or all of a list; what is empty or the default leaves the address.
export function set(name, value, otherwise = "") {
  known.delete(name);
  if (Array.isArray(value)) value.forEach((one) => known.append(name, one));
  else if (value !== otherwise && value !== null) known.set(name, value);
  const query = known.toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

// Lines that are switched off, as "chart/line".
const hidden = new Set(all("hide"));
export const isHidden = (chart, line) => hidden.has(`${chart}/${line}`);
export function setHidden(chart, line, off) {
  if (off) hidden.add(`${chart}/${line}`);
  else hidden.delete(`${chart}/${line}`);
  set("hide", [...hidden]);
}
