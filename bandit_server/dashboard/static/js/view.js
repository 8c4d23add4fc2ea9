// The view of a page (axis, zoom, filters), kept in its address, so that a link shows the same view.

const query = new URLSearchParams(location.search);

export const get = (name, byDefault = "") => query.get(name) ?? byDefault;
export const all = (name) => query.getAll(name);

// Set a value or a list of values. Empty and default values are removed from the address.
export function set(name, value, byDefault = "") {
  query.delete(name);
  if (Array.isArray(value)) value.forEach((item) => query.append(name, item));
  else if (value !== byDefault && value !== null) query.set(name, value);
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

// Hidden lines, as "chart/line".
const hidden = new Set(all("hide"));
export const isHidden = (chart, line) => hidden.has(`${chart}/${line}`);
export function setHidden(chart, line, hide) {
  if (hide) hidden.add(`${chart}/${line}`);
  else hidden.delete(`${chart}/${line}`);
  set("hide", [...hidden]);
}
