const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
const hero = { x: 40, y: 200, vx: 0, vy: 0 };
const ground = [[0, 150], [200, 90], [330, 60]];
const keys = {};

canvas.addEventListener('keydown', e => { keys[e.key] = true; });
canvas.addEventListener('keyup', e => { keys[e.key] = false; });

function solid(x) {
  return ground.some(([from, width]) => x > from && x < from + width);
}

function draw() {
  ctx.clearRect(0, 0, 380, 300);
  ctx.fillStyle = '#9d8189';
  for (const [x, w] of ground) ctx.fillRect(x, 220, w, 80);
  ctx.fillStyle = '#f4acb7';
  ctx.fillRect(hero.x - 10, hero.y, 20, 20);
}

function update() {
  hero.vx = (keys.ArrowRight ? 2 : 0) - (keys.ArrowLeft ? 2 : 0);
  const standing = hero.y >= 200 && solid(hero.x);
  if (standing) {
    hero.y = 200;
    hero.vy = keys.ArrowUp ? -6 : 0;
  } else {
    hero.vy += 0.25;
  }
  hero.x += hero.vx;
  hero.y += hero.vy;
  if (hero.y > 320) Object.assign(hero, { x: 40, y: 200, vy: 0 });
}

function loop() {
  update();
  draw();
  requestAnimationFrame(loop);
}
loop();
