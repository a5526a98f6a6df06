const canvas = document.createElement('canvas');
canvas.width = window.innerWidth;
canvas.height = window.innerHeight;
const ctx = canvas.getContext('2d');

const flies = [];
for (let i = 0; i < 40; i++) {
  flies.push({ x: Math.random() * canvas.width, y: Math.random() * canvas.height, a: Math.random() * 6, s: 0.4 + Math.random() });
}
const lantern = { x: canvas.width / 2, y: canvas.height / 2, caught: 0 };

window.addEventListener('mousemove', e => { lantern.x = e.clientX; lantern.y = e.clientY; });
window.addEventListener('touchmove', e => { lantern.x = e.touches[0].clientX; lantern.y = e.touches[0].clientY; });
window.addEventListener('keydown', e => {
  if (e.key === 'ArrowLeft') lantern.x -= 15;
  if (e.key === 'ArrowRight') lantern.x += 15;
  if (e.key === 'ArrowUp') lantern.y -= 15;
  if (e.key === 'ArrowDown') lantern.y += 15;
});

function loop(t) {
  ctx.fillStyle = 'rgba(5, 10, 20, 0.3)';
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  for (const f of flies) {
    f.a += (Math.random() - 0.5) * 0.4;
    f.x = (f.x + Math.cos(f.a) * f.s + canvas.width) % canvas.width;
    f.y = (f.y + Math.sin(f.a) * f.s + canvas.height) % canvas.height;
    if (Math.hypot(f.x - lantern.x, f.y - lantern.y) < 20) {
      lantern.caught++;
      f.x = Math.random() * canvas.width;
    }
    ctx.fillStyle = `rgba(255, 240, 120, ${0.5 + Math.sin(t / 200 + f.a) / 2})`;
    ctx.fillRect(f.x, f.y, 3, 3);
  }
  ctx.strokeStyle = '#fff';
  ctx.beginPath();
  ctx.arc(lantern.x, lantern.y, 20, 0, Math.PI * 2);
  ctx.stroke();
  requestAnimationFrame(loop);
}
requestAnimationFrame(loop);
