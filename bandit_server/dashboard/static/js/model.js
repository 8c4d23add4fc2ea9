// One run as this browser knows it: the snapshot it was sent, and what was new since.

export const OPEN = 1;
export const FALLBACK = 2;
export const TAIL = 4;
export const DIVERGED = 8;
export const SUPERSEDED = 16;

export class Run {
  constructor() {
    this.head = null;
    this.lines = new Map();
    // Pulls by number, and pulls that were sent together: [first, last, worker, arm, marks, how many, begin, end].
    this.pulls = new Map();
    this.bins = [];
    // Events of the history, newest first, as far as this browser was sent them.
    this.log = [];
  }

  take(message) {
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
    for (const part of message.series) {
      const key = JSON.stringify([part.chart, part.name, part.index]);
      const line = this.lines.get(key);
      if (line) extend(line, part);
      else this.lines.set(key, { key, ...part });
    }
  }

  // The lines of one chart, by their index (arm or worker) and name.
  of(chart) {
    return [...this.lines.values()]
      .filter((line) => line.chart === chart)
      .sort((a, b) => a.index - b.index || a.name.localeCompare(b.name));
  }
}

// Points mostly come in order; a late report finds its place. A point that is there already is replaced.
function extend(line, part) {
  part.x.forEach((x, from) => {
    let at = line.x.length;
    while (at > 0 && line.x[at - 1] > x) at -= 1;
    const known = at > 0 && line.x[at - 1] === x;
    if (known) at -= 1;
    line.x.splice(at, known ? 1 : 0, x);
    line.t.splice(at, known ? 1 : 0, part.t[from]);
    line.y.forEach((column, index) => column.splice(at, known ? 1 : 0, part.y[index][from]));
  });
}
