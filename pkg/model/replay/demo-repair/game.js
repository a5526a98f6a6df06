"use strict";
// Star Catcher: a basket of light catches falling stars; embers cost a life.
const canvas = document.getElementById("sky");
const ctx = canvas.getContext("2d");
const held = new Set();
let width = 0, height = 0, time = 0, last = 0, nextDrop = 0;
let basket = { x: 0, target: 0 };
let score = 0, lives = 3;
let drops = [], sparks = [];

function resize() {
  const scale = Math.min(devicePixelRatio || 1, 2);
  width = innerWidth;
  height = innerHeight;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  basket.target = Math.min(Math.max(basket.target || width / 2, 40), width - 40);
}

function drop() {
  const ember = Math.random() < 0.25;
  drops.push({ x: 30 + Math.random() * (width - 60), y: -20, ember, speed: 120 + Math.random() * 90 + score * 2, spin: Math.random() * 6 });
  nextDrop = time + Math.max(0.28, 0.8 - score * 0.01);
}

function burst(x, y, color) {
  for (let i = 0; i < 14; i++) {
    const angle = Math.random() * Math.PI * 2, speed = 40 + Math.random() * 140;
    sparks.push({ x, y, vx: Math.cos(angle) * speed, vy: Math.sin(angle) * speed, life: 0.7, color });
  }
}

function step(dt) {
  time += dt;
  if (held.has("ArrowLeft")) basket.target -= 520 * dt;
  if (held.has("ArrowRight")) basket.target += 520 * dt;
  basket.target = Math.min(Math.max(basket.target, 40), width - 40);
  basket.x += (basket.target - basket.x) * Math.min(1, dt * 14);
  if (time > nextDrop) drop();
  for (const d of drops) {
    d.y += d.speed * dt;
    if (d.y > height - 90 && d.y < height - 50 && Math.abs(d.x - basket.x) < 48) {
      d.gone = true;
      burst(d.x, d.y, d.ember ? "#ff7a59" : "#ffe27a");
      if (d.ember) lives--; else score++;
    }
  }
  drops = drops.filter((d) => !d.gone && d.y < height + 30);
  for (const s of sparks) {
    s.x += s.vx * dt;
    s.y += s.vy * dt;
    s.life -= dt;
  }
  sparks = sparks.filter((s) => s.life > 0);
  if (lives <= 0) { score = 0; lives = 3; drops = []; }
  document.getElementById("score").textContent = score;
  document.getElementById("lives").textContent = lives;
}

function paintSky() {
  const sky = ctx.createLinearGradient(0, 0, 0, height);
  sky.addColorStop(0, "#0b1030");
  sky.addColorStop(0.6, "#2a2a6b");
  sky.addColorStop(1, "#c2577a");
  ctx.fillStyle = sky;
  ctx.fillRect(0, 0, width, height);
  for (let i = 0; i < 70; i++) {
    ctx.fillStyle = `rgba(255,255,255,${0.25 + 0.25 * Math.sin(time * 2 + i)})`;
    ctx.fillRect((i * 97.3) % width, (i * 61.7) % (height * 0.7), 2, 2);
  }
  ctx.fillStyle = "#151a4a";
  ctx.beginPath();
  ctx.moveTo(0, height);
  for (let x = 0; x <= width + 20; x += 20) ctx.lineTo(x, height - 46 - 16 * Math.sin(x / 90) - 9 * Math.sin(x / 37));
  ctx.lineTo(width, height);
  ctx.fill();
}

function paintStar(d) {
  ctx.save();
  ctx.translate(d.x, d.y);
  ctx.rotate(d.spin + time * 2);
  ctx.shadowBlur = 18;
  ctx.shadowColor = ctx.fillStyle = d.ember ? "#ff7a59" : "#ffe27a";
  ctx.beginPath();
  for (let i = 0; i < 10; i++) {
    const radius = i % 2 ? 6 : 14, angle = (i * Math.PI) / 5;
    ctx.lineTo(Math.cos(angle) * radius, Math.sin(angle) * radius);
  }
  ctx.fill();
  ctx.restore();
}

function paintBasket() {
  ctx.save();
  ctx.translate(basket.x, height - 66);
  ctx.shadowBlur = 24;
  ctx.shadowColor = "#7ad7ff";
  ctx.fillStyle = "#bdeaff";
  ctx.beginPath();
  ctx.ellipse(0, 0, 44, 13, 0, 0, Math.PI);
  ctx.fill();
  ctx.restore();
}

function paint() {
  paintSky();
  paintStars(drops);
  for (const s of sparks) {
    ctx.globalAlpha = Math.max(0, s.life / 0.7);
    ctx.fillStyle = s.color;
    ctx.fillRect(s.x - 2, s.y - 2, 4, 4);
  }
  ctx.globalAlpha = 1;
  paintBasket();
}

function frame(now) {
  requestAnimationFrame(frame);
  step(Math.min(0.05, (now - last) / 1000 || 0));
  last = now;
  paint();
}

addEventListener("resize", resize);
addEventListener("keydown", (e) => { held.add(e.key); if (e.key.startsWith("Arrow")) e.preventDefault(); });
addEventListener("keyup", (e) => held.delete(e.key));
addEventListener("blur", () => held.clear());
canvas.addEventListener("pointerdown", (e) => { basket.target = e.clientX; });
canvas.addEventListener("pointermove", (e) => { basket.target = e.clientX; });
resize();
basket.x = basket.target;
requestAnimationFrame(frame);
