// A table whose column heads sort it. The order is kept in the page's address.
import { get, set } from "./view.js";

// columns: {name: run => value}; heads are buttons with data-sort=name. Text sorts up at first, numbers down.
export class Order {
  constructor(head, columns, otherwise, onChange) {
    this.columns = columns;
    this.heads = [...head.querySelectorAll("button[data-sort]")];
    this.otherwise = otherwise;
    this.by = get("sort", otherwise);
    if (!(this.by.replace(/^-/, "") in columns)) this.by = otherwise;
    for (const button of this.heads) {
      button.addEventListener("click", () => {
        const { sort, first = "" } = button.dataset;
        const up = this.by === sort;
        const down = this.by === `-${sort}`;
        this.by = up ? `-${sort}` : down ? sort : first + sort;
        set("sort", this.by, otherwise);
        this.tell();
        onChange();
      });
    }
    this.tell();
  }

  tell() {
    for (const button of this.heads) {
      const { sort } = button.dataset;
      const state = this.by === sort ? "ascending" : this.by === `-${sort}` ? "descending" : "none";
      button.closest("th").setAttribute("aria-sort", state);
    }
  }

  // What has no value comes last, whichever way the others go; equals go by name.
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
