export function createQuestion() {
  const a = 2 + Math.floor(Math.random() * 10);
  const b = 2 + Math.floor(Math.random() * 10);
  const right = a * b;
  const answers = [right, right + a, right - b].sort(() => Math.random() - 0.5);
  return { text: `${a} × ${b} = ?`, answers, right };
}
