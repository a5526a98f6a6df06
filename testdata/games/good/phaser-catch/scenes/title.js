class Title extends Phaser.Scene {
  constructor() {
    super('title');
  }

  preload() {
    // Textures are drawn here: the game has no picture files.
    const g = this.make.graphics({ add: false });
    g.fillStyle(0xdc2626).fillCircle(16, 18, 14).fillStyle(0x854d0e).fillRect(14, 0, 4, 8);
    g.generateTexture('apple', 32, 32);
    g.clear().fillStyle(0xca8a04).fillRoundedRect(0, 0, 96, 36, 10).fillStyle(0x854d0e).fillRect(4, 12, 88, 5);
    g.generateTexture('basket', 96, 36);
  }

  create() {
    this.add.text(240, 200, 'APPLE\nCATCHER', { fontSize: '64px', fontStyle: 'bold', align: 'center', color: '#fef3c7' }).setOrigin(0.5);
    const hint = this.add.text(240, 420, 'Tap or press a key', { fontSize: '26px', color: '#bbf7d0' }).setOrigin(0.5);
    this.tweens.add({ targets: hint, alpha: 0.2, duration: 700, yoyo: true, repeat: -1 });
    this.input.once('pointerdown', () => this.scene.start('play'));
    this.input.keyboard.once('keydown', () => this.scene.start('play'));
  }
}
