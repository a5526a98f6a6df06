const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
canvas.width = innerWidth;
canvas.height = innerHeight;
const ball = { x: canvas.width / 2, y: 60, vx: 3, vy: 4, r: 14 };
let paddle = canvas.width / 2;
let lives = 0;
let score = 0;

addEventListener('pointermove', e => { paddle = e.clientX; });
addEventListener('keydown', e => {
  if (e.key === 'ArrowLeft') paddle -= 30;
  if (e.key === 'ArrowRight') paddle += 30;
});

function draw() {
  ctx.fillStyle = '#dee2ff';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = '#8e9aaf';
  ctx.fillRect(paddle - 50, canvas.height - 40, 100, 14);
  ctx.fillStyle = '#ef476f';
  ctx.beginPath();
  ctx.arc(ball.x, ball.y, ball.r, 0, Math.PI * 2);
  ctx.fill();
  ctx.fillStyle = '#000';
  ctx.fillText('Score ' + score, 12, 20);
}

function loop() {
  ball.x += ball.vx;
  ball.y += ball.vy;
  if (ball.x < ball.r || ball.x > canvas.width - ball.r) ball.vx *= -1;
  if (ball.y < ball.r) ball.vy *= -1;
  if (ball.y > canvas.height - 54 && Math.abs(ball.x - paddle) < 60) {
    ball.vy = -Math.abs(ball.vy);
    score++;
  }
  draw();
  if (lives <= 0) {
    alert('Game over! Your score: ' + score);
    score = 0;
  }
  requestAnimationFrame(loop);
}
loop();
