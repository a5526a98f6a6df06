// Remove pairs that add up to 13. The columns are 260 pixels apart.
const table = document.getElementById('table');
const SUITS = ['♠', '♥', '♦', '♣'];
const deck = [];
for (let s = 0; s < 4; s++) for (let v = 1; v <= 13; v++) deck.push({ s, v });
deck.sort(() => Math.random() - 0.5);
let picked = null;

function name(v) {
  return { 1: 'A', 11: 'J', 12: 'Q', 13: 'K' }[v] || v;
}

function pick(card, el) {
  if (card.v === 13) {
    el.remove();
  } else if (picked && picked.el !== el && picked.card.v + card.v === 13) {
    picked.el.remove();
    el.remove();
    picked = null;
  } else {
    if (picked) picked.el.classList.remove('picked');
    picked = { card, el };
    el.classList.add('picked');
  }
}

deck.slice(0, 28).forEach((card, i) => {
  const el = document.createElement('div');
  el.className = 'card' + (card.s === 1 || card.s === 2 ? ' red' : '');
  el.textContent = name(card.v) + SUITS[card.s];
  el.style.left = 120 + (i % 7) * 260 + 'px';
  el.style.top = 20 + Math.floor(i / 7) * 60 + 'px';
  el.addEventListener('click', () => pick(card, el));
  table.appendChild(el);
});
