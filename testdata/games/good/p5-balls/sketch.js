let balloons = [];
let score = 0;
let aim;

function setup() {
  createCanvas(windowWidth, windowHeight);
  colorMode(HSB, 360, 100, 100);
  textAlign(LEFT, TOP);
  aim = createVector(width / 2, height / 2);
  for (let i = 0; i < 9; i++) balloons.push(new Balloon());
}

function draw() {
  background(205, 25, 100);
  if (keyIsDown(LEFT_ARROW)) aim.x -= 7;
  if (keyIsDown(RIGHT_ARROW)) aim.x += 7;
  if (keyIsDown(UP_ARROW)) aim.y -= 7;
  if (keyIsDown(DOWN_ARROW)) aim.y += 7;
  for (const b of balloons) {
    b.update();
    b.show();
  }
  noFill();
  stroke(0, 0, 20);
  strokeWeight(3);
  circle(aim.x, aim.y, 36);
  line(aim.x - 24, aim.y, aim.x + 24, aim.y);
  line(aim.x, aim.y - 24, aim.x, aim.y + 24);
  noStroke();
  fill(0, 0, 15);
  textSize(24);
  text(`Popped: ${score}`, 16, 16);
}

function shoot() {
  for (const b of balloons) {
    if (dist(b.x, b.y, aim.x, aim.y) < b.r) {
      score++;
      b.reset();
    }
  }
}

function mousePressed() {
  aim.set(mouseX, mouseY);
  shoot();
  return false;
}

function mouseMoved() {
  aim.set(mouseX, mouseY);
}

function keyPressed() {
  if (key === ' ') shoot();
}

function windowResized() {
  resizeCanvas(windowWidth, windowHeight);
}

class Balloon {
  constructor() {
    this.reset();
    this.y = random(height);
  }

  reset() {
    this.r = random(24, 46);
    this.x = random(this.r, width - this.r);
    this.y = height + this.r;
    this.speed = random(0.8, 2.6);
    this.hue = random(360);
  }

  update() {
    this.y -= this.speed;
    this.x += sin(frameCount / 30 + this.hue) * 0.6;
    if (this.y < -this.r) this.reset();
  }

  show() {
    stroke(0, 0, 40);
    strokeWeight(1);
    line(this.x, this.y + this.r, this.x, this.y + this.r * 2);
    noStroke();
    fill(this.hue, 70, 90);
    ellipse(this.x, this.y, this.r * 1.7, this.r * 2);
  }
}
