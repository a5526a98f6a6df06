export function toggleAround(cells, i, size) {
  const next = [...cells];
  const x = i % size, y = Math.floor(i / size);
  for (const [dx, dy] of [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]) {
    const cx = x + dx, cy = y + dy;
    if (cx >= 0 && cy >= 0 && cx < size && cy < size) next[cy * size + cx] = !next[cy * size + cx];
  }
  return next;
}

export function scramble(size) {
  let cells = Array(size * size).fill(false);
  for (let n = 0; n < 12; n++) cells = toggleAround(cells, Math.floor(Math.random() * cells.length), size);
  return cells.some(Boolean) ? cells : scramble(size);
}
