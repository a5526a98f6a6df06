const WORDS = ['galaxy', 'pyramid', 'lantern', 'voyage', 'compass'];
const word = WORDS[Math.floor(Math.random() * WORDS.length)];
const guessed = new Set();
let lives = 7;

function showScreen(id) {
  document.querySelectorAll('.screen').forEach(s => s.classList.remove('active'));
  document.getElementById(id).classList.add('visible');
}

function render() {
  document.getElementById('word').textContent = [...word].map(c => (guessed.has(c) ? c : '_')).join('');
  document.getElementById('left').textContent = lives > 0 ? `${lives} lives left` : `It was ${word}`;
  for (const b of document.querySelectorAll('#letters button')) b.disabled = guessed.has(b.textContent) || lives <= 0;
}

function guess(letter) {
  if (guessed.has(letter) || lives <= 0) return;
  guessed.add(letter);
  if (!word.includes(letter)) lives--;
  render();
}

for (const letter of 'abcdefghijklmnopqrstuvwxyz') {
  const b = document.createElement('button');
  b.textContent = letter;
  b.addEventListener('click', () => guess(letter));
  document.getElementById('letters').append(b);
}
document.addEventListener('keydown', e => {
  if (/^[a-z]$/.test(e.key)) guess(e.key);
});
render();
showScreen('play');
