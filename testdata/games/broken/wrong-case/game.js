const COLORS = ['#ff595e', '#ffca3a', '#8ac926', '#1982c4', '#6a4c93'];
const board = document.getElementById('board');
let gems = Array.from({ length: 36 }, () => Math.floor(Math.random() * COLORS.length));
let selected = -1;
let score = 0;

function render() {
  board.innerHTML = '';
  gems.forEach((gem, i) => {
    const el = document.createElement('div');
    el.style.background = COLORS[gem];
    el.classList.toggle('selected', i === selected);
    el.addEventListener('click', () => select(i));
    board.appendChild(el);
  });
  document.getElementById('score').textContent = score;
}

function select(i) {
  const near = [1, 6].includes(Math.abs(i - selected));
  if (selected >= 0 && near) {
    [gems[i], gems[selected]] = [gems[selected], gems[i]];
    selected = -1;
    clear();
  } else {
    selected = i;
  }
  render();
}

function clear() {
  const gone = new Set();
  for (let i = 0; i < 36; i++) {
    if (i % 6 < 4 && gems[i] === gems[i + 1] && gems[i] === gems[i + 2]) [i, i + 1, i + 2].forEach(k => gone.add(k));
    if (i < 24 && gems[i] === gems[i + 6] && gems[i] === gems[i + 12]) [i, i + 6, i + 12].forEach(k => gone.add(k));
  }
  gone.forEach(k => { gems[k] = Math.floor(Math.random() * COLORS.length); });
  score += gone.size * 10;
  if (gone.size) clear();
}
clear();
score = 0;
render();
