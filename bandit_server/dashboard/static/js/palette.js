// Colours by name, as the style sheet has them in the current theme; an arm's colour follows its place in the spec.

const COLOURS = 8;
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

let known = new Map();
document.addEventListener("optima-theme", () => {
  known = new Map();
});

// The colour of a custom property such as "--ink", as the canvas understands it.
export function colour(name) {
  if (!known.has(name)) {
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

export const armColourName = (name, index) => (name === "joint" ? "--joint" : `--arm-${index % COLOURS}`);

// From the ninth arm on colours come back, dashed.
export const armDash = (index) => (index < COLOURS ? [] : [6, 3]);
