class Main extends Phaser.Scene {
  create() {
    this.player = this.add.rectangle(100, 300, 32, 48, 0xe63946);
    this.physics.add.existing(this.player);
    const ground = this.add.rectangle(400, 380, 800, 40, 0x2a9d8f);
    this.physics.add.existing(ground, true);
    this.physics.add.collider(this.player, ground);
    this.cursors = this.input.keyboard.createCursorKeys();
    this.input.on('pointerdown', () => this.jump());
    this.score = 0;
    this.label = this.add.text(16, 16, 'Score 0', { fontSize: '24px' });
    this.obstacles = this.physics.add.group();
    this.time.addEvent({ delay: 1400, loop: true, callback: () => this.spawn() });
  }

  spawn() {
    const box = this.add.rectangle(820, 345, 24, 30, 0xf4a261);
    this.obstacles.add(box);
    box.body.setVelocityX(-260).setAllowGravity(false);
    this.label.setText('Score ' + this.score++);
  }

  jump() {
    if (this.player.body.touching.down) this.player.body.setVelocityY(-420);
  }

  update() {
    if (this.cursors.up.isDown || this.cursors.space.isDown) this.jump();
  }
}

new Phaser.Game({
  type: Phaser.AUTO,
  parent: 'game',
  width: 800,
  height: 400,
  scale: { mode: Phaser.Scale.FIT },
  physics: { default: 'arcade', arcade: { gravity: { y: 900 } } },
  scene: Main,
});
