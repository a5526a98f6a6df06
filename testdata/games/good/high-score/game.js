const canvas = document.getElementById('game');
const ctx = canvas.getContext('2d');
let scale = 1, W = 0, H = 0;

function fit() {
  scale = window.devicePixelRatio || 1;
  W = innerWidth;
  H = innerHeight;
  canvas.width = W * scale;
  canvas.height = H * scale;
}
addEventListener('resize', fit);
fit();

const stars = Array.from({ length: 80 }, () => ({ x: Math.random(), y: Math.random(), s: Math.random() * 2 + 0.5 }));
let best = Scores.load();
let ship, meteors, time, spawn, over = 0, last = performance.now();
const keys = {};

function reset() {
  ship = { x: W / 2, target: null };
  meteors = [];
  time = 0;
  spawn = 0;
}

addEventListener('keydown', e => { keys[e.code] = true; });
addEventListener('keyup', e => { keys[e.code] = false; });
canvas.addEventListener('pointermove', e => { ship.target = e.clientX; });
canvas.addEventListener('pointerdown', e => { ship.target = e.clientX; });

function update(dt) {
  if (over > 0) {
    over -= dt;
    if (over <= 0) reset();
    return;
  }
  time += dt;
  const speed = 420 * dt;
  if (keys.ArrowLeft || keys.KeyA) { ship.x -= speed; ship.target = null; }
  if (keys.ArrowRight || keys.KeyD) { ship.x += speed; ship.target = null; }
  if (ship.target !== null) ship.x += Math.max(-speed, Math.min(speed, ship.target - ship.x));
  ship.x = Math.max(16, Math.min(W - 16, ship.x));
  spawn -= dt;
  if (spawn <= 0) {
    spawn = Math.max(0.15, 0.7 - time / 60);
    meteors.push({ x: Math.random() * W, y: -40, r: 10 + Math.random() * 22, v: 120 + Math.random() * 180 + time * 3 });
  }
  for (const m of meteors) m.y += m.v * dt;
  meteors = meteors.filter(m => m.y < H + 50);
  if (meteors.some(m => Math.hypot(m.x - ship.x, m.y - (H - 60)) < m.r + 12)) {
    over = 1.5;
    if (time > best) {
      best = Math.floor(time);
      Scores.save(best);
    }
  }
}

function draw() {
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  ctx.fillStyle = '#0b0c2a';
  ctx.fillRect(0, 0, W, H);
  ctx.fillStyle = '#fff8';
  for (const s of stars) ctx.fillRect(s.x * W, (s.y * H + performance.now() * 0.02 * s.s) % H, s.s, s.s);
  ctx.fillStyle = over > 0 ? '#f25f5c' : '#70c1b3';
  ctx.beginPath();
  ctx.moveTo(ship.x, H - 80);
  ctx.lineTo(ship.x + 16, H - 46);
  ctx.lineTo(ship.x - 16, H - 46);
  ctx.fill();
  ctx.fillStyle = '#a0765b';
  for (const m of meteors) { ctx.beginPath(); ctx.arc(m.x, m.y, m.r, 0, 7); ctx.fill(); }
  ctx.fillStyle = '#fff';
  ctx.font = '18px sans-serif';
  ctx.fillText(`Time ${Math.floor(time)}   Best ${best}`, 14, 28);
  if (over > 0) ctx.fillText('Boom!', W / 2 - 24, H / 2);
}

function frame(now) {
  update(Math.min(0.05, (now - last) / 1000));
  last = now;
  draw();
  requestAnimationFrame(frame);
}
reset();
requestAnimationFrame(frame);
