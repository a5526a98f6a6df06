// Frostline: a snake on ice.
//
// The world is measured in units; the view scales it to the window. Physics
// run in fixed steps, drawing interpolates between them. Order of the file:
// settings, view, state, physics, rules, scenery, drawing, sound, input, loop.
(() => {
  'use strict';

  // ------------------------------------------------------------- settings

  const TUNING = {
    cruise: 200,        // speed the snake strives for, units per second
    grip: 1.9,          // how fast the motion follows the nose, per second: less is icier
    turnRate: 4.4,      // how fast the nose turns, radians per second
    speedUp: 0.055,     // extra speed per level
    palette: 'aurora',  // a name from PALETTES
  };

  // Every wish adds one more berry on the ice and turns the light once.
  const WISHES = [
    // newest wish first
  ];

  const PALETTES = {
    aurora: {
      ice: ['#0a2848', '#0f4a6c', '#1d7690'], bank: ['#eefaff', '#a9cfe4', '#5f8fb0'], night: '#051226',
      lights: ['#35f2b0', '#2fc4ff', '#8b7bff'], snake: ['#d8ff8a', '#3ddc84', '#0c8a80'],
      berry: '#ff5a4e', scarf: ['#ff5d5d', '#ffd9c9'], accent: ['#5dffc4', '#4cc9ff'],
    },
    ember: {
      ice: ['#1f0d35', '#4d1c4f', '#98394f'], bank: ['#fff1e6', '#e9b9b4', '#9a5f7c'], night: '#150823',
      lights: ['#ffb04a', '#ff5f8f', '#b04bff'], snake: ['#fff3a3', '#ffb43a', '#f0643c'],
      berry: '#52f0ff', scarf: ['#3ad0ff', '#e8fbff'], accent: ['#ffc35a', '#ff8a7a'],
    },
    violet: {
      ice: ['#130f3d', '#29207a', '#5546b8'], bank: ['#f4f0ff', '#c4b8f0', '#7a6bc0'], night: '#0b0826',
      lights: ['#ff7be0', '#7bd0ff', '#9dff8a'], snake: ['#ffe3f6', '#ff86cc', '#a04fe0'],
      berry: '#ffd23f', scarf: ['#3fe0c0', '#eafff9'], accent: ['#ff9be8', '#8fb8ff'],
    },
    fjord: {
      ice: ['#06282b', '#0d5a52', '#2b9a78'], bank: ['#f2fff6', '#b4dcc4', '#5f9c84'], night: '#03171a',
      lights: ['#e8ff6a', '#4dffa0', '#3ac8ff'], snake: ['#ffffff', '#9fd8ff', '#3a86e0'],
      berry: '#ff8a2a', scarf: ['#ff4f7a', '#ffe3ea'], accent: ['#c8ff6a', '#5dffc4'],
    },
  };
  const paletteNames = Object.keys(PALETTES);
  const turned = paletteNames.indexOf(TUNING.palette) + WISHES.length;
  const palette = PALETTES[paletteNames[turned % paletteNames.length]];

  const STEP = 1 / 120;         // seconds of one physics step
  const RADIUS = 12;            // of the snake, units
  const START_LENGTH = 150;     // units
  const GROWTH = 26;            // units per berry
  const BERRIES_PER_LEVEL = 5;
  const CHAIN_SECONDS = 4;      // time to eat again and raise the multiplier
  const MAX_CHAIN = 5;
  const HEARTS = 3;
  const BEST_KEY = 'frostline.best';
  const TAU = Math.PI * 2;

  const $ = (id) => document.getElementById(id);
  const clamp = (v, lo, hi) => Math.min(hi, Math.max(lo, v));
  const lerp = (a, b, t) => a + (b - a) * t;
  const rand = (lo, hi) => lo + Math.random() * (hi - lo);
  const wrapAngle = (a) => Math.atan2(Math.sin(a), Math.cos(a));

  const motionQuery = window.matchMedia('(prefers-reduced-motion: reduce)');
  let calm = motionQuery.matches;
  motionQuery.addEventListener('change', (e) => { calm = e.matches; });

  // ----------------------------------------------------------------- view

  const canvas = $('rink');
  const ctx = canvas.getContext('2d');
  const view = { width: 0, height: 0, dpr: 1, scale: 1 };  // CSS pixels, pixels per unit
  const rink = { left: 0, top: 0, right: 0, bottom: 0, corner: 80 };
  const layers = {};

  function resize() {
    view.width = Math.max(1, window.innerWidth);
    view.height = Math.max(1, window.innerHeight);
    view.dpr = Math.min(2, window.devicePixelRatio || 1);
    view.scale = clamp(Math.sqrt(view.width * view.height) / 880, 0.72, 2.2);
    canvas.width = Math.round(view.width * view.dpr);
    canvas.height = Math.round(view.height * view.dpr);
    const margin = 24 / Math.max(1, view.scale);
    rink.left = margin;
    rink.top = 74 / view.scale;  // below the score board
    rink.right = view.width / view.scale - margin;
    rink.bottom = view.height / view.scale - margin;
    rink.corner = Math.min(80, (rink.right - rink.left) / 3, (rink.bottom - rink.top) / 3);
    layers.ice = paintIce();
    layers.bank = paintBank();
    layers.floor = makeLayer();  // the ice with the light on it
    auroraDue = 0;
    layers.marks = makeLayer();
    if (snake.trail.length) keepInside();
  }

  // makeLayer returns a canvas of the window's size with a context in units.
  function makeLayer() {
    const c = document.createElement('canvas');
    c.width = canvas.width;
    c.height = canvas.height;
    const g = c.getContext('2d');
    const k = view.scale * view.dpr;
    g.setTransform(k, 0, 0, k, 0, 0);
    return { canvas: c, g };
  }

  // ---------------------------------------------------------------- state

  const snake = {
    x: 0, y: 0, vx: 0, vy: 0, heading: 0, want: 0,
    length: START_LENGTH, grown: START_LENGTH,
    travelled: 0,                // distance the head has covered
    trail: [],                   // {x, y, s}: where the head was at distance s
    before: { s: 0, heading: 0 },// as of the step before, for drawing
    slip: 0, safe: 0, bumped: 0,
  };
  const run = {
    state: 'ready', score: 0, berries: 0, hearts: HEARTS, chain: 0, bestChain: 0,
    chainLeft: 0, longest: 0, time: 0, nextHole: 0, nextStar: 0, reason: '',
  };
  let best = loadBest();
  let food = [];
  let holes = [];
  let particles = [];
  let floaters = [];
  let shake = 0;

  const level = () => 1 + Math.floor(run.berries / BERRIES_PER_LEVEL);
  const segments = () => Math.round(snake.grown / GROWTH);

  function loadBest() {
    try {
      return Math.max(0, parseInt(localStorage.getItem(BEST_KEY), 10) || 0);
    } catch {
      return 0;  // storage is blocked: the best score lives until the page closes
    }
  }

  function saveBest() {
    try {
      localStorage.setItem(BEST_KEY, String(best));
    } catch { /* see loadBest */ }
  }

  function reset() {
    const y = lerp(rink.top, rink.bottom, 0.76);
    const x = lerp(rink.left, rink.right, 0.3);
    Object.assign(snake, {
      x, y, vx: TUNING.cruise * 0.6, vy: 0, heading: 0, want: 0, length: START_LENGTH,
      grown: START_LENGTH, travelled: START_LENGTH, slip: 0, safe: 1.2, bumped: 0,
      before: { s: START_LENGTH, heading: 0 },
    });
    snake.trail = [];
    for (let d = START_LENGTH; d > 0; d -= 3) {  // it comes out of the snow on the left
      snake.trail.push({ x: x - d, y: y + Math.sin(d / 26) * 7 * Math.min(1, d / 40), s: START_LENGTH - d });
    }
    Object.assign(run, {
      score: 0, berries: 0, hearts: HEARTS, chain: 0, bestChain: 0, chainLeft: 0,
      longest: segments(), time: 0, nextHole: 5, nextStar: 12, reason: '',
    });
    food = [];
    holes = [];
    particles = [];
    floaters = [];
    shake = 0;
    layers.marks = makeLayer();
    scratch = null;
    while (food.length < 1 + Math.min(5, WISHES.length)) addFood('berry');
    layScarf();
  }

  // -------------------------------------------------------------- physics

  function step(dt) {
    const playing = run.state === 'playing';
    snake.before = { s: snake.travelled, heading: snake.heading };
    if (playing) readInput();
    else autopilot();
    glide(dt, playing && input.carve);
    bounceOffSnow();
    recordTrail();
    snake.length = Math.min(snake.grown, snake.length + 70 * dt);
    snake.safe = Math.max(0, snake.safe - dt);
    snake.bumped = Math.max(0, snake.bumped - dt);
    eat(playing);
    moveFood(dt);
    if (playing) {
      run.time += dt;
      run.chainLeft = Math.max(0, run.chainLeft - dt);
      if (run.chainLeft === 0) run.chain = 0;
      moveHoles(dt);
      if (snake.safe === 0) checkHarm();
    }
  }

  // glide turns the nose at a limited rate, pushes along it, and lets the
  // motion follow slowly: the difference between the two is the drift.
  function glide(dt, carving) {
    const turn = TUNING.turnRate * (carving ? 1.5 : 1) * dt;
    snake.heading = wrapAngle(snake.heading + clamp(wrapAngle(snake.want - snake.heading), -turn, turn));
    const pace = TUNING.cruise * Math.min(1.9, 1 + TUNING.speedUp * (level() - 1)) * (carving ? 0.62 : 1);
    const grip = 1 - Math.exp(-TUNING.grip * (carving ? 3.2 : 1) * dt);
    snake.vx = lerp(snake.vx, Math.cos(snake.heading) * pace, grip);
    snake.vy = lerp(snake.vy, Math.sin(snake.heading) * pace, grip);
    snake.x += snake.vx * dt;
    snake.y += snake.vy * dt;
    const side = -Math.sin(snake.heading) * snake.vx + Math.cos(snake.heading) * snake.vy;
    snake.slip = clamp(Math.abs(side) / TUNING.cruise, 0, 1);
    if (snake.slip > 0.25 && Math.random() < snake.slip * (carving ? 1.1 : 0.5)) spray(Math.sign(side));
  }

  // bounceOffSnow keeps the head on the rink, whose corners are round. A bump
  // turns the motion along the snow, so that nobody is thrown into their own
  // tail.
  function bounceOffSnow() {
    const inset = RADIUS + rink.corner;
    const cx = clamp(snake.x, rink.left + inset, rink.right - inset);
    const cy = clamp(snake.y, rink.top + inset, rink.bottom - inset);
    const dx = snake.x - cx;
    const dy = snake.y - cy;
    const distance = Math.hypot(dx, dy);
    if (distance <= rink.corner) return;
    const nx = dx / distance;
    const ny = dy / distance;
    snake.x = cx + nx * rink.corner;
    snake.y = cy + ny * rink.corner;
    const out = snake.vx * nx + snake.vy * ny;
    if (out <= 0) return;
    let along = -ny * snake.vx + nx * snake.vy;
    const least = TUNING.cruise * 0.55;
    if (Math.abs(along) < least) along = (along || Math.random() - 0.5) < 0 ? -least : least;
    snake.vx = -ny * along - nx * out * 0.35;
    snake.vy = nx * along - ny * out * 0.35;
    if (out < 60) return;
    snake.heading = Math.atan2(snake.vy, snake.vx);
    snake.want = snake.heading;
    snake.bumped = 0.4;
    puff(snake.x + nx * RADIUS, snake.y + ny * RADIUS, 10, '#ffffff', 130);
    if (run.state === 'playing') {
      jolt(Math.min(5, out / 45));
      sound.bump(out / 300);
    }
  }

  function recordTrail() {
    const last = snake.trail[snake.trail.length - 1];
    const moved = Math.hypot(snake.x - last.x, snake.y - last.y);
    snake.travelled = last.s + moved;
    if (moved < 2.5) return;
    snake.trail.push({ x: snake.x, y: snake.y, s: snake.travelled });
    carveMark();
    const oldest = snake.travelled - snake.length - 60;
    while (snake.trail.length > 2 && snake.trail[1].s < oldest) snake.trail.shift();
  }

  // bodyPoints walks the trail back from distance s and returns [x, y, d, …]
  // from the head to the tail, d being the distance from the head.
  function bodyPoints(s, spacing) {
    const points = [];
    const trail = snake.trail;
    let i = trail.length - 1;
    let ahead = { x: snake.x, y: snake.y, s: snake.travelled };
    for (let d = 0; d <= snake.length; d += spacing) {
      const at = s - d;
      while (i > 0 && trail[i].s > at) ahead = trail[i--];
      const behind = trail[i];
      const t = ahead.s > behind.s ? clamp((at - behind.s) / (ahead.s - behind.s), 0, 1) : 0;
      points.push(lerp(behind.x, ahead.x, t), lerp(behind.y, ahead.y, t), d);
    }
    return points;
  }

  // thickness of the body at distance d from the head: a neck and a thin tail.
  function thickness(d) {
    const toTail = (snake.length - d) / Math.min(130, snake.length * 0.6);
    const neck = 1 - 0.2 * Math.exp(-(((d - RADIUS * 1.9) / RADIUS) ** 2));
    return RADIUS * neck * (0.18 + 0.82 * Math.sqrt(clamp(toTail, 0, 1)));
  }

  // keepInside puts everything back on the rink after the window has changed.
  function keepInside() {
    const fit = (o, r) => {
      o.x = clamp(o.x, rink.left + r, rink.right - r);
      o.y = clamp(o.y, rink.top + r, rink.bottom - r);
    };
    fit(snake, RADIUS + 2);
    food.forEach((f) => fit(f, 40));
    holes.forEach((h) => fit(h, h.r));
  }

  // The snake behind the start screen looks for berries by itself.
  function autopilot() {
    const goal = food[0];
    if (goal) snake.want = Math.atan2(goal.y - snake.y, goal.x - snake.x);
  }

  // ---------------------------------------------------------------- rules

  function addFood(kind) {
    let spot = null;
    for (let tries = 0; tries < 40; tries++) {
      spot = { x: rand(rink.left + 55, rink.right - 55), y: rand(rink.top + 55, rink.bottom - 55) };
      if (isFree(spot, 60)) break;
    }
    food.push({ ...spot, kind, age: 0, life: kind === 'star' ? 7 : Infinity, spin: rand(0, TAU) });
  }

  function isFree(spot, room) {
    const far = (o, d) => Math.hypot(o.x - spot.x, o.y - spot.y) > d;
    if (!far(snake, 110) || !holes.every((h) => far(h, h.r + room)) || !food.every((f) => far(f, room))) return false;
    const body = bodyPoints(snake.travelled, 20);
    for (let i = 0; i < body.length; i += 3) {
      if (!far({ x: body[i], y: body[i + 1] }, room * 0.6)) return false;
    }
    return true;
  }

  function moveFood(dt) {
    for (const f of food) {
      f.age += dt;
      f.spin += dt;
      const near = Math.hypot(snake.x - f.x, snake.y - f.y);
      if (near > 75) continue;  // a berry rolls towards a mouth that is close
      f.x += ((snake.x - f.x) / near) * 130 * dt;
      f.y += ((snake.y - f.y) / near) * 130 * dt;
    }
    food = food.filter((f) => f.age < f.life);
    if (run.state === 'playing' && run.time > run.nextStar) {
      run.nextStar = run.time + rand(12, 18);
      addFood('star');
    }
  }

  function eat(scoring) {
    const reach = RADIUS * 2.2;
    for (const f of food.filter((one) => Math.hypot(one.x - snake.x, one.y - snake.y) < reach)) {
      food.splice(food.indexOf(f), 1);
      const color = f.kind === 'star' ? '#ffe27a' : palette.berry;
      puff(f.x, f.y, 16, color, 190);
      if (f.kind === 'berry') addFood('berry');
      if (scoring) reward(f, color);
    }
  }

  function reward(f, color) {
    run.chain = Math.min(MAX_CHAIN, run.chain + 1);
    run.bestChain = Math.max(run.bestChain, run.chain);
    run.chainLeft = CHAIN_SECONDS;
    const points = (f.kind === 'star' ? 50 : 10) * run.chain;
    run.score += points;
    floaters.push({ x: f.x, y: f.y - 18, text: `+${points}`, color, age: 0 });
    sound.eat(run.chain, f.kind === 'star');
    if (f.kind !== 'berry') return;
    const reached = level();
    run.berries++;
    snake.grown += GROWTH;
    run.longest = Math.max(run.longest, segments());
    if (level() > reached) {
      floaters.push({ x: snake.x, y: snake.y - 46, text: `Level ${level()}`, color: '#ffffff', age: -0.5, big: true });
      announce(`Level ${level()}`);
      sound.level();
    }
  }

  // A hole warns, opens, and freezes over: 'crack' → 'open' → 'close' → gone.
  function moveHoles(dt) {
    if (run.time > run.nextHole && holes.length < Math.min(6, 1 + level())) {
      run.nextHole = run.time + Math.max(1.6, 5.5 - level() * 0.5);
      const spot = { x: rand(rink.left + 70, rink.right - 70), y: rand(rink.top + 70, rink.bottom - 70) };
      if (Math.hypot(spot.x - snake.x, spot.y - snake.y) > 170 && food.every((f) => Math.hypot(f.x - spot.x, f.y - spot.y) > 70)) {
        holes.push({ ...spot, r: rand(26, 40), phase: 'crack', age: 0, shape: Array.from({ length: 14 }, () => rand(0.84, 1.1)) });
        sound.crack();
      }
    }
    const lasts = { crack: 2.2, open: 8, close: 1 };
    const next = { crack: 'open', open: 'close', close: 'gone' };
    for (const h of holes) {
      h.age += dt;
      if (h.age < lasts[h.phase]) continue;
      h.phase = next[h.phase];
      h.age = 0;
      if (h.phase === 'open') puff(h.x, h.y, 14, '#d9f6ff', 120);
    }
    holes = holes.filter((h) => h.phase !== 'gone');
  }

  function checkHarm() {
    const hole = holes.find((h) => h.phase === 'open' && Math.hypot(h.x - snake.x, h.y - snake.y) < h.r * 0.85);
    if (hole) {
      Object.assign(hole, { phase: 'close', age: 0 });
      puff(hole.x, hole.y, 26, '#7fd4ff', 220);
      snake.vx *= 0.25;
      snake.vy *= 0.25;
      hurt('Through the thin ice');
      return;
    }
    if (snake.bumped > 0) return;
    const body = bodyPoints(snake.travelled, 7);
    for (let i = 0; i < body.length; i += 3) {
      const d = body[i + 2];
      if (d < RADIUS * 6) continue;
      if (Math.hypot(body[i] - snake.x, body[i + 1] - snake.y) > RADIUS * 0.85 + thickness(d) * 0.8) continue;
      for (let j = i; j < body.length; j += 6) puff(body[j], body[j + 1], 3, palette.snake[1], 110);
      snake.grown = Math.max(RADIUS * 5, d - RADIUS);
      snake.length = Math.min(snake.length, snake.grown);
      hurt('Bitten by yourself');
      return;
    }
  }

  function hurt(reason) {
    run.hearts--;
    run.chain = 0;
    run.chainLeft = 0;
    snake.safe = 1.8;
    jolt(10);
    sound.hurt();
    if (run.hearts > 0) {
      announce(`${reason}. ${run.hearts} ${run.hearts === 1 ? 'heart' : 'hearts'} left`);
      return;
    }
    run.reason = reason;
    endedAt = performance.now();
    setState('over');
  }

  // ---------------------------------------------------- states and screens

  function setState(state) {
    run.state = state;
    $('app').dataset.state = state;
    for (const name of ['ready', 'paused', 'over']) $(`screen-${name}`).hidden = state !== name;
    input.clear();
    if (state === 'over') showResult();
    const focus = { playing: 'rink', paused: 'resume', over: 'again' }[state];
    if (focus) $(focus).focus({ preventScroll: true });  // not on load: a page around us may have it
    announce({ ready: '', playing: 'On the ice', paused: 'Paused', over: `Game over. ${run.score} points` }[state]);
    sound.hush(state !== 'playing');
  }

  let endedAt = -Infinity;

  function start() {
    if (performance.now() - endedAt < 500) return;  // a key meant for the game that just ended
    reset();
    setState('playing');
    sound.level();
  }

  function togglePause() {
    if (run.state === 'playing') setState('paused');
    else if (run.state === 'paused') setState('playing');
  }

  function showResult() {
    const record = run.score > best;
    if (record) {
      best = run.score;
      saveBest();
    }
    $('over-reason').textContent = run.reason;
    $('over-score').textContent = run.score;
    $('over-record').textContent = record ? 'A new best!' : `Best: ${best}`;
    $('over-berries').textContent = run.berries;
    $('over-length').textContent = run.longest;
    $('over-chain').textContent = `×${run.bestChain}`;
    $('over-level').textContent = level();
  }

  function announce(text) {
    $('announce').textContent = text;
  }

  const shown = {};
  function setText(id, value) {
    if (shown[id] === value) return;
    shown[id] = value;
    $(id).textContent = value;
  }

  function updateHud() {
    setText('score', run.score);
    setText('best', Math.max(best, run.score));
    setText('level', level());
    setText('combo-text', `×${Math.max(2, run.chain)}`);
    $('combo').classList.toggle('live', run.chain > 1);
    $('combo-bar').style.transform = `scaleX(${(run.chainLeft / CHAIN_SECONDS).toFixed(3)})`;
    if (shown.hearts === run.hearts) return;
    shown.hearts = run.hearts;
    const heart = (i) => `<svg viewBox="0 0 24 24" class="${i < run.hearts ? '' : 'lost'}"><path d="M12 21C5 15.5 2.5 12 2.5 8.5A4.8 4.8 0 0 1 12 6.8a4.8 4.8 0 0 1 9.5 1.7C21.5 12 19 15.5 12 21z"/></svg>`;
    $('hearts').innerHTML = Array.from({ length: HEARTS }, (_, i) => heart(i)).join('');
    $('hearts').setAttribute('aria-label', `${run.hearts} of ${HEARTS} hearts left`);
  }

  // -------------------------------------------------------------- scenery

  function rinkPath(g, grow, wobble) {
    const { left, top, right, bottom, corner } = rink;
    const r = corner + grow;
    const corners = [[right - corner, top + corner, -90], [right - corner, bottom - corner, 0], [left + corner, bottom - corner, 90], [left + corner, top + corner, 180]];
    const points = [];
    for (const [cx, cy, from] of corners) {
      for (let a = 0; a <= 90; a += 10) {
        const t = ((from + a) * Math.PI) / 180;
        points.push([cx + Math.cos(t) * r, cy + Math.sin(t) * r]);
      }
    }
    const edge = [];
    points.forEach(([x, y], i) => {
      const [px, py] = points[(i + points.length - 1) % points.length];
      const parts = Math.max(1, Math.round(Math.hypot(x - px, y - py) / 26));
      for (let k = 1; k <= parts; k++) {
        const lump = wobble * Math.sin(edge.length * 1.13 + wobble * 3) * Math.cos(edge.length * 0.37);
        edge.push([lerp(px, x, k / parts) + lump, lerp(py, y, k / parts) + lump]);
      }
    });
    const middle = (p, q) => [(p[0] + q[0]) / 2, (p[1] + q[1]) / 2];
    g.moveTo(...middle(edge[edge.length - 1], edge[0]));
    edge.forEach((p, i) => g.quadraticCurveTo(...p, ...middle(p, edge[(i + 1) % edge.length])));
    g.closePath();
  }

  function paintIce() {
    const layer = makeLayer();
    const { g } = layer;
    const w = view.width / view.scale;
    const h = view.height / view.scale;
    const base = g.createLinearGradient(0, h, w, 0);
    palette.ice.forEach((color, i) => base.addColorStop(i / 2, color));
    g.fillStyle = base;
    g.fillRect(0, 0, w, h);
    const moon = g.createRadialGradient(w * 0.72, h * 0.22, 0, w * 0.72, h * 0.22, Math.max(w, h) * 0.7);
    moon.addColorStop(0, 'rgba(255,255,255,0.2)');
    moon.addColorStop(1, 'rgba(255,255,255,0)');
    g.fillStyle = moon;
    g.fillRect(0, 0, w, h);
    const amount = (w * h) / 1000;
    for (let i = 0; i < amount * 0.05; i++) paintBubbles(g, rand(0, w), rand(0, h));
    for (let i = 0; i < amount * 0.018; i++) paintCrack(g, rand(0, w), rand(0, h), rand(0, TAU), rand(60, 190), 1.5);
    g.lineWidth = 0.8;
    for (let i = 0; i < amount * 0.12; i++) {  // old skate marks
      g.strokeStyle = `rgba(255,255,255,${rand(0.02, 0.07)})`;
      const from = rand(0, TAU);
      g.beginPath();
      g.arc(rand(0, w), rand(0, h), rand(40, 240), from, from + rand(0.1, 0.6));
      g.stroke();
    }
    return layer;
  }

  function paintBubbles(g, x, y) {  // air that froze on its way up
    const count = Math.round(rand(2, 8));
    for (let i = 0; i < count; i++) {
      const r = rand(0.8, 4.5);
      const bx = x + rand(-16, 16);
      const by = y + rand(-16, 16);
      g.beginPath();
      g.arc(bx, by, r, 0, TAU);
      g.fillStyle = `rgba(255,255,255,${rand(0.03, 0.09)})`;
      g.fill();
      g.lineWidth = 0.7;
      g.strokeStyle = `rgba(255,255,255,${rand(0.06, 0.16)})`;
      g.stroke();
    }
  }

  function paintCrack(g, x, y, angle, length, width) {
    g.beginPath();
    g.moveTo(x, y);
    for (let gone = 0; gone < length; gone += 14) {
      angle += rand(-0.35, 0.35);
      x += Math.cos(angle) * 14;
      y += Math.sin(angle) * 14;
      g.lineTo(x, y);
      if (width > 0.7 && Math.random() < 0.14) {
        const [bx, by] = [x, y];
        g.lineWidth = width;
        g.strokeStyle = 'rgba(225,245,255,0.13)';
        g.stroke();
        paintCrack(g, bx, by, angle + rand(0.5, 1) * (Math.random() < 0.5 ? -1 : 1), length * 0.45, width * 0.6);
        g.beginPath();
        g.moveTo(bx, by);
      }
    }
    g.lineWidth = width;
    g.strokeStyle = 'rgba(225,245,255,0.13)';
    g.stroke();
  }

  function paintBank() {
    const layer = makeLayer();
    const { g } = layer;
    const w = view.width / view.scale;
    const h = view.height / view.scale;
    const ring = (grow, wobble, color) => {
      g.beginPath();
      g.rect(-20, -20, w + 40, h + 40);
      rinkPath(g, grow, wobble);
      g.fillStyle = color;
      g.fill('evenodd');
    };
    g.save();
    g.shadowColor = 'rgba(2,10,30,0.6)';
    g.shadowBlur = 22 * view.dpr;
    g.shadowOffsetY = 5 * view.dpr;
    ring(0, 4, palette.bank[2]);
    g.restore();
    ring(4, 5, palette.bank[1]);
    const snow = g.createLinearGradient(0, 0, 0, h);
    snow.addColorStop(0, palette.bank[1]);
    snow.addColorStop(0.2, palette.bank[0]);
    snow.addColorStop(1, palette.bank[0]);
    ring(9.5, 5.6, snow);
    const cold = g.createLinearGradient(0, 0, 0, rink.top);
    cold.addColorStop(0, palette.night);
    cold.addColorStop(1, 'rgba(0,0,0,0)');
    g.save();
    g.beginPath();
    g.rect(-20, -20, w + 40, h + 40);
    rinkPath(g, 9.5, 5.6);
    g.clip('evenodd');
    g.globalAlpha = 0.5;
    g.fillStyle = cold;
    g.fillRect(0, 0, w, rink.top);
    g.restore();
    return layer;
  }

  // The aurora is painted small and blown up: soft, and cheap.
  const aurora = document.createElement('canvas');
  aurora.width = 96;
  aurora.height = 60;
  let auroraDue = 0;

  function paintAurora(time) {
    if (time < auroraDue) return;
    auroraDue = time + (calm ? Infinity : 0.07);
    const g = aurora.getContext('2d');
    g.globalCompositeOperation = 'source-over';
    g.globalAlpha = 1;
    g.clearRect(0, 0, aurora.width, aurora.height);
    g.globalCompositeOperation = 'lighter';
    palette.lights.forEach((color, band) => {
      g.fillStyle = color;
      for (let x = 0; x < aurora.width; x++) {
        const u = x / aurora.width;
        const wave = Math.sin(u * 5 + time * 0.21 + band * 2.1) + 0.5 * Math.sin(u * 11 - time * 0.33 + band);
        const middle = aurora.height * (0.24 + band * 0.25) + wave * 8;
        const shine = 0.5 + 0.5 * Math.sin(u * 7 + time * 0.5 + band * 1.7);
        for (let k = 0; k < 7; k++) {
          g.globalAlpha = 0.062 * (0.15 + shine * shine) * (1 - k / 7);
          g.fillRect(x, middle - k * 2.4, 1, k * 4.2 + 2);
        }
      }
    });
    const floor = layers.floor.g;
    floor.save();
    floor.setTransform(1, 0, 0, 1, 0, 0);
    floor.drawImage(layers.ice.canvas, 0, 0);
    floor.globalCompositeOperation = 'screen';
    floor.drawImage(aurora, -40, -40, canvas.width + 80, canvas.height + 80);
    floor.restore();
  }

  // -------------------------------------------------------------- effects

  function puff(x, y, count, color, speed) {
    const many = calm ? Math.ceil(count / 3) : count;
    for (let i = 0; i < many && particles.length < 320; i++) {
      const a = rand(0, TAU);
      const v = speed * rand(0.2, 1);
      particles.push({ x, y, vx: Math.cos(a) * v, vy: Math.sin(a) * v, r: rand(1.2, 3.6), life: rand(0.35, 0.8), age: 0, color });
    }
  }

  function spray(side) {
    if (particles.length > 320 || (calm && Math.random() < 0.7)) return;
    const a = snake.heading + side * rand(1.1, 1.9);
    const v = rand(40, 150) * (0.5 + snake.slip);
    particles.push({
      x: snake.x - Math.cos(snake.heading) * 6, y: snake.y - Math.sin(snake.heading) * 6,
      vx: Math.cos(a) * v + snake.vx * 0.4, vy: Math.sin(a) * v + snake.vy * 0.4,
      r: rand(0.8, 2.6), life: rand(0.25, 0.6), age: 0, color: '#eafaff',
    });
  }

  function jolt(strength) {
    if (!calm) shake = Math.max(shake, strength);
  }

  function moveEffects(dt) {
    const drag = Math.exp(-3 * dt);
    for (const p of particles) {
      p.age += dt;
      p.vx *= drag;
      p.vy *= drag;
      p.x += p.vx * dt;
      p.y += p.vy * dt;
    }
    particles = particles.filter((p) => p.age < p.life);
    for (const f of floaters) {
      f.age += dt;
      f.y -= 34 * dt;
    }
    floaters = floaters.filter((f) => f.age < 1);
    shake *= Math.exp(-9 * dt);
  }

  // carveMark scratches two thin lines into the ice, wider apart in a drift.
  let scratch = null;  // where the lines ended, and at which distance
  function carveMark() {
    const { g } = layers.marks;
    const half = RADIUS * (0.3 + 0.5 * snake.slip);
    const nx = -Math.sin(snake.heading) * half;
    const ny = Math.cos(snake.heading) * half;
    const next = [{ x: snake.x + nx, y: snake.y + ny }, { x: snake.x - nx, y: snake.y - ny }];
    if (scratch && Math.abs(snake.travelled - scratch.s) < 20) {
      g.strokeStyle = `rgba(235,250,255,${0.12 + snake.slip * 0.45})`;
      g.lineWidth = 1 + snake.slip * 2;
      g.beginPath();
      next.forEach((end, i) => {
        g.moveTo(scratch.ends[i].x, scratch.ends[i].y);
        g.lineTo(end.x, end.y);
      });
      g.stroke();
    }
    scratch = { ends: next, s: snake.travelled };
  }

  let fadeDue = 0;
  function fadeMarks(time) {
    if (time < fadeDue) return;
    fadeDue = time + 0.3;
    const { g } = layers.marks;
    g.save();
    g.globalCompositeOperation = 'destination-out';
    g.fillStyle = 'rgba(0,0,0,0.05)';
    g.fillRect(0, 0, view.width / view.scale, view.height / view.scale);
    g.restore();
  }

  const scarf = [];
  function layScarf() {
    scarf.length = 0;
    for (let i = 0; i < 6; i++) scarf.push({ x: snake.x - i * 7, y: snake.y, ox: snake.x - i * 7, oy: snake.y });
  }

  // moveScarf swings the loose end: points that keep their distance.
  function moveScarf(anchor, dt) {
    scarf[0].x = anchor.x;
    scarf[0].y = anchor.y;
    for (let i = 1; i < scarf.length; i++) {
      const p = scarf[i];
      const { x, y } = p;
      p.x += (p.x - p.ox) * Math.exp(-4 * dt);
      p.y += (p.y - p.oy) * Math.exp(-4 * dt);
      p.ox = x;
      p.oy = y;
      const q = scarf[i - 1];
      const d = Math.hypot(p.x - q.x, p.y - q.y) || 1;
      p.x = q.x + ((p.x - q.x) / d) * 6.5;
      p.y = q.y + ((p.y - q.y) / d) * 6.5;
    }
  }

  const flakes = Array.from({ length: 64 }, () => ({ x: Math.random(), y: Math.random(), z: rand(0.35, 1), a: rand(0, TAU) }));

  // -------------------------------------------------------------- drawing

  function mix(a, b, t) {
    const part = (c, i) => parseInt(c.slice(1 + i * 2, 3 + i * 2), 16);
    return `rgb(${[0, 1, 2].map((i) => Math.round(lerp(part(a, i), part(b, i), t))).join(',')})`;
  }
  const skin = Array.from({ length: 48 }, (_, i) => {
    const t = i / 47;
    return t < 0.5 ? mix(palette.snake[0], palette.snake[1], t * 2) : mix(palette.snake[1], palette.snake[2], t * 2 - 1);
  });

  // glow is a soft disc of a colour, painted once.
  const glows = {};
  function glow(color) {
    if (glows[color]) return glows[color];
    const c = document.createElement('canvas');
    c.width = c.height = 64;
    const g = c.getContext('2d');
    const light = g.createRadialGradient(32, 32, 0, 32, 32, 32);
    light.addColorStop(0, color);
    light.addColorStop(1, 'rgba(0,0,0,0)');
    g.fillStyle = light;
    g.fillRect(0, 0, 64, 64);
    glows[color] = c;
    return c;
  }

  function drawGlow(color, x, y, r, alpha) {
    ctx.save();
    ctx.globalCompositeOperation = 'lighter';
    ctx.globalAlpha = alpha;
    ctx.drawImage(glow(color), x - r, y - r, r * 2, r * 2);
    ctx.restore();
  }

  function draw(alpha, time, dt) {
    const k = view.scale * view.dpr;
    const w = view.width / view.scale;
    const h = view.height / view.scale;
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.drawImage(layers.floor.canvas, 0, 0);
    ctx.setTransform(k, 0, 0, k, rand(-shake, shake) * view.dpr, rand(-shake, shake) * view.dpr);
    ctx.drawImage(layers.marks.canvas, 0, 0, w, h);
    holes.forEach((hole) => drawHole(hole, time));
    food.forEach((f) => (f.kind === 'star' ? drawStar(f) : drawBerry(f, time)));
    drawSnake(alpha, time, dt);
    drawParticles();
    ctx.drawImage(layers.bank.canvas, 0, 0, w, h);
    drawFloaters();
    if (!calm) drawSnowfall(w, h, dt);
    drawStick();
    if (run.state !== 'playing') {
      ctx.fillStyle = 'rgba(3,10,26,0.38)';
      ctx.fillRect(-20, -20, w + 40, h + 40);
    }
  }

  function drawBerry(f, time) {
    const pop = Math.min(1, f.age * 4);
    const r = 8.5 * pop * (1 + (calm ? 0 : 0.06 * Math.sin(time * 4 + f.spin)));
    drawGlow(palette.berry, f.x, f.y, 42 * pop, 0.5);
    ctx.fillStyle = 'rgba(2,12,30,0.35)';
    ctx.beginPath();
    ctx.ellipse(f.x + 3, f.y + 7, r * 1.3, r * 0.8, 0, 0, TAU);
    ctx.fill();
    for (const [dx, dy] of [[-0.5, 0.25], [0.55, 0.3], [0, -0.5]]) {
      const x = f.x + dx * r;
      const y = f.y + dy * r;
      const shade = ctx.createRadialGradient(x - r * 0.3, y - r * 0.3, 0, x, y, r * 0.95);
      shade.addColorStop(0, '#ffffff');
      shade.addColorStop(0.3, palette.berry);
      shade.addColorStop(1, mix(palette.berry, palette.night, 0.35));
      ctx.fillStyle = shade;
      ctx.beginPath();
      ctx.arc(x, y, r * 0.78, 0, TAU);
      ctx.fill();
    }
    ctx.fillStyle = '#c9f7d0';
    ctx.beginPath();
    ctx.ellipse(f.x + r * 0.35, f.y - r * 1.25, r * 0.55, r * 0.24, -0.5, 0, TAU);
    ctx.fill();
  }

  function drawStar(f) {
    const left = 1 - f.age / f.life;
    const pop = Math.min(1, f.age * 4, left * 8);
    drawGlow('#ffd75a', f.x, f.y, 56 * pop, 0.6);
    ctx.strokeStyle = 'rgba(255,240,180,0.85)';
    ctx.lineWidth = 2.5;
    ctx.beginPath();
    ctx.arc(f.x, f.y, 21, -Math.PI / 2, -Math.PI / 2 + TAU * left);
    ctx.stroke();
    ctx.fillStyle = '#fff3c0';
    ctx.beginPath();
    for (let i = 0; i < 10; i++) {
      const a = f.spin * (calm ? 0 : 0.8) - Math.PI / 2 + (i * TAU) / 10;
      const r = (i % 2 ? 5.5 : 13.5) * pop;
      ctx.lineTo(f.x + Math.cos(a) * r, f.y + Math.sin(a) * r);
    }
    ctx.closePath();
    ctx.fill();
  }

  function holePath(h, r) {
    ctx.beginPath();
    h.shape.forEach((s, i) => {
      const a = (i / h.shape.length) * TAU;
      ctx.lineTo(h.x + Math.cos(a) * r * s, h.y + Math.sin(a) * r * s);
    });
    ctx.closePath();
  }

  function drawHole(h, time) {
    ctx.lineJoin = 'round';
    if (h.phase === 'crack') {
      const grown = Math.min(1, h.age / 1.6);
      const blink = 0.55 + 0.45 * Math.sin(h.age * 11);
      drawGlow('#bfeaff', h.x, h.y, h.r * 1.7, 0.25 * blink);
      ctx.strokeStyle = `rgba(240,252,255,${0.45 + 0.45 * blink})`;
      ctx.lineWidth = 1.8;
      ctx.beginPath();
      h.shape.forEach((s, i) => {
        const a = (i / h.shape.length) * TAU;
        const r = h.r * grown * (i % 2 ? 0.75 : 1.1);
        ctx.moveTo(h.x, h.y);
        ctx.lineTo(h.x + Math.cos(a + s * 0.3) * r * 0.5, h.y + Math.sin(a + s * 0.3) * r * 0.5);
        ctx.lineTo(h.x + Math.cos(a) * r, h.y + Math.sin(a) * r);
      });
      ctx.stroke();
      return;
    }
    const size = h.phase === 'open' ? Math.min(1, 0.5 + h.age * 3) : 1 - h.age;
    const r = h.r * size;
    if (r <= 1) return;
    holePath(h, r * 1.2);
    ctx.fillStyle = 'rgba(235,250,255,0.85)';
    ctx.fill();
    holePath(h, r);
    const water = ctx.createRadialGradient(h.x, h.y - r * 0.2, 0, h.x, h.y, r);
    water.addColorStop(0, mix(palette.night, palette.ice[2], 0.35));
    water.addColorStop(1, palette.night);
    ctx.fillStyle = water;
    ctx.fill();
    ctx.strokeStyle = 'rgba(255,255,255,0.16)';
    ctx.lineWidth = 1.2;
    const ripple = calm ? 0.5 : (time * 0.45 + h.shape[0]) % 1;
    ctx.beginPath();
    ctx.ellipse(h.x, h.y, r * 0.75 * ripple, r * 0.6 * ripple, 0, 0, TAU);
    ctx.stroke();
  }

  function drawSnake(alpha, time, dt) {
    const s = lerp(snake.before.s, snake.travelled, alpha);
    const heading = snake.before.heading + wrapAngle(snake.heading - snake.before.heading) * alpha;
    const body = bodyPoints(s, 3.5);
    ctx.save();
    if (snake.safe > 0 && run.state === 'playing') ctx.globalAlpha = 0.55 + 0.45 * Math.cos(snake.safe * 22);
    blob(body, 3, 6, 1.05, 'rgba(2,12,30,0.35)');
    blob(body, 0, 0, 1.14, mix(palette.snake[2], palette.night, 0.62));
    for (let i = body.length - 3; i >= 0; i -= 3) {
      const d = body[i + 2];
      const tone = clamp(d / Math.max(260, snake.length), 0, 1) * 0.92 + (Math.floor(d / 17) % 2 ? 0.08 : 0);
      ctx.fillStyle = skin[Math.floor(tone * 47)];
      ctx.beginPath();
      ctx.arc(body[i], body[i + 1], thickness(d), 0, TAU);
      ctx.fill();
    }
    blob(body, -2.6, -3.4, 0.36, 'rgba(255,255,255,0.3)');
    const neck = body.length > 21 ? { x: body[18], y: body[19], fx: body[12], fy: body[13] } : null;
    if (neck) drawScarf(neck, dt);
    drawHead({ x: body[0], y: body[1], heading }, time);
    ctx.restore();
  }

  // blob fills the body's outline as one shape, so that alpha does not add up.
  function blob(body, dx, dy, grow, color) {
    ctx.fillStyle = color;
    ctx.beginPath();
    for (let i = 0; i < body.length; i += 3) {
      const r = thickness(body[i + 2]) * grow;
      ctx.moveTo(body[i] + dx + r, body[i + 1] + dy);
      ctx.arc(body[i] + dx, body[i + 1] + dy, r, 0, TAU);
    }
    ctx.fill();
  }

  function drawScarf(neck, dt) {
    const angle = Math.atan2(neck.fy - neck.y, neck.fx - neck.x);
    const side = { x: neck.x + Math.sin(angle) * RADIUS * 0.8, y: neck.y - Math.cos(angle) * RADIUS * 0.8 };
    moveScarf(side, dt);
    ctx.lineCap = 'round';
    ctx.lineJoin = 'round';
    [[palette.scarf[0], 8], [palette.scarf[1], 2]].forEach(([color, width]) => {
      ctx.strokeStyle = color;
      ctx.lineWidth = width;
      ctx.beginPath();
      scarf.forEach((p) => ctx.lineTo(p.x, p.y));
      ctx.stroke();
    });
    ctx.save();
    ctx.translate(neck.x, neck.y);
    ctx.rotate(angle);
    ctx.fillStyle = palette.scarf[0];
    ctx.beginPath();
    ctx.roundRect(-4.5, -RADIUS * 1.08, 9, RADIUS * 2.16, 4.5);
    ctx.fill();
    ctx.fillStyle = palette.scarf[1];
    for (const y of [-0.62, 0, 0.62]) ctx.fillRect(-4.5, y * RADIUS - 1.2, 9, 2.4);
    ctx.restore();
  }

  function drawHead(head, time) {
    ctx.save();
    ctx.translate(head.x, head.y);
    ctx.rotate(head.heading);
    if (!calm && time % 2.6 < 0.36) {  // the tongue
      const out = Math.sin(((time % 2.6) / 0.36) * Math.PI) * 13;
      ctx.strokeStyle = '#ff4d6d';
      ctx.lineWidth = 2;
      ctx.beginPath();
      ctx.moveTo(RADIUS * 1.3, 0);
      ctx.lineTo(RADIUS * 1.3 + out, 0);
      ctx.lineTo(RADIUS * 1.3 + out + 4, -3);
      ctx.moveTo(RADIUS * 1.3 + out, 0);
      ctx.lineTo(RADIUS * 1.3 + out + 4, 3);
      ctx.stroke();
    }
    const shade = ctx.createRadialGradient(2, -4, 1, 2, 0, RADIUS * 1.7);
    shade.addColorStop(0, '#ffffff');
    shade.addColorStop(0.35, palette.snake[0]);
    shade.addColorStop(1, palette.snake[1]);
    ctx.fillStyle = shade;
    ctx.strokeStyle = mix(palette.snake[2], palette.night, 0.62);
    ctx.lineWidth = 1.8;
    ctx.beginPath();
    ctx.ellipse(2, 0, RADIUS * 1.45, RADIUS * 1.2, 0, 0, TAU);
    ctx.fill();
    ctx.stroke();
    const prey = food[0];
    const gaze = prey ? Math.atan2(prey.y - head.y, prey.x - head.x) - head.heading : 0;
    const blink = time % 4.3 < 0.13 ? 0.15 : 1;
    for (const side of [-1, 1]) {
      ctx.fillStyle = '#ffffff';
      ctx.beginPath();
      ctx.ellipse(7, side * 6.6, 4.9, 4.9 * blink, 0, 0, TAU);
      ctx.fill();
      ctx.fillStyle = '#0a1a2c';
      ctx.beginPath();
      ctx.ellipse(7 + Math.cos(gaze) * 1.9, side * 6.6 + Math.sin(gaze) * 1.9, 2.8, 2.8 * blink, 0, 0, TAU);
      ctx.fill();
    }
    ctx.restore();
  }

  function drawParticles() {
    for (const p of particles) {
      ctx.globalAlpha = 1 - p.age / p.life;
      ctx.fillStyle = p.color;
      ctx.fillRect(p.x - p.r / 2, p.y - p.r / 2, p.r, p.r);
    }
    ctx.globalAlpha = 1;
  }

  function drawFloaters() {
    ctx.textAlign = 'center';
    ctx.lineJoin = 'round';
    for (const f of floaters) {
      ctx.globalAlpha = clamp((1 - f.age) * 1.6, 0, 1);
      ctx.font = `800 ${f.big ? 26 : 19}px "Avenir Next", "Segoe UI", system-ui, sans-serif`;
      ctx.strokeStyle = 'rgba(3,14,34,0.75)';
      ctx.lineWidth = 4;
      ctx.strokeText(f.text, f.x, f.y);
      ctx.fillStyle = f.color;
      ctx.fillText(f.text, f.x, f.y);
    }
    ctx.globalAlpha = 1;
  }

  function drawSnowfall(w, h, dt) {
    ctx.fillStyle = '#ffffff';
    for (const f of flakes) {
      f.a += dt * f.z;
      f.y = (f.y + dt * 0.035 * f.z) % 1;
      f.x = (f.x + dt * 0.012 * Math.sin(f.a) + 1) % 1;
      ctx.globalAlpha = 0.16 + 0.34 * f.z;
      ctx.beginPath();
      ctx.arc(f.x * w, f.y * h, 0.7 + f.z * 1.2, 0, TAU);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
  }

  function drawStick() {
    const { stick } = input;
    if (!stick || run.state !== 'playing') return;
    const k = view.scale;
    const reach = Math.min(46, Math.hypot(stick.dx, stick.dy));
    const angle = Math.atan2(stick.dy, stick.dx);
    ctx.strokeStyle = 'rgba(255,255,255,0.4)';
    ctx.fillStyle = input.carve ? palette.accent[0] : 'rgba(255,255,255,0.5)';
    ctx.lineWidth = 2 / k;
    ctx.beginPath();
    ctx.arc(stick.x / k, stick.y / k, 46 / k, 0, TAU);
    ctx.stroke();
    ctx.beginPath();
    ctx.arc((stick.x + Math.cos(angle) * reach) / k, (stick.y + Math.sin(angle) * reach) / k, 18 / k, 0, TAU);
    ctx.fill();
  }

  // ---------------------------------------------------------------- sound

  // Off until the player asks for it; made of oscillators and noise.
  const sound = (() => {
    let audio = null;
    let master = null;
    let slide = null;
    let on = false;

    function open() {
      const Audio = window.AudioContext || window.webkitAudioContext;
      if (!Audio) return false;
      audio = new Audio();
      master = audio.createGain();
      master.gain.value = 0.5;
      master.connect(audio.destination);
      const noise = audio.createBuffer(1, audio.sampleRate, audio.sampleRate);
      const data = noise.getChannelData(0);
      for (let i = 0; i < data.length; i++) data[i] = Math.random() * 2 - 1;
      const source = new AudioBufferSourceNode(audio, { buffer: noise, loop: true });
      const filter = new BiquadFilterNode(audio, { type: 'bandpass', frequency: 2600, Q: 0.8 });
      slide = new GainNode(audio, { gain: 0 });
      source.connect(filter).connect(slide).connect(master);
      source.start();
      return true;
    }

    function tone(from, to, seconds, type, volume, delay = 0) {
      if (!on) return;
      const at = audio.currentTime + delay;
      const gain = new GainNode(audio, { gain: 0 });
      const osc = new OscillatorNode(audio, { type, frequency: from });
      osc.frequency.exponentialRampToValueAtTime(to, at + seconds);
      gain.gain.setValueAtTime(0, at);
      gain.gain.linearRampToValueAtTime(volume, at + 0.008);
      gain.gain.exponentialRampToValueAtTime(0.001, at + seconds);
      osc.connect(gain).connect(master);
      osc.start(at);
      osc.stop(at + seconds + 0.02);
    }

    return {
      get on() { return on; },
      toggle() {
        on = !on && (audio !== null || open());
        if (on) audio.resume().then(() => tone(660, 990, 0.18, 'sine', 0.2), () => {});
        else if (audio) audio.suspend().catch(() => {});
        $('sound').setAttribute('aria-pressed', String(on));
      },
      slide(amount) {
        if (on) slide.gain.setTargetAtTime(amount * 0.12, audio.currentTime, 0.05);
      },
      hush(quiet) {
        if (on && quiet) slide.gain.setTargetAtTime(0, audio.currentTime, 0.05);
      },
      eat(chain, star) {
        const note = 520 * 2 ** ([0, 2, 4, 7, 9][chain - 1] / 12);
        tone(note, note * 1.01, 0.22, 'triangle', 0.3);
        tone(note * 2, note * 2.02, 0.3, 'sine', 0.16, 0.06);
        if (star) tone(note * 3, note * 3.02, 0.5, 'sine', 0.14, 0.14);
      },
      bump: (force) => tone(150, 50, 0.16, 'sine', clamp(force, 0.1, 0.5)),
      crack: () => tone(2400, 300, 0.09, 'square', 0.06),
      level: () => [523, 659, 784].forEach((n, i) => tone(n, n, 0.3, 'triangle', 0.16, i * 0.08)),
      hurt: () => tone(320, 60, 0.5, 'sawtooth', 0.24),
    };
  })();

  // ---------------------------------------------------------------- input

  const DIRECTIONS = {
    ArrowUp: [0, -1], KeyW: [0, -1], ArrowDown: [0, 1], KeyS: [0, 1],
    ArrowLeft: [-1, 0], KeyA: [-1, 0], ArrowRight: [1, 0], KeyD: [1, 0],
  };

  const input = {
    held: new Set(),     // codes of direction keys that are down
    pointers: new Map(), // pointer id → {x, y, dx, dy}, CSS pixels
    carveKey: false,
    get stick() { return this.pointers.values().next().value || null; },
    get carve() { return this.carveKey || this.pointers.size > 1; },
    clear() {
      this.held.clear();
      this.pointers.clear();
      this.carveKey = false;
    },
  };

  // readInput sets where the nose shall point. With nothing held the snake
  // keeps its course. A bump takes the wheel for a moment.
  function readInput() {
    if (snake.bumped > 0.25) return;
    let [x, y] = [0, 0];
    for (const code of input.held) {
      x += DIRECTIONS[code][0];
      y += DIRECTIONS[code][1];
    }
    const { stick } = input;
    if (stick && Math.hypot(stick.dx, stick.dy) > 10) [x, y] = [stick.dx, stick.dy];
    if (x || y) snake.want = Math.atan2(y, x);
  }

  // Some on-screen keyboards send no code.
  const codeOf = (e) => e.code || (e.key === ' ' ? 'Space' : e.key);

  window.addEventListener('keydown', (e) => {
    const code = codeOf(e);
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const onButton = e.target instanceof HTMLButtonElement;
    if (code in DIRECTIONS) {
      e.preventDefault();
      if (run.state === 'playing') input.held.add(code);
    } else if (code === 'Space' && !onButton) {
      e.preventDefault();
      if (run.state === 'playing') input.carveKey = true;
      else if (!e.repeat) proceed();
    } else if (code === 'Enter' && !onButton && !e.repeat) {
      proceed();
    } else if ((code === 'KeyP' || code === 'Escape') && !e.repeat) {
      togglePause();
    } else if (code === 'KeyM' && !e.repeat) {
      sound.toggle();
    }
  });
  window.addEventListener('keyup', (e) => {
    input.held.delete(codeOf(e));
    if (codeOf(e) === 'Space') input.carveKey = false;
  });

  function proceed() {
    if (run.state === 'paused') togglePause();
    else if (run.state !== 'playing') start();
  }

  canvas.addEventListener('pointerdown', (e) => {
    if (run.state !== 'playing') return;
    e.preventDefault();
    try {
      canvas.setPointerCapture(e.pointerId);
    } catch { /* the pointer is gone already */ }
    input.pointers.set(e.pointerId, { x: e.clientX, y: e.clientY, dx: 0, dy: 0 });
  });
  canvas.addEventListener('pointermove', (e) => {
    const p = input.pointers.get(e.pointerId);
    if (!p) return;
    p.dx = e.clientX - p.x;
    p.dy = e.clientY - p.y;
    const reach = Math.hypot(p.dx, p.dy);
    if (reach > 70) {  // the stick follows a finger that runs away
      p.x += p.dx * (1 - 70 / reach);
      p.y += p.dy * (1 - 70 / reach);
    }
  });
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
    canvas.addEventListener(end, (e) => input.pointers.delete(e.pointerId));
  }
  canvas.addEventListener('contextmenu', (e) => e.preventDefault());

  $('start').addEventListener('click', start);
  $('again').addEventListener('click', start);
  $('quit').addEventListener('click', start);
  $('resume').addEventListener('click', togglePause);
  $('pause').addEventListener('click', togglePause);
  $('sound').addEventListener('click', () => {
    sound.toggle();
    if (run.state === 'playing') canvas.focus({ preventScroll: true });
  });
  const leave = () => run.state === 'playing' && setState('paused');
  window.addEventListener('blur', leave);
  document.addEventListener('visibilitychange', () => document.hidden && leave());
  window.addEventListener('resize', resize);

  // ----------------------------------------------------------------- loop

  let last = 0;
  let debt = 0;

  function frame(now) {
    const time = now / 1000;
    const dt = clamp(time - last, 0, 0.1);  // after a hitch the game slows down, it does not jump
    last = time;
    const moving = run.state === 'playing' || (run.state === 'ready' && !calm);
    if (moving) {
      for (debt += dt; debt >= STEP; debt -= STEP) {
        step(STEP);
        if (run.state !== 'playing' && run.state !== 'ready') break;
      }
    }
    if (run.state !== 'paused') moveEffects(dt);
    sound.slide(run.state === 'playing' ? 0.06 + snake.slip : 0);
    paintAurora(time);
    if (moving) fadeMarks(time);
    draw(moving ? debt / STEP : 1, time, run.state === 'paused' ? 0 : dt);
    updateHud();
    requestAnimationFrame(frame);
  }

  const colors = { '--night': palette.night, '--ice': palette.ice[0], '--accent': palette.accent[0], '--accent-2': palette.accent[1] };
  for (const name in colors) document.documentElement.style.setProperty(name, colors[name]);
  resize();
  reset();
  setState('ready');
  updateHud();

  // What tests and curious players may look at; nothing here can be changed.
  Object.defineProperty(window, 'game', {
    value: Object.freeze({
      get state() { return run.state; },
      get score() { return run.score; },
      get best() { return best; },
      get length() { return segments(); },
      get level() { return level(); },
      get hearts() { return run.hearts; },
      get sound() { return sound.on; },
      get palette() { return paletteNames[turned % paletteNames.length]; },
      get cruise() { return TUNING.cruise; },
      get head() { return Object.freeze({ x: snake.x, y: snake.y, vx: snake.vx, vy: snake.vy, heading: snake.heading }); },
      get food() { return Object.freeze(food.map((f) => Object.freeze({ x: f.x, y: f.y, kind: f.kind }))); },
      get holes() { return Object.freeze(holes.map((h) => Object.freeze({ x: h.x, y: h.y, phase: h.phase }))); },
    }),
  });
  requestAnimationFrame(frame);
})();
