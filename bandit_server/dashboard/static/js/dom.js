// Elements built from plain values. Text is always inserted as text: no page ever parses HTML.

// el("td", {class: "number", title: "…"}, child, "text", …). Children that are null or false are left out.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Replace the children, unless they are equal to the old ones, so that focus and selection survive.
export function show(parent, ...children) {
  const fresh = el("div", {}, ...children);
  if (fresh.childNodes.length === parent.childNodes.length) {
    let same = true;
    for (let at = 0; at < fresh.childNodes.length && same; at += 1) {
      same = fresh.childNodes[at].isEqualNode(parent.childNodes[at]);
    }
    if (same) return;
  }
  parent.replaceChildren(...fresh.childNodes);
}

// Replace the rows of a table body, touching only those that differ. `content`: [key, tr] of each row.
export function rows(body, content) {
  const known = new Map(Array.from(body.children, (row) => [row.dataset.key, row]));
  let at = body.firstElementChild;
  for (const [key, row] of content) {
    row.dataset.key = key;
    const old = known.get(key);
    known.delete(key);
    if (old && old.isEqualNode(row)) {
      if (old === at) at = at.nextElementSibling;
      else body.insertBefore(old, at);
      continue;
    }
    if (old === at && at !== null) at = at.nextElementSibling;
    const focused = old?.contains(document.activeElement);
    if (old) old.remove();
    body.insertBefore(row, at);
    if (focused) row.querySelector("a, button")?.focus();
  }
  for (const row of known.values()) row.remove();
}
