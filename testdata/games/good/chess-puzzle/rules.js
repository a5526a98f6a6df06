// Moves of the pieces, without castling and en passant. Upper case is white.
const START = 'rnbqkbnr/pppppppp/......../......../......../......../PPPPPPPP/RNBQKBNR';

function parse(text) {
  return text.split('/').map(row => [...row].map(ch => (ch === '.' ? '' : ch)));
}

const isWhite = p => p !== '' && p === p.toUpperCase();
const inside = (x, y) => x >= 0 && y >= 0 && x < 8 && y < 8;

const RAYS = {
  r: [[1, 0], [-1, 0], [0, 1], [0, -1]],
  b: [[1, 1], [1, -1], [-1, 1], [-1, -1]],
};
RAYS.q = RAYS.k = [...RAYS.r, ...RAYS.b];
RAYS.n = [[1, 2], [2, 1], [-1, 2], [-2, 1], [1, -2], [2, -1], [-1, -2], [-2, -1]];

function moves(board, x, y) {
  const piece = board[y][x], kind = piece.toLowerCase(), list = [];
  if (kind === 'p') {
    const d = isWhite(piece) ? -1 : 1;
    if (inside(x, y + d) && !board[y + d][x]) {
      list.push([x, y + d]);
      if (y === (d < 0 ? 6 : 1) && !board[y + 2 * d][x]) list.push([x, y + 2 * d]);
    }
    for (const dx of [-1, 1]) {
      const target = inside(x + dx, y + d) && board[y + d][x + dx];
      if (target && isWhite(target) !== isWhite(piece)) list.push([x + dx, y + d]);
    }
    return list;
  }
  for (const [dx, dy] of RAYS[kind]) {
    for (let n = 1; n < 8; n++) {
      const tx = x + dx * n, ty = y + dy * n;
      if (!inside(tx, ty)) break;
      const target = board[ty][tx];
      if (!target || isWhite(target) !== isWhite(piece)) list.push([tx, ty]);
      if (target || kind === 'n' || kind === 'k') break;
    }
  }
  return list;
}

const VALUE = { p: 1, n: 3, b: 3, r: 5, q: 9, k: 100 };

// reply returns black's most greedy move.
function reply(board) {
  let best = null;
  for (let y = 0; y < 8; y++) {
    for (let x = 0; x < 8; x++) {
      if (!board[y][x] || isWhite(board[y][x])) continue;
      for (const [tx, ty] of moves(board, x, y)) {
        const score = (VALUE[board[ty][tx].toLowerCase()] || 0) + Math.random();
        if (!best || score > best.score) best = { score, from: [x, y], to: [tx, ty] };
      }
    }
  }
  return best;
}
