const canvas = document.getElementById('c');
const gl = canvas.getContext('webgl');
canvas.width = innerWidth;
canvas.height = innerHeight;

const vertex = `
  attribute vec2 position;
  void main() {
    gl_Position = vec4(position, 0.0, 1.0);
  }`;

const fragment = `
  precision mediump float;
  uniform vec2 resolution;
  uniform vec2 ball;
  uniform float time;
  void main() {
    vec2 uv = gl_FragCoord.xy / resolution;
    float glow = 0.02 / distance(uv, ball);
    vec3 color = vec3(0.5 + 0.5 * sin(time + uv.x * 6), uv.y, glow);
    gl_FragColor = vec4(color + glow, 1);
  }`;

function createShader(type, source) {
  const shader = gl.createShader(type);
  gl.shaderSource(shader, source);
  gl.compileShader(shader);
  return shader;
}

const program = gl.createProgram();
gl.attachShader(program, createShader(gl.VERTEX_SHADER, vertex));
gl.attachShader(program, createShader(gl.FRAGMENT_SHADER, fragment));
gl.linkProgram(program);
gl.useProgram(program);

const buffer = gl.createBuffer();
gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
gl.enableVertexAttribArray(0);
gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);

const ball = { x: 0.5, y: 0.5, vx: 0.004, vy: 0.006 };
addEventListener('pointerdown', e => { ball.vx = (e.clientX / innerWidth - ball.x) / 50; });
addEventListener('keydown', e => {
  if (e.key === 'ArrowLeft') ball.vx -= 0.002;
  if (e.key === 'ArrowRight') ball.vx += 0.002;
});

function frame(t) {
  ball.x += ball.vx;
  ball.y += ball.vy;
  if (ball.x < 0 || ball.x > 1) ball.vx *= -1;
  if (ball.y < 0 || ball.y > 1) ball.vy *= -1;
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.uniform2f(gl.getUniformLocation(program, 'resolution'), canvas.width, canvas.height);
  gl.uniform2f(gl.getUniformLocation(program, 'ball'), ball.x, ball.y);
  gl.uniform1f(gl.getUniformLocation(program, 'time'), t / 1000);
  gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
