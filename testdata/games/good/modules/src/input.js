export class Input {
  constructor(canvas) {
    this.axis = 0;
    this.target = null;
    const keys = new Set();
    const axis = () => { this.axis = (keys.has('ArrowRight') ? 1 : 0) - (keys.has('ArrowLeft') ? 1 : 0); };
    window.addEventListener('keydown', e => { keys.add(e.key); this.target = null; axis(); });
    window.addEventListener('keyup', e => { keys.delete(e.key); axis(); });
    const point = e => {
      const r = canvas.getBoundingClientRect();
      this.target = (e.clientX - r.left) * canvas.width / r.width;
    };
    window.addEventListener('pointermove', point);
    window.addEventListener('pointerdown', point);
  }
}
