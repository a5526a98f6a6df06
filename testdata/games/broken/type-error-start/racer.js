class Racer {
  constructor() {
    this.canvas = document.getElementById('road');
    this.ctx = this.canvas.getContext('2d');
    this.lane = 1;
    this.cars = [];
    this.distance = 0;
    this.scoreEl = document.getElementById('score');
    this.setup();
  }

  setup() {
    this.scoreEl.textContent = '0 m';
    document.addEventListener('keydown', e => {
      if (e.key === 'ArrowLeft') this.lane = Math.max(0, this.lane - 1);
      if (e.key === 'ArrowRight') this.lane = Math.min(2, this.lane + 1);
    });
    this.canvas.addEventListener('pointerdown', e => {
      this.lane = Math.floor(e.offsetX / this.canvas.clientWidth * 3);
    });
  }

  update() {
    this.distance++;
    if (this.distance % 60 === 0) this.cars.push({ lane: Math.floor(Math.random() * 3), y: -80 });
    this.cars.forEach(c => { c.y += 6; });
    this.cars = this.cars.filter(c => c.y < 700);
    this.scoreEl.textContent = `${this.distance} m`;
  }

  draw() {
    const { ctx } = this;
    ctx.fillStyle = '#555';
    ctx.fillRect(0, 0, 300, 600);
    ctx.fillStyle = '#fff';
    for (let y = -60 + (this.distance * 6) % 60; y < 600; y += 60) {
      ctx.fillRect(98, y, 4, 30);
      ctx.fillRect(198, y, 4, 30);
    }
    ctx.fillStyle = '#e63946';
    this.cars.forEach(c => ctx.fillRect(c.lane * 100 + 25, c.y, 50, 80));
    ctx.fillStyle = '#2a9d8f';
    ctx.fillRect(this.lane * 100 + 25, 490, 50, 80);
  }

  start() {
    const loop = () => {
      this.update();
      this.draw();
      requestAnimationFrame(loop);
    };
    loop();
  }
}

new Racer().start();
