const game = {
  canvas: document.getElementById('game'),
  running: false,
  x: 0,
  speed: 0,

  init() {
    this.ctx = this.canvas.getContext('2d');
    this.bind();
  },

  // bind connects the buttons and the keys.
  bind() {
    const startButton = document.querySelector('#start-button');
    if (startButton) startButton.addEventListener('click', () => this.start());
    document.addEventListener('keydown', e => {
      if (!this.running) return;
      if (e.key === 'ArrowLeft') this.x -= 10;
      if (e.key === 'ArrowRight') this.x += 10;
    });
  },

  start() {
    this.canvas.hidden = false;
    this.canvas.width = innerWidth;
    this.canvas.height = innerHeight;
    this.running = true;
    this.loop();
  },

  loop() {
    if (!this.running) return;
    this.speed = Math.min(12, this.speed + 0.02);
    this.ctx.fillStyle = '#03045e';
    this.ctx.fillRect(0, 0, innerWidth, innerHeight);
    this.ctx.fillStyle = '#48cae4';
    this.ctx.fillRect(innerWidth / 2 + this.x, innerHeight - 90, 30, 50);
    requestAnimationFrame(() => this.loop());
  },
};

game.init();
