// A value that tells its subscribers when it changes.
export function signal(value) {
  const subscribers = new Set();
  return {
    get value() { return value; },
    set value(v) {
      value = v;
      for (const s of subscribers) s(v);
    },
    subscribe(fn) {
      subscribers.add(fn);
      fn(value);
      return () => subscribers.delete(fn);
    },
  };
}
