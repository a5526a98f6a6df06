const canvas = document.getElementById('game');
const ctx = canvas.getContext('2d');
const FRUITS = ['#e63946', '#f4a261', '#8ac926', '#ffca3a'];
let basket = 190;
let fruits = [];
let score = 0;

document.addEventListener('keydown', (e) => {
  if (e.key === 'ArrowLeft') basket -= 24;
  if (e.key === 'ArrowRight') basket += 24;
});
canvas.addEventListener('pointermove', (e) => {
  basket = e.offsetX;
});

function spawn() {
  fruits.push({
    x: 20 + Math.random() * 340,
    y: -20,
    color: FRUITS[Math.floor(Math.random() * FRUITS.length)],
  });
}

function update() {
  if (Math.random() < 0.02) spawn();
  fruits.forEach((f) => {
    f.y += 3;
    if (f.y > 520 && Math.abs(f.x - basket) < 40) {
      score++;
      f.caught = true;
    }
  };
  fruits = fruits.filter((f) => !f.caught && f.y < 600);
}

function draw() {
  ctx.clearRect(0, 0, 380, 560);
  for (const f of fruits) {
    ctx.fillStyle = f.color;
    ctx.beginPath();
    ctx.arc(f.x, f.y, 14, 0, Math.PI * 2);
    ctx.fill();
  }
  ctx.fillStyle = '#780000';
  ctx.fillRect(basket - 40, 520, 80, 24);
  ctx.fillText('Score: ' + score, 10, 20);
}

function loop() {
  update();
  draw();
  requestAnimationFrame(loop);
}
loop();
