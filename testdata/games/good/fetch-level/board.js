export class Board {
  moves = 0;
  boxes = [];

  constructor(rows) {
    this.size = rows.length;
    this.cells = rows.map((row, y) => [...row].map((ch, x) => {
      if (ch === '@') this.hero = { x, y };
      if (ch === '$') this.boxes.push({ x, y });
      return { wall: ch === '#', goal: ch === 'o' };
    }));
  }

  each(fn) {
    this.cells.forEach((row, y) => row.forEach((cell, x) => fn(cell, x, y)));
  }

  boxAt(x, y) {
    return this.boxes.find(b => b.x === x && b.y === y);
  }

  free(x, y) {
    return !this.cells[y][x].wall && !this.boxAt(x, y);
  }

  move(dx, dy) {
    const x = this.hero.x + dx, y = this.hero.y + dy;
    if (this.cells[y][x].wall) return;
    const box = this.boxAt(x, y);
    if (box) {
      if (!this.free(x + dx, y + dy)) return;
      box.x += dx;
      box.y += dy;
    }
    this.hero = { x, y };
    this.moves++;
  }

  solved() {
    return this.boxes.every(b => this.cells[b.y][b.x].goal);
  }
}
