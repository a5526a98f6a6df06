const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;
const home = { x: innerWidth * 0.25, y: innerHeight * 0.7 };
const stone = { ...home, vx: 0, vy: 0, flying: false };
const cans = [0, 1, 2].map(i => ({ x: innerWidth * 0.7 + i * 36, y: innerHeight * 0.7, hit: false }));
let dragging = false;

canvas.addEventListener('mousedown', e => {
  if (Math.hypot(e.offsetX - stone.x, e.offsetY - stone.y) < 60) dragging = true;
});
canvas.addEventListener('mousemove', e => {
  if (!dragging) return;
  stone.x = e.offsetX;
  stone.y = e.offsetY;
  draw();
});
canvas.addEventListener('mouseup', () => {
  if (!dragging) return;
  dragging = false;
  const dx = home.x - stone.x, dy = home.y - stone.y;
  if (Math.hypot(dx, dy) < 10) return;
  Object.assign(stone, { vx: dx / 6, vy: dy / 6, flying: true });
  requestAnimationFrame(fly);
});

function fly() {
  stone.vy += 0.3;
  stone.x += stone.vx;
  stone.y += stone.vy;
  for (const c of cans) if (Math.hypot(c.x - stone.x, c.y - stone.y) < 28) c.hit = true;
  if (stone.y > innerHeight + 40) {
    Object.assign(stone, home, { flying: false });
    if (cans.every(c => c.hit)) cans.forEach(c => { c.hit = false; });
  }
  draw();
  if (stone.flying) requestAnimationFrame(fly);
}

function draw() {
  ctx.fillStyle = '#caf0f8';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = '#588157';
  ctx.fillRect(0, innerHeight * 0.74, innerWidth, innerHeight);
  ctx.strokeStyle = '#7f5539';
  ctx.lineWidth = 6;
  ctx.beginPath();
  ctx.moveTo(home.x, innerHeight * 0.74);
  ctx.lineTo(home.x, home.y);
  ctx.lineTo(stone.x, stone.y);
  ctx.stroke();
  ctx.fillStyle = '#d00000';
  for (const c of cans) if (!c.hit) ctx.fillRect(c.x - 12, c.y - 18, 24, 40);
  ctx.fillStyle = '#333';
  ctx.beginPath();
  ctx.arc(stone.x, stone.y, 14, 0, Math.PI * 2);
  ctx.fill();
}
draw();
