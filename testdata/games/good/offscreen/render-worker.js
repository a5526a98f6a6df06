let g, W, H;
const held = {};
const ship = { x: 0, y: 0, a: -Math.PI / 2, vx: 0, vy: 0 };
let rocks = [], shots = [], reload = 0, score = 0;

onmessage = ({ data }) => {
  if (data.canvas) {
    g = data.canvas.getContext('2d');
    W = data.canvas.width / data.ratio;
    H = data.canvas.height / data.ratio;
    g.scale(data.ratio, data.ratio);
    ship.x = W / 2;
    ship.y = H / 2;
    for (let i = 0; i < 7; i++) addRock(40);
    requestAnimationFrame(frame);
  } else if (data.aim) {
    ship.a = Math.atan2(data.aim[1] - ship.y, data.aim[0] - ship.x);
    ship.vx += Math.cos(ship.a) * 0.8;
    ship.vy += Math.sin(ship.a) * 0.8;
    fire();
  } else {
    held[data.input] = data.down;
  }
};

function addRock(r) {
  const angle = Math.random() * 7;
  rocks.push({ x: W / 2 + Math.cos(angle) * W / 2, y: H / 2 + Math.sin(angle) * H / 2, vx: Math.random() * 2 - 1, vy: Math.random() * 2 - 1, r, spin: Math.random() });
}

function fire() {
  shots.push({ x: ship.x, y: ship.y, vx: Math.cos(ship.a) * 7, vy: Math.sin(ship.a) * 7, life: 70 });
  reload = 12;
}

function wrap(o) {
  o.x = (o.x + o.vx + W) % W;
  o.y = (o.y + o.vy + H) % H;
}

function update() {
  if (held.left) ship.a -= 0.07;
  if (held.right) ship.a += 0.07;
  if (held.thrust) { ship.vx += Math.cos(ship.a) * 0.12; ship.vy += Math.sin(ship.a) * 0.12; }
  if (--reload <= 0 && held.fire) fire();
  [ship, ...rocks, ...shots].forEach(wrap);
  shots = shots.filter(s => --s.life > 0);
  for (const r of rocks) {
    const s = shots.find(s => Math.hypot(s.x - r.x, s.y - r.y) < r.r);
    if (s) { s.life = 0; r.r -= 14; score += 10; }
  }
  rocks = rocks.filter(r => r.r > 8);
  if (rocks.length < 5) addRock(40);
}

function polygon(x, y, a, points) {
  g.beginPath();
  points.forEach(([r, t]) => g.lineTo(x + Math.cos(a + t) * r, y + Math.sin(a + t) * r));
  g.closePath();
  g.stroke();
}

function frame(t) {
  update();
  g.fillStyle = '#111';
  g.fillRect(0, 0, W, H);
  g.strokeStyle = '#7cffcb';
  g.lineWidth = 2;
  polygon(ship.x, ship.y, ship.a, [[16, 0], [12, 2.5], [12, -2.5]]);
  g.strokeStyle = '#ddd';
  for (const r of rocks) polygon(r.x, r.y, t / 1000 * r.spin, [0, 1, 2, 3, 4, 5].map(i => [r.r * (i % 2 ? 1 : 0.8), i]));
  g.fillStyle = '#fff';
  for (const s of shots) g.fillRect(s.x - 2, s.y - 2, 4, 4);
  g.font = '20px monospace';
  g.fillText('SCORE ' + score, 14, 30);
  requestAnimationFrame(frame);
}
