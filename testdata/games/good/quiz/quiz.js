(function () {
  'use strict';
  var index = 0, score = 0, answered = false;
  var $ = function (id) { return document.getElementById(id); };

  function show() {
    answered = false;
    var item = QUESTIONS[index];
    $('question').textContent = (index + 1) + '. ' + item.q;
    $('progress').value = index;
    $('answers').replaceChildren();
    item.a.forEach(function (answer, i) {
      var b = document.createElement('button');
      b.textContent = (i + 1) + ') ' + answer;
      b.onclick = function () { choose(i); };
      $('answers').appendChild(b);
    });
  }

  function choose(i) {
    if (answered) return;
    answered = true;
    var item = QUESTIONS[index], buttons = $('answers').children;
    buttons[item.right].className = 'right';
    if (i === item.right) {
      score++;
      $('status').textContent = 'Correct!';
    } else {
      buttons[i].className = 'wrong';
      $('status').textContent = 'No, it is ' + item.a[item.right] + '.';
    }
    setTimeout(next, 1500);
  }

  function next() {
    index++;
    if (index < QUESTIONS.length) return show();
    $('progress').value = QUESTIONS.length;
    $('question').textContent = 'You have ' + score + ' of ' + QUESTIONS.length;
    $('answers').replaceChildren();
    var again = document.createElement('button');
    again.textContent = 'Play again';
    again.onclick = function () { index = score = 0; show(); };
    $('answers').appendChild(again);
  }

  document.addEventListener('keydown', function (e) {
    var n = '1234'.indexOf(e.key);
    if (n >= 0 && index < QUESTIONS.length) choose(n);
  });
  show();
})();
