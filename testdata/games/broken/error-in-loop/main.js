const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;

class Star {
  constructor() {
    this.x = Math.random() * canvas.width;
    this.y = Math.random() * canvas.height;
  }
  draw() {
    ctx.fillStyle = '#ffba08';
    ctx.beginPath();
    ctx.arc(this.x, this.y, 6, 0, Math.PI * 2);
    ctx.fill();
  }
}

class Hunter {
  constructor() {
    this.x = 0;
    this.y = 0;
  }
  follow(target) {
    this.x += (target.x - this.x) * 0.01;
    this.y += (target.y - this.y) * 0.01;
  }
  render() {
    ctx.fillStyle = '#d00000';
    ctx.fillRect(this.x - 10, this.y - 10, 20, 20);
  }
}

const player = { x: canvas.width / 2, y: canvas.height / 2 };
const target = { ...player };
const stars = Array.from({ length: 12 }, () => new Star());
const hunters = [];
let score = 0;
let started = performance.now();

addEventListener('pointermove', e => { target.x = e.clientX; target.y = e.clientY; });
addEventListener('pointerdown', e => { target.x = e.clientX; target.y = e.clientY; });
addEventListener('keydown', e => {
  if (e.key === 'ArrowLeft') target.x -= 30;
  if (e.key === 'ArrowRight') target.x += 30;
  if (e.key === 'ArrowUp') target.y -= 30;
  if (e.key === 'ArrowDown') target.y += 30;
});

function loop(now) {
  // The first hunter comes after a second.
  if (hunters.length < (now - started) / 1000 - 1) hunters.push(new Hunter());
  player.x += (target.x - player.x) * 0.1;
  player.y += (target.y - player.y) * 0.1;
  ctx.fillStyle = '#03071e';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  stars.forEach((s, i) => {
    s.draw();
    if (Math.hypot(s.x - player.x, s.y - player.y) < 18) {
      stars[i] = new Star();
      score++;
    }
  });
  hunters.forEach(h => {
    h.follow(player);
    h.draw();
  });
  ctx.fillStyle = '#fff';
  ctx.fillRect(player.x - 9, player.y - 9, 18, 18);
  ctx.fillText('Stars ' + score, 12, 20);
  requestAnimationFrame(loop);
}
requestAnimationFrame(loop);
