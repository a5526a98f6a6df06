const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;

const balloon = { x: innerWidth / 2, y: innerHeight / 2, vy: 0 };
const clouds = Array.from({ length: 6 }, (_, i) => ({ x: i * 220, y: 60 + (i * 131) % 400 }));
let burner = false;

addEventListener('keydown', e => { if (e.key === ' ') burner = true; });
addEventListener('keyup', () => { burner = false; });
addEventListener('pointerdown', () => { burner = true; });
addEventListener('pointerup', () => { burner = false; });

function update() {
  balloon.vy += burner ? -0.1 : 0.05;
  balloon.y += balloon.vy;
  clouds.forEach(c => {
    c.x -= 1;
    if (c.x < -120) c.x = innerWidth + 60;
  });
}

function draw() {
  ctx.fillStyle = '#bde0fe';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = '#fff';
  clouds.forEach(c => {
    ctx.beginPath();
    ctx.ellipse(c.x, c.y, 60, 24, 0, 0, Math.PI * 2);
    ctx.fill();
  });
  ctx.fillStyle = '#e5383b';
  ctx.beginPath();
  ctx.arc(balloon.x, balloon.y, 40, 0, Math.PI * 2);
  ctx.fill();
  ctx.fillStyle = '#7f5539';
  ctx.fillRect(balloon.x - 12, balloon.y + 52, 24, 18);
}

function gameLoop() {
  update();
  draw();
  requestAnimationFrame(gameLoop());
}

// The loop starts when the page has been loaded.
window.addEventListener('load', () => draw());
window.addEventListener('gamestart', gameLoop);
