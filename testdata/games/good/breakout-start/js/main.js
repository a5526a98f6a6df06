class Game {
  constructor(canvas) {
    this.canvas = canvas;
    this.ctx = canvas.getContext('2d');
    this.keys = new Set();
    this.reset();
    this.bind();
  }

  reset() {
    this.paddle = { x: 200, w: 90 };
    this.ball = { x: 240, y: 500, vx: 3, vy: -4 };
    this.lives = 3;
    this.score = 0;
    this.bricks = [];
    for (let r = 0; r < 6; r++) {
      for (let c = 0; c < 8; c++) this.bricks.push({ x: c * 58 + 10, y: r * 24 + 60, hue: r * 50, alive: true });
    }
  }

  bind() {
    addEventListener('keydown', e => this.keys.add(e.key));
    addEventListener('keyup', e => this.keys.delete(e.key));
    this.canvas.addEventListener('pointermove', e => this.follow(e));
    this.canvas.addEventListener('pointerdown', e => this.follow(e));
  }

  follow(e) {
    const r = this.canvas.getBoundingClientRect();
    this.paddle.x = (e.clientX - r.left) * 480 / r.width - this.paddle.w / 2;
  }

  update() {
    if (this.keys.has('ArrowLeft')) this.paddle.x -= 7;
    if (this.keys.has('ArrowRight')) this.paddle.x += 7;
    this.paddle.x = Math.max(0, Math.min(480 - this.paddle.w, this.paddle.x));
    const b = this.ball;
    b.x += b.vx;
    b.y += b.vy;
    if (b.x < 8 || b.x > 472) b.vx = -b.vx;
    if (b.y < 8) b.vy = Math.abs(b.vy);
    if (b.y > 600 && b.y < 616 && b.x > this.paddle.x && b.x < this.paddle.x + this.paddle.w) {
      b.vy = -Math.abs(b.vy);
      b.vx = (b.x - this.paddle.x - this.paddle.w / 2) / 9;
    }
    if (b.y > 660) {
      this.lives--;
      Object.assign(b, { x: 240, y: 500, vx: 3, vy: -4 });
      if (!this.lives) this.reset();
    }
    for (const k of this.bricks) {
      if (k.alive && b.x > k.x && b.x < k.x + 52 && b.y > k.y && b.y < k.y + 18) {
        k.alive = false;
        b.vy = -b.vy;
        this.score += 10;
        break;
      }
    }
    if (this.bricks.every(k => !k.alive)) this.reset();
  }

  draw() {
    const c = this.ctx;
    c.fillStyle = '#0f0f23';
    c.fillRect(0, 0, 480, 640);
    for (const k of this.bricks) {
      if (!k.alive) continue;
      c.fillStyle = `hsl(${k.hue} 70% 55%)`;
      c.fillRect(k.x, k.y, 52, 18);
    }
    c.fillStyle = '#fff';
    c.fillRect(this.paddle.x, 606, this.paddle.w, 10);
    c.beginPath();
    c.arc(this.ball.x, this.ball.y, 8, 0, Math.PI * 2);
    c.fill();
    c.font = '18px Arial';
    c.fillText(`Score ${this.score}`, 12, 28);
    c.fillText(`Lives ${this.lives}`, 400, 28);
  }

  run() {
    this.update();
    this.draw();
    requestAnimationFrame(() => this.run());
  }
}

document.getElementById('start').addEventListener('click', () => {
  document.getElementById('menu').remove();
  const canvas = document.getElementById('canvas');
  canvas.hidden = false;
  new Game(canvas).run();
});
