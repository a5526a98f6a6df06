const config = { width: 360, height: 480, tanks: 2, colors: { player: '#283618', enemy: '#bc4749' } };

function createStage(options) {
  const canvas = document.createElement('canvas');
  canvas.width = options.size.width;
  canvas.height = options.size.height;
  document.getElementById('app').appendChild(canvas);
  return canvas.getContext('2d');
}

function run() {
  const ctx = createStage(config);
  const tank = { x: 180, y: 400, angle: -Math.PI / 2 };
  const enemy = { x: 100, y: 80, dx: 1.5 };
  const shells = [];
  let score = 0;
  const fire = () => shells.push({ x: tank.x, y: tank.y });
  addEventListener('pointerdown', e => { tank.x = e.clientX; fire(); });
  addEventListener('keydown', e => {
    if (e.key === 'ArrowLeft') tank.x -= 12;
    if (e.key === 'ArrowRight') tank.x += 12;
    if (e.key === ' ') fire();
  });
  (function frame() {
    enemy.x += enemy.dx;
    if (enemy.x < 20 || enemy.x > 340) enemy.dx *= -1;
    ctx.fillStyle = '#e9edc9';
    ctx.fillRect(0, 0, 360, 480);
    ctx.fillStyle = config.colors.enemy;
    ctx.fillRect(enemy.x - 18, enemy.y - 14, 36, 28);
    ctx.fillStyle = config.colors.player;
    ctx.fillRect(tank.x - 18, tank.y - 14, 36, 28);
    for (const s of shells) {
      s.y -= 6;
      if (Math.abs(s.x - enemy.x) < 20 && Math.abs(s.y - enemy.y) < 16) { score++; s.y = -100; }
      ctx.fillRect(s.x - 2, s.y - 4, 4, 8);
    }
    ctx.fillText('Score ' + score, 10, 20);
    requestAnimationFrame(frame);
  })();
}

try {
  run();
} catch (err) {
  console.error('Could not start the game:', err);
}
