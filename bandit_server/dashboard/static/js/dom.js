// Elements made from plain values. Text always goes in as text: nothing here, or anywhere, parses HTML.

// el("td", {class: "number", title: "…"}, child, "text", …). A child that is null or false is left out.
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

// Put new children in place of the old ones, unless they look the same: focus and selection stay where they are.
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

// Make the rows of a table body those given, touching only the ones that differ. Each row: [key, tr].
export function rows(body, wanted) {
  const known = new Map(Array.from(body.children, (row) => [row.dataset.key, row]));
  let at = body.firstElementChild;
  for (const [key, row] of wanted) {
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
  for (const gone of known.values()) gone.remove();
}
