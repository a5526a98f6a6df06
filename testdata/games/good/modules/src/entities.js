export class Player {
  #cooldown = 0;

  constructor(x, y) {
    this.x = x;
    this.y = y;
  }

  update(dt, input) {
    this.#cooldown -= dt;
    if (input.target !== null) this.x += (input.target - this.x) * Math.min(1, dt * 12);
    this.x = Math.max(16, Math.min(344, this.x + input.axis * 280 * dt));
  }

  canFire() {
    return this.#cooldown <= 0;
  }

  fire() {
    this.#cooldown = 0.25;
    return { x: this.x, y: this.y - 20, dead: false };
  }

  draw(ctx) {
    ctx.fillStyle = '#06d6a0';
    ctx.beginPath();
    ctx.moveTo(this.x, this.y - 18);
    ctx.lineTo(this.x + 15, this.y + 14);
    ctx.lineTo(this.x - 15, this.y + 14);
    ctx.closePath();
    ctx.fill();
  }
}

export class Enemy {
  dead = false;
  y = -20;
  #phase = Math.random() * 6;

  constructor(x) {
    this.base = this.x = x;
  }

  update(dt) {
    this.y += 110 * dt;
    this.x = this.base + Math.sin(this.y / 40 + this.#phase) * 30;
  }

  hits(x, y) {
    return Math.abs(x - this.x) < 18 && Math.abs(y - this.y) < 18;
  }

  draw(ctx) {
    ctx.fillStyle = '#ef476f';
    ctx.fillRect(this.x - 14, this.y - 10, 28, 20);
    ctx.fillStyle = '#fff';
    ctx.fillRect(this.x - 8, this.y - 4, 5, 5);
    ctx.fillRect(this.x + 3, this.y - 4, 5, 5);
  }
}
