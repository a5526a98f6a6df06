const { Engine, Render, Runner, Bodies, Body, Composite } = Matter;

window.addEventListener('DOMContentLoaded', () => {
  const engine = Engine.create();
  const render = Render.create({
    element: document.body,
    engine,
    options: { width: innerWidth, height: innerHeight, wireframes: false, background: '#14213d' },
  });
  const floor = Bodies.rectangle(innerWidth / 2, innerHeight, innerWidth, 60, { isStatic: true });
  const player = Bodies.circle(innerWidth / 2, 80, 24, { restitution: 0.8, render: { fillStyle: '#fca311' } });
  Composite.add(engine.world, [floor, player]);

  function drop(x, y) {
    Composite.add(engine.world, Bodies.polygon(x, y, 3 + Math.floor(Math.random() * 4), 26));
  }
  addEventListener('pointerdown', e => drop(e.clientX, e.clientY));
  addEventListener('keydown', e => {
    if (e.key === 'ArrowLeft') Body.applyForce(player, player.position, { x: -0.04, y: 0 });
    if (e.key === 'ArrowRight') Body.applyForce(player, player.position, { x: 0.04, y: 0 });
    if (e.key === ' ') drop(Math.random() * innerWidth, 40);
  });
  Render.run(render);
  Runner.run(Runner.create(), engine);
});
