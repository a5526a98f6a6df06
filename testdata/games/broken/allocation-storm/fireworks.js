const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;

let sparks = [];
// Every frame is kept so that the show can be replayed later.
const history = [];

function burst(x, y) {
  const hue = Math.random() * 360;
  for (let i = 0; i < 120; i++) {
    const a = Math.random() * Math.PI * 2;
    const v = Math.random() * 5;
    sparks.push({ x, y, vx: Math.cos(a) * v, vy: Math.sin(a) * v, life: 80, hue });
  }
}
addEventListener('pointerdown', e => burst(e.clientX, e.clientY));
addEventListener('keydown', () => burst(Math.random() * innerWidth, Math.random() * innerHeight / 2));

function loop() {
  if (Math.random() < 0.03) burst(Math.random() * innerWidth, Math.random() * innerHeight / 2);
  ctx.fillStyle = 'rgba(0, 0, 0, 0.2)';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  for (const s of sparks) {
    s.x += s.vx;
    s.y += s.vy;
    s.vy += 0.05;
    s.life--;
    ctx.fillStyle = `hsl(${s.hue}, 100%, ${s.life}%)`;
    ctx.fillRect(s.x, s.y, 3, 3);
  }
  sparks = sparks.filter(s => s.life > 0);
  history.push({
    pixels: Array.from(ctx.getImageData(0, 0, canvas.width, canvas.height).data),
    sparks: JSON.parse(JSON.stringify(sparks)),
  });
  requestAnimationFrame(loop);
}
loop();
