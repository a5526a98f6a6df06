const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;

const WORLD = { width: 4000, height: 3000 };
const ship = { x: WORLD.width / 2, y: 400, vx: 0, vy: 0, fuel: 100 };
const camera = { x: 0, y: 0 };
const held = {};
addEventListener('keydown', e => { held[e.key] = true; });
addEventListener('keyup', e => { held[e.key] = false; });
addEventListener('pointerdown', e => { held[e.clientX < innerWidth / 2 ? 'ArrowLeft' : 'ArrowRight'] = true; held.ArrowUp = true; });
addEventListener('pointerup', () => { held.ArrowLeft = held.ArrowRight = held.ArrowUp = false; });

const terrain = [];
for (let x = 0; x <= WORLD.width; x += 40) terrain.push(WORLD.height - 200 - Math.sin(x / 130) * 90);

function update() {
  ship.vy += 0.01;
  if (held.ArrowUp && ship.fuel > 0) { ship.vy -= 0.04; ship.fuel -= 0.1; }
  if (held.ArrowLeft) ship.vx -= 0.02;
  if (held.ArrowRight) ship.vx += 0.02;
  ship.x += ship.vx;
  ship.y += ship.vy;
  camera.x = ship.x - canvas.width / 2;
  camera.y = ship.y - canvas.height / 2;
}

function draw() {
  ctx.fillStyle = '#111';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.save();
  ctx.translate(camera.x, camera.y);
  ctx.strokeStyle = '#aaa';
  ctx.beginPath();
  terrain.forEach((y, i) => ctx.lineTo(i * 40, y));
  ctx.stroke();
  ctx.fillStyle = '#ffd60a';
  ctx.fillRect(ship.x - 12, ship.y - 12, 24, 24);
  ctx.restore();
  requestAnimationFrame(loop);
}

function loop() {
  update();
  draw();
}
loop();
