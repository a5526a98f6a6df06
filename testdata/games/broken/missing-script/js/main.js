// LEVELS comes from levels.js: rows of '#' (wall), '.' (floor), 'S' and 'E'.
const canvas = document.getElementById('maze');
const ctx = canvas.getContext('2d');
let level = 0;
let grid = null;
let player = { x: 0, y: 0 };

function load(n) {
  grid = LEVELS[n % LEVELS.length].map(row => row.split(''));
  grid.forEach((row, y) => row.forEach((cell, x) => {
    if (cell === 'S') player = { x, y };
  }));
}

function move(dx, dy) {
  const cell = grid[player.y + dy] && grid[player.y + dy][player.x + dx];
  if (!cell || cell === '#') return;
  player.x += dx;
  player.y += dy;
  if (cell === 'E') load(++level);
}

function draw() {
  const size = canvas.width / grid[0].length;
  ctx.fillStyle = '#4a4e69';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  grid.forEach((row, y) => row.forEach((cell, x) => {
    ctx.fillStyle = cell === '#' ? '#22223b' : cell === 'E' ? '#80ed99' : '#9a8c98';
    ctx.fillRect(x * size, y * size, size - 1, size - 1);
  }));
  ctx.fillStyle = '#ffd166';
  ctx.fillRect(player.x * size + 6, player.y * size + 6, size - 12, size - 12);
  requestAnimationFrame(draw);
}

document.addEventListener('keydown', e => {
  const d = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[e.key];
  if (d) move(...d);
});
canvas.addEventListener('pointerdown', e => {
  const dx = e.offsetX - canvas.clientWidth / 2, dy = e.offsetY - canvas.clientHeight / 2;
  if (Math.abs(dx) > Math.abs(dy)) move(Math.sign(dx), 0);
  else move(0, Math.sign(dy));
});
load(0);
draw();
