import { Input } from './input.js';
import { Player, Enemy } from './entities.js';
import { drawStars, drawText } from './render.js';

const canvas = document.getElementById('game');
const ctx = canvas.getContext('2d');
const input = new Input(canvas);
const state = { player: new Player(180, 580), bullets: [], enemies: [], score: 0, time: 0 };

function update(dt) {
  state.time += dt;
  state.player.update(dt, input);
  if (state.player.canFire()) state.bullets.push(state.player.fire());
  if (Math.random() < dt * 1.5) state.enemies.push(new Enemy(20 + Math.random() * 320));
  for (const b of state.bullets) b.y -= 500 * dt;
  for (const e of state.enemies) e.update(dt);
  for (const e of state.enemies) {
    for (const b of state.bullets) {
      if (e.hits(b.x, b.y)) {
        e.dead = b.dead = true;
        state.score += 100;
      }
    }
    if (e.hits(state.player.x, state.player.y)) {
      state.score = 0;
      e.dead = true;
    }
  }
  state.bullets = state.bullets.filter(b => !b.dead && b.y > -10);
  state.enemies = state.enemies.filter(e => !e.dead && e.y < 680);
}

function draw() {
  drawStars(ctx, state.time);
  ctx.fillStyle = '#ffd166';
  for (const b of state.bullets) ctx.fillRect(b.x - 2, b.y - 8, 4, 12);
  state.enemies.forEach(e => e.draw(ctx));
  state.player.draw(ctx);
  drawText(ctx, `Score ${state.score}`, 10, 26);
}

let last = performance.now();
function frame(now) {
  update(Math.min((now - last) / 1000, 0.05));
  last = now;
  draw();
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
