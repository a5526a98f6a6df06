const Scores = {
  key: 'meteor-dodge.best',
  load() {
    try {
      return parseInt(localStorage.getItem(this.key), 10) || 0;
    } catch (e) {
      return 0; // private mode
    }
  },
  save(score) {
    try {
      localStorage.setItem(this.key, String(score));
    } catch (e) { /* the score is lost, the game goes on */ }
  },
};
