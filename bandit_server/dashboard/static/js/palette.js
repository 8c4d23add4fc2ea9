// Colours of the style sheet in the current theme. An arm's colour follows its position in the spec.

const COLOURS = 8;
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

let known = new Map();
document.addEventListener("optima-theme", () => {
  known = new Map();
});

// The value of a custom property such as "--ink", as a canvas accepts it.
export function colour(name) {
  if (!known.has(name)) {
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

export const armColourName = (name, index) => (name === "joint" ? "--joint" : `--arm-${index % COLOURS}`);

// From the ninth arm on, colours repeat with dashed lines.
export const armDash = (index) => (index < COLOURS ? [] : [6, 3]);
