const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');

const sprites = {
  sheep: new Image(),
  fence: new Image(),
};
sprites.sheep.src = 'assets/sheep.png';
sprites.fence.src = 'assets/fence.png';

let sheep = { y: 220, vy: 0 };
let fences = [{ x: 500 }];
let score = 0;

function jump() {
  if (sheep.y >= 220) sheep.vy = -9;
}
addEventListener('keydown', e => { if (e.code === 'Space') jump(); });
addEventListener('pointerdown', jump);

function update() {
  sheep.vy += 0.4;
  sheep.y = Math.min(220, sheep.y + sheep.vy);
  for (const f of fences) f.x -= 4;
  if (fences[0].x < -40) {
    fences.shift();
    score++;
  }
  if (fences.length === 0 || fences[fences.length - 1].x < 220) fences.push({ x: 500 + Math.random() * 120 });
  if (fences.some(f => Math.abs(f.x - 80) < 30 && sheep.y > 190)) score = 0;
}

function render() {
  ctx.fillStyle = '#bde0fe';
  ctx.fillRect(0, 0, 480, 320);
  ctx.fillStyle = '#6a994e';
  ctx.fillRect(0, 260, 480, 60);
  ctx.drawImage(sprites.sheep, 60, sheep.y - 20, 56, 48);
  for (const f of fences) ctx.drawImage(sprites.fence, f.x, 216, 32, 48);
  ctx.fillStyle = '#000';
  ctx.font = '20px sans-serif';
  ctx.fillText('Score ' + score, 16, 30);
}

function loop() {
  update();
  render();
  requestAnimationFrame(loop);
}

window.onload = loop;
