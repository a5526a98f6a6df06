const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
const SIZE = 20, CELL = canvas.width / SIZE;
let snake, dir, next, food, score, last = 0;

function reset() {
  snake = [{ x: 8, y: 10 }, { x: 7, y: 10 }, { x: 6, y: 10 }];
  dir = next = { x: 1, y: 0 };
  score = 0;
  placeFood();
}

function placeFood() {
  do {
    food = { x: Math.floor(Math.random() * SIZE), y: Math.floor(Math.random() * SIZE) };
  } while (snake.some(s => s.x === food.x && s.y === food.y));
}

function turn(x, y) {
  if (dir.x === -x && dir.y === -y) return;
  next = { x, y };
}

addEventListener('keydown', e => {
  switch (e.key) {
    case 'ArrowUp': case 'w': turn(0, -1); break;
    case 'ArrowDown': case 's': turn(0, 1); break;
    case 'ArrowLeft': case 'a': turn(-1, 0); break;
    case 'ArrowRight': case 'd': turn(1, 0); break;
    default: return;
  }
  e.preventDefault();
});

let touch = null;
addEventListener('pointerdown', e => { touch = { x: e.clientX, y: e.clientY }; });
addEventListener('pointerup', e => {
  if (!touch) return;
  const dx = e.clientX - touch.x, dy = e.clientY - touch.y;
  touch = null;
  if (Math.hypot(dx, dy) < 15) {
    // A tap turns right of the current direction.
    turn(-dir.y, dir.x);
  } else if (Math.abs(dx) > Math.abs(dy)) {
    turn(Math.sign(dx), 0);
  } else {
    turn(0, Math.sign(dy));
  }
});

function step() {
  dir = next;
  const head = { x: (snake[0].x + dir.x + SIZE) % SIZE, y: (snake[0].y + dir.y + SIZE) % SIZE };
  if (snake.some(s => s.x === head.x && s.y === head.y)) return reset();
  snake.unshift(head);
  if (head.x === food.x && head.y === food.y) {
    score += 10;
    placeFood();
  } else {
    snake.pop();
  }
  document.getElementById('score').textContent = score;
}

function draw() {
  ctx.clearRect(0, 0, canvas.width, canvas.height);
  ctx.fillStyle = '#e4572e';
  ctx.beginPath();
  ctx.arc((food.x + .5) * CELL, (food.y + .5) * CELL, CELL * .4, 0, Math.PI * 2);
  ctx.fill();
  snake.forEach((s, i) => {
    ctx.fillStyle = i ? '#76b041' : '#a8e05f';
    ctx.fillRect(s.x * CELL + 1, s.y * CELL + 1, CELL - 2, CELL - 2);
  });
}

function loop(t) {
  if (t - last > 120) {
    last = t;
    step();
  }
  draw();
  requestAnimationFrame(loop);
}

reset();
requestAnimationFrame(loop);
