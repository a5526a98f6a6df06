const pads = [...document.querySelectorAll('.pads button')];
const scoreEl = document.getElementById('score');
const stats = { hits: 0, misses: 0 };
let now = 0;

function light() {
  pads[now].classList.remove('now');
  now = Math.floor(Math.random() * pads.length);
  pads[now].classList.add('now');
}

function hit(i) {
  if (i === now) stats.hits++;
  else stats.misses++;
  audio.play(i === now ? 'hit' : 'miss');
  scoreEl.textContent = `${stats.hits} hits, ${stats.misses} misses`;
  light();
}

pads.forEach((pad, i) => pad.addEventListener('pointerdown', () => hit(i)));
document.addEventListener('keydown', e => {
  const i = 'fghj'.indexOf(e.key.toLowerCase());
  hit(i);
});

setInterval(light, 900);
