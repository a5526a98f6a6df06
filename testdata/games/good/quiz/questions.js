const QUESTIONS = [
  { q: 'Which planet is the largest?', a: ['Saturn', 'Jupiter', 'Neptune', 'Earth'], right: 1 },
  { q: 'Which planet is closest to the sun?', a: ['Mercury', 'Venus', 'Mars', 'Uranus'], right: 0 },
  { q: 'How many moons does Mars have?', a: ['None', 'One', 'Two', 'Fourteen'], right: 2 },
  { q: 'Which planet rotates on its side?', a: ['Venus', 'Earth', 'Jupiter', 'Uranus'], right: 3 },
  { q: 'What is the Great Red Spot?', a: ['A storm', 'A volcano', 'A sea', 'A crater'], right: 0 },
];
