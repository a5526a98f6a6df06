const 表 = { a: 'あ', i: 'い', u: 'う', e: 'え', o: 'お', ka: 'か', ki: 'き', ku: 'く', ke: 'け', ko: 'こ', sa: 'さ', shi: 'し', su: 'す', se: 'せ', so: 'そ', ta: 'た', chi: 'ち', tsu: 'つ', te: 'て', to: 'と' };
const 要素 = id => document.getElementById(id);
let 点数 = 0;
let 残り = 60;
let 正解 = '';
let 候補 = [];

function 混ぜる(配列) {
  return 配列.map(v => [Math.random(), v]).sort((a, b) => a[0] - b[0]).map(v => v[1]);
}

function 出題() {
  候補 = 混ぜる(Object.keys(表)).slice(0, 4);
  正解 = 候補[Math.floor(Math.random() * 4)];
  要素('問題').textContent = 正解;
  要素('答え').replaceChildren(...候補.map((読み, 番号) => {
    const ボタン = document.createElement('button');
    ボタン.textContent = 表[読み];
    ボタン.addEventListener('click', () => 回答(番号));
    return ボタン;
  }));
}

function 回答(番号) {
  if (残り <= 0) return;
  if (候補[番号] === 正解) {
    点数 += 10;
    要素('結果').textContent = '正解！🎉';
  } else {
    点数 = Math.max(0, 点数 - 5);
    要素('結果').textContent = `残念…「${正解}」は「${表[正解]}」です`;
  }
  要素('点').textContent = 点数;
  出題();
}

document.addEventListener('keydown', e => {
  const 番号 = '1234'.indexOf(e.key);
  if (番号 >= 0) 回答(番号);
});
const 時計 = setInterval(() => {
  要素('時').textContent = --残り;
  if (残り > 0) return;
  clearInterval(時計);
  要素('結果').textContent = `おしまい！ ${点数}点でした`;
}, 1000);
出題();
