export class Tower {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    this.reload = 0;
  }

  // shoot returns the gold that was won.
  shoot(enemies) {
    if (this.reload-- > 0) return 0;
    const target = enemies.find(e => Math.hypot(e.x - this.x, e.y - this.y) < 110);
    if (!target) return 0;
    this.reload = 30;
    return target.hit(5) ? 10 : 0;
  }

  draw(ctx) {
    ctx.fillStyle = this.reload > 20 ? '#ffb703' : '#3a5a40';
    ctx.fillRect(this.x - 12, this.y - 12, 24, 24);
  }
}
