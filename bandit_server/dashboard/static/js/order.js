// Sorting of a table by its column headings. The order is kept in the page's address.
import { get, set } from "./view.js";

// columns: {name: run => value}. The headings have buttons with data-sort=name, and data-first="-" to start descending.
export class Order {
  constructor(head, columns, byDefault, onChange) {
    this.columns = columns;
    this.heads = [...head.querySelectorAll("button[data-sort]")];
    this.byDefault = byDefault;
    this.by = get("sort", byDefault);
    if (!(this.by.replace(/^-/, "") in columns)) this.by = byDefault;
    for (const button of this.heads) {
      button.addEventListener("click", () => {
        const { sort, first = "" } = button.dataset;
        const up = this.by === sort;
        const down = this.by === `-${sort}`;
        this.by = up ? `-${sort}` : down ? sort : first + sort;
        set("sort", this.by, byDefault);
        this.markHeadings();
        onChange();
      });
    }
    this.markHeadings();
  }

  markHeadings() {
    for (const button of this.heads) {
      const { sort } = button.dataset;
      const state = this.by === sort ? "ascending" : this.by === `-${sort}` ? "descending" : "none";
      button.closest("th").setAttribute("aria-sort", state);
    }
  }

  // Runs without a value come last in both directions; equal ones are ordered by name.
  sorted(items) {
    const down = this.by.startsWith("-");
    const value = this.columns[this.by.replace(/^-/, "")];
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    return [...items].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === null || b === null) return (a === null) - (b === null) || one.run.localeCompare(other.run);
      return (down ? compare(b, a) : compare(a, b)) || one.run.localeCompare(other.run);
    });
  }
}
