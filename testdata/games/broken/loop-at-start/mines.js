const SIZE = 8;
const MINES = 80;
const field = document.getElementById('field');
const mines = new Set();

// Place the mines on different cells.
function placeMines() {
  while (mines.size < MINES) {
    mines.add(Math.floor(Math.random() * SIZE * SIZE));
  }
}

function around(i) {
  const x = i % SIZE, y = Math.floor(i / SIZE), list = [];
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      const nx = x + dx, ny = y + dy;
      if ((dx || dy) && nx >= 0 && ny >= 0 && nx < SIZE && ny < SIZE) list.push(ny * SIZE + nx);
    }
  }
  return list;
}

function open(i) {
  const b = field.children[i];
  if (b.classList.contains('open')) return;
  b.classList.add('open');
  if (mines.has(i)) {
    b.textContent = '✹';
    return;
  }
  const n = around(i).filter(k => mines.has(k)).length;
  b.textContent = n || '';
  if (!n) around(i).forEach(open);
}

placeMines();
for (let i = 0; i < SIZE * SIZE; i++) {
  const b = document.createElement('button');
  b.addEventListener('click', () => open(i));
  field.appendChild(b);
}
