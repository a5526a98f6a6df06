const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
let level;

async function loadLevel(n) {
  const response = await fetch(`levels/level${n}.json`);
  level = await response.json();
  draw();
}

function cellAt(x, y) {
  return level.rows[y][x];
}

function move(dx, dy) {
  const { player, boxes } = level;
  const x = player.x + dx, y = player.y + dy;
  if (cellAt(x, y) === '#') return;
  const box = boxes.find(b => b.x === x && b.y === y);
  if (box) {
    const bx = x + dx, by = y + dy;
    if (cellAt(bx, by) === '#' || boxes.some(b => b.x === bx && b.y === by)) return;
    box.x = bx;
    box.y = by;
  }
  player.x = x;
  player.y = y;
  draw();
}

function draw() {
  const s = 400 / level.rows.length;
  ctx.clearRect(0, 0, 400, 400);
  level.rows.forEach((row, y) => [...row].forEach((c, x) => {
    ctx.fillStyle = c === '#' ? '#6c584c' : c === 'o' ? '#a7c957' : '#f0ead2';
    ctx.fillRect(x * s, y * s, s, s);
  }));
  ctx.fillStyle = '#bc6c25';
  level.boxes.forEach(b => ctx.fillRect(b.x * s + 4, b.y * s + 4, s - 8, s - 8));
  ctx.fillStyle = '#386641';
  ctx.fillRect(level.player.x * s + 8, level.player.y * s + 8, s - 16, s - 16);
}

addEventListener('keydown', e => {
  if (!level) return;
  if (e.key === 'ArrowLeft') move(-1, 0);
  if (e.key === 'ArrowRight') move(1, 0);
  if (e.key === 'ArrowUp') move(0, -1);
  if (e.key === 'ArrowDown') move(0, 1);
});
loadLevel(1);
