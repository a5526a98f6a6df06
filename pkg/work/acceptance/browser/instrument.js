// Runs before the scripts of every page and frame. It records what the page
// listens for and returns it when the driver calls the function with the secret
// name. What it uses is captured first, so that a page that replaces globals
// changes no answer but its own.
(function (secret) {
  'use strict';
  if (Object.getOwnPropertyDescriptor(window, secret)) return;
  const define = Object.defineProperty, stringify = JSON.stringify;
  const apply = Reflect.apply, str = String;
  const kinds = Object.create(null);
  for (const [kind, names] of [
    ['key', 'keydown keyup keypress'],
    ['touch', 'touchstart touchmove touchend touchcancel'],
    ['pointer', 'pointerdown pointermove pointerup pointercancel pointerover pointerout pointerenter pointerleave pointerrawupdate gotpointercapture'],
    ['mouse', 'mousedown mousemove mouseup mouseover mouseout mouseenter mouseleave'],
    ['click', 'click dblclick contextmenu auxclick'],
    ['drag', 'dragstart drag dragend dragenter dragover drop'],
    ['wheel', 'wheel mousewheel'],
    ['field', 'input change submit beforeinput'],
    ['tilt', 'deviceorientation deviceorientationabsolute devicemotion'],
    ['pad', 'gamepadconnected'],
  ]) for (const n of names.split(' ')) kinds[n] = kind;

  const counts = Object.create(null), arrived = Object.create(null), prevented = Object.create(null);
  const owners = new WeakMap();
  const ownersGet = WeakMap.prototype.get, ownersSet = WeakMap.prototype.set;
  let frames = 0, opened = [], texts = [], listening = 0;
  const bump = (o, k) => { o[k] = (o[k] || 0) + 1; };

  const later = window.setTimeout.bind(window), add = EventTarget.prototype.addEventListener;
  for (const type of ['keydown', 'touchstart', 'pointerdown', 'mousedown', 'click']) {
    apply(add, window, [type, (e) => {
      if (!e.isTrusted) return;
      bump(arrived, kinds[type]);
      later(() => { if (e.defaultPrevented) bump(prevented, kinds[type]); }, 0);
    }, { capture: true, passive: true }]);
  }
  const replace = (object, name, make) => {
    try {
      const d = Object.getOwnPropertyDescriptor(object, name);
      if (!d || typeof d.value !== 'function') return;
      const before = d.value;
      const after = make(before);
      define(after, 'name', { value: name, configurable: true });
      define(after, 'toString', { value: () => 'function ' + name + '() { [native code] }', configurable: true, writable: true });
      define(object, name, { ...d, value: after });
    } catch { /* the page keeps its own */ }
  };
  replace(EventTarget.prototype, 'addEventListener', (before) => function addEventListener(type, listener) {
    try {
      const kind = kinds[type];
      if (kind && listener) {
        listening++;
        bump(counts, kind);
        if (/move$|^wheel|^scroll/.test(type)) bump(counts, 'move');
        const target = this || window;
        const set = apply(ownersGet, owners, [target]) || Object.create(null);
        set[kind] = true;
        apply(ownersSet, owners, [target, set]);
      }
    } catch { /* recorded or not, the page goes on */ }
    return apply(before, this, arguments);
  });
  replace(window, 'requestAnimationFrame', (before) => function requestAnimationFrame() {
    frames++;
    return apply(before, this, arguments);
  });
  replace(window, 'open', () => function open(url) {
    const active = !!(navigator.userActivation && navigator.userActivation.isActive);
    if (opened.length < 8) opened.push({ url: str(url).slice(0, 200), active });
    return null;
  });
  if (window.Navigator) replace(Navigator.prototype, 'getGamepads', (before) => function getGamepads() {
    bump(counts, 'pad');
    return apply(before, this, arguments);
  });
  for (const c of [window.CanvasRenderingContext2D, window.OffscreenCanvasRenderingContext2D]) {
    if (c) for (const name of ['fillText', 'strokeText']) replace(c.prototype, name, (before) => function (text) {
      try {
        if (texts.length < 64 && typeof text === 'string' && !texts.includes(text)) texts.push(text.slice(0, 120));
      } catch { /* not recorded */ }
      return apply(before, this, arguments);
    });
  }

  const handlers = Object.keys(kinds);
  const kindsOf = (target, into) => {
    const set = apply(ownersGet, owners, [target]);
    if (set) for (const k in set) into[k] = true;
    for (const type of handlers) {
      let f = null;
      try { f = target['on' + type]; } catch { /* unreadable */ }
      if (typeof f === 'function') into[kinds[type]] = true;
    }
    return into;
  };
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height].map((n) => Math.round(n) || 0); };
  const shown = (e, r) => {
    if (r[2] < 1 || r[3] < 1) return false;
    for (let p = e; p && p.nodeType === 1; p = p.parentElement) {
      const s = getComputedStyle(p);
      if (s.display === 'none' || s.visibility === 'hidden' || Number(s.opacity) < 0.05) return false;
    }
    return true;
  };
  // reached lists the kinds that an event at an element would reach.
  const reached = (e) => {
    const into = Object.create(null);
    for (let p = e; p; p = p.parentNode || p.host) kindsOf(p, into);
    kindsOf(document, into);
    return kindsOf(window, into);
  };
  const external = (a) => { try { return new URL(a.href, location.href).host !== location.host; } catch { return true; } };

  // cover returns what takes the input at five points of an element in its place,
  // and lets it reach no listener; '' if a point is free.
  const cover = (e, r) => {
    let name = '';
    for (const [x, y] of [[0.5, 0.5], [0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]) {
      const px = r[0] + r[2] * x, py = r[1] + r[3] * y;
      const top = document.elementFromPoint(px, py);
      if (!top || e.contains(top) || top.contains(e)) return '';
      const to = reached(top);
      if (to.click || to.touch || to.pointer || to.mouse || top.closest('button,a,label,input,iframe')) return '';
      name = (top.id ? '#' + top.id : top.localName) + (shown(top, box(top)) ? '' : ' (invisible)');
    }
    return name.slice(0, 60);
  };
  // cutOff reports whether an element lies beyond the right edge in something that
  // begins on the screen and is wider than it.
  const cutOff = (e, r) => {
    if (r[0] < innerWidth || r[1] + r[3] < 0 || r[1] > innerHeight) return false;
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement) {
      const b = box(p);
      if (b[0] >= 0 && b[0] < innerWidth / 2 && b[0] + b[2] > innerWidth * 1.12) return true;
    }
    return false;
  };
  const scan = () => {
    const all = document.querySelectorAll('*');
    const out = { kinds: { ...counts }, controls: [], canvases: [], stages: [], cut: 0, links: 0, fields: 0, frames: 0, media: 0, shadow: 0 };
    const note = (target) => { for (const k in kindsOf(target, Object.create(null))) bump(out.kinds, k); };
    note(window); note(document);
    for (let i = 0; i < all.length && i < 4000; i++) {
      const e = all[i], tag = e.localName;
      note(e);
      if (e.shadowRoot) out.shadow++;
      if (tag === 'canvas') {
        const r = box(e);
        if (!shown(e, r)) continue;
        if (out.canvases.length < 16) out.canvases.push(r);
        const s = kindsOf(e, Object.create(null));
        if (s.click || s.touch || s.pointer || s.mouse) out.stages.push(cover(e, r));
        continue;
      }
      if (tag === 'iframe' || tag === 'object' || tag === 'embed') { out.frames++; continue; }
      if ((tag === 'audio' || tag === 'video') && e.controls) { out.media++; continue; }
      const field = tag === 'input' && !/^(button|submit|reset|image|hidden)$/.test(e.type) || tag === 'textarea' || tag === 'select' || e.isContentEditable && e.parentElement && !e.parentElement.isContentEditable;
      const button = tag === 'button' || tag === 'summary' || tag === 'input' && /^(button|submit|reset|image)$/.test(e.type) || e.getAttribute('role') === 'button';
      const link = tag === 'a' && e.hasAttribute('href');
      let pointed = false;
      if (!field && !button && !link && out.controls.length < 40) {
        const s = kindsOf(e, Object.create(null));
        pointed = !!(s.click || s.touch || s.pointer || s.mouse) && e !== document.body && e !== document.documentElement;
      }
      if (!field && !button && !link && !pointed) continue;
      const r = box(e);
      if (!shown(e, r)) continue;
      if (cutOff(e, r)) out.cut++;
      if (field) out.fields++;
      else if (!link) out.stages.push(cover(e, r));
      if (link) out.links++;
      if (out.controls.length < 40) {
        const to = reached(e);
        out.controls.push({
          tag, box: r, text: str(e.innerText || e.value || e.getAttribute('aria-label') || '').trim().slice(0, 60),
          id: str(e.id || '').slice(0, 60), button, link, field, pointed, type: str(e.type || '').slice(0, 20), out: link && external(e), disabled: !!e.disabled,
          live: !!(to.click || to.touch || to.pointer || to.mouse || to.field) || link || tag === 'summary' || field || e.hasAttribute('onclick') || e.hasAttribute('popovertarget') || e.hasAttribute('command') || !!e.form || !!(e.closest && e.closest('label,form,a[href]')),
        });
      }
    }
    return out;
  };

  const state = (depth) => {
    const v = window.visualViewport, d = document.documentElement, b = document.body;
    const out = scan();
    out.animated = frames;
    out.arrived = arrived; out.prevented = prevented; out.opened = opened; out.texts = texts;
    out.ready = document.readyState;
    out.view = [v ? v.width : innerWidth, v ? v.height : innerHeight, v ? v.scale : 1].map((n) => Math.round(n * 100) / 100);
    out.inner = [innerWidth, innerHeight];
    const overflow = [d, b].map((e) => e ? getComputedStyle(e).overflowX + ' ' + getComputedStyle(e).overflowY : '');
    out.page = [Math.max(d ? d.scrollWidth : 0, 0), Math.max(d ? d.scrollHeight : 0, 0)];
    out.scrolled = [Math.round(scrollX), Math.round(scrollY)];
    out.hiddenX = /hidden|clip/.test(overflow[0].split(' ')[0] + overflow[1].split(' ')[0]);
    out.hiddenY = /hidden|clip/.test((overflow[0].split(' ')[1] || '') + (overflow[1].split(' ')[1] || ''));
    out.text = b ? str(b.innerText || '').slice(0, 1500) : '';
    out.lib = ['p5', 'Phaser', 'PIXI', 'THREE', 'BABYLON', 'kaboom', 'createjs'].filter((n) => { try { return n in window; } catch { return false; } });
    if (depth < 3) {
      out.children = [];
      for (let i = 0; i < window.length && i < 6; i++) {
        try { const f = window[i][secret]; if (f) out.children.push(f(depth + 1)); } catch { /* another origin */ }
      }
    }
    return out;
  };
  define(window, secret, { value: (depth) => (depth ? state(depth) : stringify(state(0))), enumerable: false, writable: false, configurable: false });
})
