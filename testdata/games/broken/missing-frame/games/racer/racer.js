export function steer(car, dx) {
  car.x = Math.max(0, Math.min(300, car.x + dx * 6));
}
