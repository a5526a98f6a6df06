const c = document.getElementById('c'), g = c.getContext('2d');
const LANES = 8, LANE = 60;
const frog = { x: 180, lane: 9, hop: 0 };
const cars = [];
let score = 0;
for (let lane = 1; lane <= LANES; lane++) {
  for (let k = 0; k < 2; k++) cars.push({ lane, x: k * 200 + lane * 37, v: (lane % 2 ? 1 : -1) * (1 + lane % 3 * 0.7), w: 50 + lane % 3 * 14 });
}
function hop(dx, dy) {
  frog.x = Math.max(20, Math.min(340, frog.x + dx * 40));
  frog.lane = Math.max(0, Math.min(9, frog.lane + dy));
  frog.hop = 8;
  if (frog.lane === 0) {
    score++;
    frog.lane = 9;
  }
}
addEventListener('keydown', e => {
  const d = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], ' ': [0, -1] }[e.key];
  if (d) hop(...d);
});
c.addEventListener('pointerdown', e => {
  const x = e.offsetX / c.clientWidth;
  if (x < 0.25) hop(-1, 0);
  else if (x > 0.75) hop(1, 0);
  else hop(0, -1);
});
(function frame() {
  for (const car of cars) {
    car.x += car.v;
    if (car.x > 400) car.x = -80;
    if (car.x < -80) car.x = 400;
    if (car.lane === frog.lane && frog.x + 14 > car.x && frog.x - 14 < car.x + car.w) {
      frog.lane = 9;
      score = Math.max(0, score - 1);
    }
  }
  g.fillStyle = '#386641';
  g.fillRect(0, 0, 360, 600);
  g.fillStyle = '#444';
  g.fillRect(0, LANE, 360, LANE * LANES);
  g.fillStyle = '#999';
  for (let l = 2; l <= LANES; l++) for (let x = 0; x < 360; x += 40) g.fillRect(x, l * LANE, 20, 2);
  cars.forEach((car, i) => {
    g.fillStyle = ['#e63946', '#f1c453', '#48bfe3', '#b5179e'][i % 4];
    g.fillRect(car.x, car.lane * LANE + 14, car.w, 32);
  });
  if (frog.hop > 0) frog.hop--;
  g.fillStyle = '#a7c957';
  g.beginPath();
  g.ellipse(frog.x, frog.lane * LANE + 30, 14 + frog.hop, 14, 0, 0, 7);
  g.fill();
  g.fillStyle = '#fff';
  g.font = '20px sans-serif';
  g.fillText('Crossed ' + score, 10, 30);
  requestAnimationFrame(frame);
})();
