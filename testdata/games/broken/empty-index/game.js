const canvas = document.createElement('canvas');
document.body.append(canvas);
const ctx = canvas.getContext('2d');
let t = 0;
(function loop() {
  t++;
  ctx.clearRect(0, 0, 300, 150);
  ctx.fillRect(t % 300, 60, 20, 20);
  requestAnimationFrame(loop);
})();
