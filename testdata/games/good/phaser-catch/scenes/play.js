class Play extends Phaser.Scene {
  constructor() {
    super('play');
  }

  create() {
    this.score = 0;
    this.basket = this.physics.add.image(240, 590, 'basket').setImmovable(true);
    this.basket.body.setAllowGravity(false);
    this.basket.setCollideWorldBounds(true);
    this.apples = this.physics.add.group();
    this.label = this.add.text(14, 12, 'Apples 0', { fontSize: '26px', color: '#fff' });
    this.physics.add.overlap(this.basket, this.apples, (_, apple) => {
      apple.destroy();
      this.label.setText(`Apples ${++this.score}`);
    });
    this.time.addEvent({ delay: 700, loop: true, callback: this.drop, callbackScope: this });
    this.cursors = this.input.keyboard.createCursorKeys();
    const follow = p => { this.basket.x = Phaser.Math.Clamp(p.x, 48, 432); };
    this.input.on('pointermove', follow);
    this.input.on('pointerdown', follow);
    this.drop();
  }

  drop() {
    const apple = this.apples.create(Phaser.Math.Between(30, 450), -20, 'apple');
    apple.setAngularVelocity(Phaser.Math.Between(-120, 120));
  }

  update() {
    const v = this.cursors.left.isDown ? -380 : this.cursors.right.isDown ? 380 : 0;
    this.basket.setVelocityX(v);
    for (const apple of this.apples.getChildren().slice()) if (apple.y > 680) apple.destroy();
  }
}
