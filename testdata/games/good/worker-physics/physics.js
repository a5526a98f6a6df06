let w = 0, h = 0, bodies = [], nextId = 0;

function spawn() {
  const r = 18 + Math.random() * 26;
  bodies.push({ id: nextId++, r, x: r + Math.random() * (w - 2 * r), y: h - r, vx: (Math.random() - 0.5) * 120, vy: -60 - Math.random() * 120 });
}

function step(dt) {
  for (const b of bodies) {
    b.x += b.vx * dt;
    b.y += b.vy * dt;
    if (b.x < b.r || b.x > w - b.r) { b.vx *= -1; b.x = Math.max(b.r, Math.min(w - b.r, b.x)); }
    if (b.y < b.r || b.y > h - b.r) { b.vy *= -1; b.y = Math.max(b.r, Math.min(h - b.r, b.y)); }
  }
}

onmessage = ({ data }) => {
  switch (data.type) {
    case 'init':
      w = data.w;
      h = data.h;
      for (let i = 0; i < data.count; i++) spawn();
      setInterval(() => { step(1 / 60); postMessage(bodies); }, 1000 / 60);
      break;
    case 'pop':
      bodies = bodies.filter(b => b.id !== data.id);
      spawn();
      break;
    case 'push':
      for (const b of bodies) {
        b.vx += Math.sign(b.x - data.x) * 40;
        b.vy += Math.sign(b.y - data.y) * 40;
      }
  }
};
