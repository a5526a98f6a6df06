const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
let running = false;
let worm = [{ x: 5, y: 5 }];
let dir = { x: 1, y: 0 };
let letter = { x: 12, y: 8, ch: 'A' };
let word = '';

document.addEventListener('keydown', e => {
  if (e.key === 'Enter' && !running) {
    running = true;
    setInterval(step, 150);
  }
  const d = { w: [0, -1], a: [-1, 0], s: [0, 1], d: [1, 0] }[e.key.toLowerCase()];
  if (d) dir = { x: d[0], y: d[1] };
});

function step() {
  const head = { x: (worm[0].x + dir.x + 18) % 18, y: (worm[0].y + dir.y + 18) % 18 };
  worm.unshift(head);
  if (head.x === letter.x && head.y === letter.y) {
    word += letter.ch;
    letter = {
      x: Math.floor(Math.random() * 18),
      y: Math.floor(Math.random() * 18),
      ch: String.fromCharCode(65 + Math.floor(Math.random() * 26)),
    };
  } else {
    worm.pop();
  }
  draw();
}

function draw() {
  ctx.clearRect(0, 0, 360, 360);
  ctx.fillStyle = '#69db7c';
  worm.forEach(w => ctx.fillRect(w.x * 20, w.y * 20, 18, 18));
  ctx.fillStyle = '#ffd43b';
  ctx.font = '18px monospace';
  ctx.fillText(letter.ch, letter.x * 20 + 4, letter.y * 20 + 16);
  ctx.fillText(word, 8, 350);
}
draw();
