const board = document.getElementById('board');
const overlay = document.getElementById('overlay');
let cells, player;

function reset() {
  cells = Array(42).fill('');
  player = 'red';
  overlay.classList.remove('show');
  render();
}

function render() {
  board.replaceChildren(...cells.map((c, i) => {
    const el = document.createElement('div');
    el.className = c;
    el.addEventListener('click', () => drop(i % 7));
    return el;
  }));
  document.getElementById('turn').textContent = `${player} to move`;
}

function drop(col) {
  for (let row = 5; row >= 0; row--) {
    const i = row * 7 + col;
    if (cells[i]) continue;
    cells[i] = player;
    if (wins(i)) {
      document.getElementById('result').textContent = `${player} wins!`;
      overlay.classList.add('show');
    }
    player = player === 'red' ? 'yellow' : 'red';
    return render();
  }
}

function wins(i) {
  const x = i % 7, y = Math.floor(i / 7), c = cells[i];
  const at = (cx, cy) => cx >= 0 && cx < 7 && cy >= 0 && cy < 6 && cells[cy * 7 + cx] === c;
  return [[1, 0], [0, 1], [1, 1], [1, -1]].some(([dx, dy]) => {
    let n = 1;
    for (let k = 1; at(x + dx * k, y + dy * k); k++) n++;
    for (let k = 1; at(x - dx * k, y - dy * k); k++) n++;
    return n >= 4;
  });
}

document.getElementById('again').addEventListener('click', reset);
reset();
