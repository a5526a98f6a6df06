const FACES = '⚀⚁⚂⚃⚄⚅';
const score = { you: 0, cpu: 0 };
const $ = id => document.getElementById(id);

function roll() {
  return 1 + Math.floor(Math.random() * 6);
}

function show(a, b) {
  $('dice').textContent = FACES[a - 1] + FACES[b - 1];
}

function render() {
  $('you').textContent = score.you;
  $('cpu').textContent = score.cpu;
}

// The computer rolls until it has at least five more points than before.
function computerTurn() {
  const start = score.cpu;
  let gained = 0;
  while (score.cpu - start < 5) {
    const a = roll();
    const b = roll();
    show(a, b);
    gained += a + b;
  }
  score.cpu += gained;
}

function turn() {
  const a = roll();
  const b = roll();
  show(a, b);
  score.you += a === b ? 2 * (a + b) : a + b;
  render();
  computerTurn();
  render();
  if (score.you >= 50 || score.cpu >= 50) {
    $('log').textContent = score.you > score.cpu ? 'You win!' : 'The computer wins!';
    score.you = score.cpu = 0;
  }
}

$('roll').addEventListener('click', turn);
document.addEventListener('keydown', e => {
  if (e.code === 'Space') {
    e.preventDefault();
    turn();
  }
});
