const SYMBOLS = ['★', '♥', '♦', '♣', '♠', '☀', '☂', '♫'];
const board = document.getElementById('board');
const movesEl = document.getElementById('moves');
const pairsEl = document.getElementById('pairs');
let first = null;
let locked = false;
let moves = 0;
let pairs = 0;

function shuffle(list) {
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

function start() {
  board.innerHTML = '';
  first = null;
  locked = false;
  moves = pairs = 0;
  movesEl.textContent = pairsEl.textContent = '0';
  for (const symbol of shuffle([...SYMBOLS, ...SYMBOLS])) {
    const card = document.createElement('button');
    card.className = 'card';
    card.textContent = symbol;
    card.dataset.symbol = symbol;
    card.setAttribute('aria-label', 'hidden card');
    card.addEventListener('click', () => flip(card));
    board.appendChild(card);
  }
}

function flip(card) {
  if (locked || card === first || card.classList.contains('done')) return;
  card.classList.add('open');
  if (!first) { first = card; return; }
  movesEl.textContent = ++moves;
  if (first.dataset.symbol === card.dataset.symbol) {
    first.classList.add('done');
    card.classList.add('done');
    first = null;
    pairsEl.textContent = ++pairs;
    if (pairs === SYMBOLS.length) document.querySelector('h1').textContent = 'You won in ' + moves + ' moves!';
    return;
  }
  locked = true;
  const other = first;
  first = null;
  setTimeout(() => {
    other.classList.remove('open');
    card.classList.remove('open');
    locked = false;
  }, 800);
}

document.getElementById('restart').addEventListener('click', start);
start();
