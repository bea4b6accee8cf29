// A long history stays smooth, and the page is there at once.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Browser, accessible, screenshot } from './browser.mjs';
import { ROOT, Server, until } from './server.mjs';

const JOBS = 300;
/** Bytes and milliseconds until the first paint, and milliseconds for all but a few frames of a scroll. */
const FIRST_PAINT = { bytes: 100_000, ms: 300 };
const FRAME = 50;

let server;
let browser;
before(async () => {
  server = await Server.start();
  browser = await Browser.open();
  await fill();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Composites of one picture: the cheapest jobs there are, with a thumbnail each. */
async function fill() {
  const picture = new Blob([readFileSync(path.join(ROOT, 'examples/scene.png'))]);
  const body = new FormData();
  body.set('kind', 'composite');
  body.set('image', picture, 'scene.png');
  const first = await server.ask('POST', '/v1/jobs', body);
  for (let number = 1; number < JOBS; number += 1) {
    await server.ask('POST', '/v1/jobs', { kind: 'composite', input: first.input[0].upload ? { image: first.input[0] } : { images: first.input }, labels: { name: `picture ${number}` }, batch: 'many' });
  }
  await until('the end of every job', async () => {
    const { ended, total } = await server.ask('GET', '/v1/batches/many');
    return ended === total;
  });
}

test('the first paint is small and soon', async () => {
  const page = await browser.page(server.url);
  await page.waitForSelector('.drop');
  const bytes = await page.evaluate(() => {
    const [page] = performance.getEntriesByType('navigation');
    const files = performance.getEntriesByType('resource').filter((entry) => !entry.name.includes('/v1/'));
    return files.reduce((sum, entry) => sum + entry.decodedBodySize, page.decodedBodySize);
  });
  const times = [];
  for (let round = 0; round < 5; round += 1) {
    await page.reload({ waitUntil: 'load' });
    await page.waitForSelector('.drop');
    times.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
  }
  const median = times.sort((a, b) => a - b)[2];
  console.log(`first paint: ${Math.round(median)} ms (median of 5), ${bytes} bytes of page in all`);
  assert.ok(bytes > 10_000 && bytes < FIRST_PAINT.bytes, `${bytes} bytes`);
  assert.ok(median < FIRST_PAINT.ms, `${median} ms`);
  await page.close();
});

test(`${JOBS} pictures scroll smoothly`, async () => {
  const page = await browser.page(server.url);
  await page.waitForFunction(() => document.querySelectorAll('.jobs li').length >= 60);
  const frames = await page.evaluate(async (jobs) => {
    const pane = document.getElementById('history');
    const took = [];
    let last = null;
    for (let still = 0; still < 120 && took.length < 2000;) {
      const now = await new Promise(requestAnimationFrame);
      if (last !== null) took.push(now - last);
      last = now;
      const before = pane.scrollTop;
      pane.scrollTop += 60;
      // At the end, for now: the next page may be on its way.
      still = pane.scrollTop === before ? still + 1 : 0;
      if (still > 30 && document.querySelectorAll('.jobs li').length >= jobs) break;
    }
    return took.sort((a, b) => a - b);
  }, JOBS);
  const count = await page.locator('.jobs li').count();
  const at = (share) => frames[Math.floor(frames.length * share)];
  console.log(`history of ${count}: ${frames.length} frames, median ${at(0.5).toFixed(1)} ms, p95 ${at(0.95).toFixed(1)} ms, longest ${frames.at(-1).toFixed(1)} ms`);
  assert.equal(count, JOBS);
  assert.ok(at(0.95) < FRAME, `p95 of ${at(0.95)} ms`);
  const shown = await page.locator('.job img').evaluateAll((images) => images.filter((image) => image.naturalWidth > 0).length);
  assert.ok(shown > JOBS / 2, `${shown} thumbnails were loaded on the way`);
  // At rest: what is half under the search is no target.
  await page.evaluate(() => document.getElementById('history').scrollTo(0, 0));
  await accessible(page, 'a long history');
  await screenshot(page, 'history');
  await page.close();
});
