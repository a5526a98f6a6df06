const stars = Array.from({ length: 60 }, (_, i) => ({ x: (i * 97) % 360, y: (i * 211) % 640, z: 1 + (i % 3) }));

export function drawStars(ctx, time) {
  ctx.fillStyle = '#05060f';
  ctx.fillRect(0, 0, 360, 640);
  ctx.fillStyle = '#8d99ae';
  for (const s of stars) ctx.fillRect(s.x, (s.y + time * 30 * s.z) % 640, s.z, s.z);
}

export function drawText(ctx, text, x, y) {
  ctx.font = '20px sans-serif';
  ctx.fillStyle = '#fff';
  ctx.fillText(text, x, y);
}
