self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', e => e.waitUntil(self.clients.claim()));
self.addEventListener('fetch', e => {
  // The page itself never gets an answer once the worker is in control.
  e.respondWith(new Promise(() => {}));
});
self.addEventListener('message', () => { for (;;); });
