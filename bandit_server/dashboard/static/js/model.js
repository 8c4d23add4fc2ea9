// One run as this browser has it: a snapshot, and what came since.

export const OPEN = 1;
export const FALLBACK = 2;
export const TAIL = 4;
export const DIVERGED = 8;
export const SUPERSEDED = 16;

export class Run {
  constructor() {
    this.head = null;
    this.lines = new Map();
    // Single pulls by number, and merged ones: [first, last, worker, arm, flags, number of pulls, begin, end].
    this.pulls = new Map();
    this.bins = [];
    // The latest events, newest first.
    this.log = [];
  }

  apply(message) {
    if (message.reset) {
      this.lines.clear();
      this.pulls.clear();
      this.bins = [];
      this.log = [];
    }
    this.log = [...message.log, ...this.log].slice(0, 2000);
    this.head = message;
    for (const cell of message.cells) {
      if (cell[0] === cell[1]) this.pulls.set(cell[0], cell);
      else this.bins.push(cell);
    }
    for (const update of message.series) {
      const key = JSON.stringify([update.chart, update.name, update.index]);
      const line = this.lines.get(key);
      if (line) extend(line, update);
      else this.lines.set(key, { key, ...update });
    }
  }

  // The lines of one chart, ordered by index (arm or worker) and name.
  linesOf(chart) {
    return [...this.lines.values()]
      .filter((line) => line.chart === chart)
      .sort((a, b) => a.index - b.index || a.name.localeCompare(b.name));
  }
}

// Points mostly come in order; a late one is sorted in. A point with the x of another replaces it.
function extend(line, update) {
  update.x.forEach((x, index) => {
    let at = line.x.length;
    while (at > 0 && line.x[at - 1] > x) at -= 1;
    const exists = at > 0 && line.x[at - 1] === x;
    if (exists) at -= 1;
    line.x.splice(at, exists ? 1 : 0, x);
    line.t.splice(at, exists ? 1 : 0, update.t[index]);
    line.y.forEach((column, row) => column.splice(at, exists ? 1 : 0, update.y[row][index]));
  });
}
