const wrap = document.getElementById('wrap');
const canvas = document.getElementById('pond');
const ctx = canvas.getContext('2d');

// Fill the container. Take the canvas out of the layout while measuring.
function resize() {
  canvas.style.display = 'none';
  canvas.width = wrap.clientWidth;
  canvas.height = wrap.clientHeight;
  canvas.style.display = 'block';
}
window.addEventListener('resize', resize);
resize();

const fish = [];
for (let i = 0; i < 10; i++) fish.push({ x: i * 30, y: Math.random() * 400, v: 1 + Math.random() * 2 });
let food = null;
canvas.addEventListener('click', e => { food = { x: e.offsetX, y: e.offsetY }; });

function frame() {
  ctx.fillStyle = '#48cae4';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  for (const f of fish) {
    if (food) {
      f.x += Math.sign(food.x - f.x) * f.v;
      f.y += Math.sign(food.y - f.y) * f.v;
    } else {
      f.x = (f.x + f.v) % (canvas.width + 40);
    }
    ctx.fillStyle = '#fb8500';
    ctx.beginPath();
    ctx.ellipse(f.x, f.y, 18, 9, 0, 0, Math.PI * 2);
    ctx.fill();
  }
  requestAnimationFrame(frame);
}
frame();
