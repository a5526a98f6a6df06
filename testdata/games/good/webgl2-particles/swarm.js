const canvas = document.getElementById('c');
const gl = canvas.getContext('webgl2');
const N = 800;

const VERTEX = `#version 300 es
in vec2 at; in float hue; uniform vec2 size; out vec3 color;
void main() {
  color = 0.5 + 0.5 * cos(6.28 * (hue + vec3(0.0, 0.33, 0.67)));
  gl_Position = vec4(at / size * 2.0 - 1.0, 0.0, 1.0) * vec4(1, -1, 1, 1);
  gl_PointSize = 6.0;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 color; out vec4 result;
void main() {
  if (length(gl_PointCoord - 0.5) > 0.5) discard;
  result = vec4(color, 1.0);
}`;

function shader(type, source) {
  const s = gl.createShader(type);
  gl.shaderSource(s, source);
  gl.compileShader(s);
  if (!gl.getShaderParameter(s, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(s));
  return s;
}

function start() {
  canvas.width = innerWidth;
  canvas.height = innerHeight;
  const program = gl.createProgram();
  gl.attachShader(program, shader(gl.VERTEX_SHADER, VERTEX));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, FRAGMENT));
  gl.linkProgram(program);
  gl.useProgram(program);

  const data = new Float32Array(N * 3), speed = new Float32Array(N * 2);
  for (let i = 0; i < N; i++) data.set([Math.random() * canvas.width, Math.random() * canvas.height, i / N], i * 3);
  gl.bindVertexArray(gl.createVertexArray());
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  for (const [name, n, offset] of [['at', 2, 0], ['hue', 1, 8]]) {
    const loc = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(loc);
    gl.vertexAttribPointer(loc, n, gl.FLOAT, false, 12, offset);
  }
  gl.uniform2f(gl.getUniformLocation(program, 'size'), canvas.width, canvas.height);
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(0.05, 0.01, 0.13, 1);

  const lead = { x: canvas.width / 2, y: canvas.height / 2 };
  const to = e => { lead.x = e.clientX; lead.y = e.clientY; };
  addEventListener('pointermove', to);
  addEventListener('pointerdown', to);
  addEventListener('keydown', e => {
    const d = { ArrowLeft: [-60, 0], ArrowRight: [60, 0], ArrowUp: [0, -60], ArrowDown: [0, 60] }[e.key];
    if (d) { lead.x += d[0]; lead.y += d[1]; }
  });

  (function frame() {
    for (let i = 0; i < N; i++) {
      const dx = lead.x - data[i * 3], dy = lead.y - data[i * 3 + 1], d = Math.hypot(dx, dy) + 20;
      speed[i * 2] = speed[i * 2] * 0.98 + dx / d * 0.2 - dy / d * 0.08;
      speed[i * 2 + 1] = speed[i * 2 + 1] * 0.98 + dy / d * 0.2 + dx / d * 0.08;
      data[i * 3] += speed[i * 2];
      data[i * 3 + 1] += speed[i * 2 + 1];
    }
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, data);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.drawArrays(gl.POINTS, 0, N);
    requestAnimationFrame(frame);
  })();
}

if (gl) start();
else document.querySelector('p').textContent = 'This game needs WebGL 2.';
