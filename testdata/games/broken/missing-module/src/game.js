import { Tower } from './tower.js';
import { Enemy, PATH } from './enemy.js';

const canvas = document.getElementById('c');
const ctx = canvas.getContext('2d');
const towers = [new Tower(120, 140), new Tower(330, 240)];
let enemies = [];
let gold = 100;
let frameNo = 0;

canvas.addEventListener('pointerdown', e => {
  if (gold < 50) return;
  gold -= 50;
  towers.push(new Tower(e.offsetX * 600 / canvas.clientWidth, e.offsetY * 400 / canvas.clientHeight));
});

function frame() {
  if (frameNo++ % 80 === 0) enemies.push(new Enemy(10 + frameNo / 60));
  enemies.forEach(e => e.walk());
  towers.forEach(t => { gold += t.shoot(enemies); });
  enemies = enemies.filter(e => e.alive());
  ctx.fillStyle = '#588157';
  ctx.fillRect(0, 0, 600, 400);
  ctx.strokeStyle = '#dad7cd';
  ctx.lineWidth = 28;
  ctx.beginPath();
  PATH.forEach(([x, y]) => ctx.lineTo(x, y));
  ctx.stroke();
  towers.forEach(t => t.draw(ctx));
  enemies.forEach(e => e.draw(ctx));
  ctx.fillStyle = '#fff';
  ctx.fillText(`Gold ${gold}`, 10, 20);
  requestAnimationFrame(frame);
}
frame();
