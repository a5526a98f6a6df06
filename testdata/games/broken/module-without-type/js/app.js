import { createQuestion } from './questions.js';

const app = document.getElementById('app');
let score = 0;
let question = createQuestion();

function render() {
  app.innerHTML = `<h1>${question.text}</h1>
    ${question.answers.map((a, i) => `<button data-i="${i}">${a}</button>`).join(' ')}
    <p>Score ${score}</p>`;
  app.querySelectorAll('button').forEach(b => b.addEventListener('click', () => answer(Number(b.dataset.i))));
}

function answer(i) {
  score += question.answers[i] === question.right ? 1 : -1;
  question = createQuestion();
  render();
}

document.addEventListener('keydown', e => {
  if ('123'.includes(e.key)) answer(Number(e.key) - 1);
});
render();
