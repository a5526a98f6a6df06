const canvas = document.getElementById('board');
const g = canvas.getContext('2d');
const GLYPHS = { k: '♚', q: '♛', r: '♜', b: '♝', n: '♞', p: '♟' };
let board = parse(START);
let selected = null;
let cursor = { x: 4, y: 6 };
let over = false;

function draw() {
  for (let y = 0; y < 8; y++) {
    for (let x = 0; x < 8; x++) {
      g.fillStyle = (x + y) % 2 ? '#769656' : '#eeeed2';
      g.fillRect(x * 80, y * 80, 80, 80);
      if (selected && selected.x === x && selected.y === y) {
        g.fillStyle = '#f6f669aa';
        g.fillRect(x * 80, y * 80, 80, 80);
      }
      const piece = board[y][x];
      if (!piece) continue;
      g.font = '64px serif';
      g.textAlign = 'center';
      g.textBaseline = 'middle';
      g.fillStyle = isWhite(piece) ? '#fff' : '#222';
      g.strokeStyle = isWhite(piece) ? '#222' : '#999';
      g.lineWidth = 2;
      g.strokeText(GLYPHS[piece.toLowerCase()], x * 80 + 40, y * 80 + 44);
      g.fillText(GLYPHS[piece.toLowerCase()], x * 80 + 40, y * 80 + 44);
    }
  }
  if (selected) {
    g.fillStyle = '#0006';
    for (const [x, y] of moves(board, selected.x, selected.y)) {
      g.beginPath();
      g.arc(x * 80 + 40, y * 80 + 40, 12, 0, 7);
      g.fill();
    }
  }
  g.strokeStyle = '#e63946';
  g.lineWidth = 4;
  g.strokeRect(cursor.x * 80 + 3, cursor.y * 80 + 3, 74, 74);
}

function play(from, to) {
  const taken = board[to[1]][to[0]];
  board[to[1]][to[0]] = board[from[1]][from[0]];
  board[from[1]][from[0]] = '';
  if (board[to[1]][to[0]] === 'P' && to[1] === 0) board[0][to[0]] = 'Q';
  if (taken.toLowerCase() === 'k') {
    over = true;
    document.getElementById('status').textContent = taken === 'k' ? 'White wins' : 'Black wins';
  }
}

function choose(x, y) {
  cursor = { x, y };
  if (over) return draw();
  if (selected && moves(board, selected.x, selected.y).some(m => m[0] === x && m[1] === y)) {
    play([selected.x, selected.y], [x, y]);
    selected = null;
    const answer = !over && reply(board);
    if (answer) play(answer.from, answer.to);
  } else {
    selected = isWhite(board[y][x]) ? { x, y } : null;
  }
  draw();
}

canvas.addEventListener('click', e => {
  const s = canvas.clientWidth / 8;
  choose(Math.min(7, Math.floor(e.offsetX / s)), Math.min(7, Math.floor(e.offsetY / s)));
});
addEventListener('keydown', e => {
  const d = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
  if (d) {
    cursor = { x: (cursor.x + d[0] + 8) % 8, y: (cursor.y + d[1] + 8) % 8 };
    draw();
  } else if (e.key === 'Enter' || e.key === ' ') choose(cursor.x, cursor.y);
});
draw();
