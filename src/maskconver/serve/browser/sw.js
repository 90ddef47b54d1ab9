// Keeps the site's files, so that it works offline, and adds the headers that threads need on hosts that send none.
const VERSION = "of the files"; // replaced by `maskconver export`: another one drops what is kept
const OWN = `maskconver ${registration.scope} `, NAME = OWN + VERSION;

self.addEventListener("activate", (event) => event.waitUntil((async () => {
  for (const name of await caches.keys()) if (name.startsWith(OWN) && name !== NAME) await caches.delete(name);
})()));

async function answerTo(request) {
  const cache = await caches.open(NAME);
  let found = await cache.match(request, { ignoreSearch: true });
  if (!found) {
    found = await fetch(request, { cache: "no-cache" });
    if (!found.ok) return found;
    await cache.put(request, found.clone()).catch(() => {}); // no room: not kept
  }
  const headers = new Headers(found.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(registration.scope)) event.respondWith(answerTo(event.request));
});
