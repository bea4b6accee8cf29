// Failures, and how the page shows them.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Browser, accessible } from './browser.mjs';
import { ROOT, Server } from './server.mjs';

const SCENE = path.join(ROOT, 'examples/scene.png');
const TOKEN = 'a-token-that-is-long-enough';

let browser;
before(async () => { browser = await Browser.open(); });
after(async () => { await browser?.close(); });

/** A page with a separate server; both are closed at the end. */
async function on(settings, work) {
  const server = await Server.start(settings);
  const page = await browser.page(server.url);
  try {
    await work(page, server);
  } finally {
    await page.close();
    await server.stop();
  }
}

async function start(page, steps) {
  await page.waitForSelector('.drop');
  await page.setInputFiles('#file', SCENE);
  await page.fill('#steps', String(steps));
  await page.click('button[type=submit]');
  await page.waitForSelector('.running');
}

const stage = (page, pattern) => page.waitForFunction((pattern) => new RegExp(pattern).test(document.querySelector('.running .stage')?.textContent ?? ''), pattern, { timeout: 120_000 });

test('a running job is cancelled, tried again, and deleted', () => on({}, async (page) => {
  await start(page, 1000);
  await stage(page, 'step \\d+ of 1000');
  await page.click('.running button');
  await page.waitForSelector('.ending', { timeout: 30_000 });
  assert.match(await page.locator('.ending').innerText(), /Decompose cancelled/);
  await accessible(page, 'a cancelled job');
  await page.click('text=Try again');
  await stage(page, 'step \\d+ of 1000');
  await page.click('.running button');
  await page.waitForSelector('.ending', { timeout: 30_000 });
  page.once('dialog', (dialog) => dialog.accept());
  await page.click('.waiting >> text=Delete');
  await page.waitForSelector('.drop');
  await page.waitForFunction(() => document.querySelectorAll('.jobs li').length === 0);
}));

test('a batch shows its progress, and the rest of it can be cancelled', () => on({}, async (page, server) => {
  for (let number = 0; number < 2; number += 1) {
    const body = new FormData();
    for (const [name, value] of Object.entries({ steps: '1000', seed: String(number), batch: 'posters' })) body.set(name, value);
    body.set('image', new Blob([readFileSync(SCENE)]), `poster-${number}.png`);
    await server.ask('POST', '/v1/jobs', body);
  }
  // It appears as soon as the first of the two jobs exists.
  await page.locator('.batch', { hasText: /posters\s*0 of 2/ }).waitFor({ timeout: 30_000 });
  await page.waitForSelector('.jobs li[data-state=running] progress:not([hidden])');
  await accessible(page, 'a batch under way');
  // Only after a question.
  const asked = [];
  page.once('dialog', (dialog) => { asked.push(dialog.message()); dialog.dismiss(); });
  await page.click('[aria-label="Cancel the rest of posters"]');
  assert.match(asked.join(), /Cancel the rest of “posters”\? 2 jobs have not ended/);
  assert.deepEqual((await server.ask('GET', '/v1/batches/posters')).states.cancelled ?? 0, 0);
  page.once('dialog', (dialog) => dialog.accept());
  await page.click('[aria-label="Cancel the rest of posters"]');
  await page.waitForSelector('.batch', { state: 'hidden', timeout: 30_000 });
  await page.waitForFunction(() => document.querySelectorAll('.jobs li[data-state=cancelled]').length === 2);
}));

test('a file that is not a picture or is too large is refused with a reason', () => on({ HTTP__MAX_UPLOAD_BYTES: 200_000 }, async (page) => {
  await page.waitForSelector('.drop');
  await page.setInputFiles('#file', { name: 'letter.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.7') });
  assert.match(await page.locator('.problem').innerText(), /letter.pdf is not a picture/);
  await page.setInputFiles('#file', { name: 'large.png', mimeType: 'image/png', buffer: Buffer.alloc(300_000) });
  assert.match(await page.locator('.problem').innerText(), /large.png is 300 kB; this server accepts up to 200 kB/);
  // Only the server can check its content.
  await page.setInputFiles('#file', { name: 'fake.png', mimeType: 'image/png', buffer: Buffer.from('<html>no</html>') });
  await page.click('button[type=submit]');
  await page.waitForSelector('.problem:not([hidden])');
  assert.match(await page.locator('.problem').innerText(), /HTML/);
  await accessible(page, 'a refused picture');
}));

test('a picture can be dropped and pasted anywhere on the page', () => on({}, async (page) => {
  await page.waitForSelector('.drop');
  const give = (kind, name) => page.evaluate(async ([kind, name]) => {
    const blob = await (await fetch('sample.png')).blob();
    const data = new DataTransfer();
    data.items.add(new File([blob], name, { type: 'image/png' }));
    const event = kind === 'paste'
      ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
      : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }, [kind, name]);
  await give('drop', 'dropped.png');
  await page.waitForSelector('text=dropped.png');
  await give('paste', 'pasted.png');
  await page.waitForSelector('text=pasted.png');
}));

test('addresses of pages that do not exist', () => on({}, async (page, server) => {
  await page.goto(`${server.url}#/jobs/018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21`);
  await page.waitForSelector('text=Not found');
  await accessible(page, 'not found');
  for (const trick of ['#/jobs/../../etc/passwd', '#/jobs/%2e%2e', '#/nothing']) {
    await page.goto(`${server.url}${trick}`);
    await page.waitForSelector('.drop');
  }
}));

test('the page continues by itself after the server was restarted during a job', () => on({ WORKER__LEASE_SECONDS: 3 }, async (page, server) => {
  await start(page, 60);
  await stage(page, 'step [1-9]\\d* of 60');
  await server.down('SIGKILL');
  await page.waitForSelector('.lost:not([hidden])');
  assert.match(await page.locator('.lost').innerText(), /connection is lost/);
  await page.waitForSelector('#connection:not([hidden])', { timeout: 10_000 });
  await accessible(page, 'a lost connection');
  await server.up();
  await page.waitForSelector('.lost', { state: 'hidden', timeout: 60_000 });
  await page.waitForSelector('#connection', { state: 'hidden', timeout: 15_000 });
  await page.waitForSelector('.layers .layer', { timeout: 180_000 });
}));

test('the server is unreachable when the page is opened', () => on({}, async (page, server) => {
  await page.route('**/v1/session', (route) => route.abort());
  await page.reload();
  await page.waitForSelector('text=The server cannot be reached');
  await accessible(page, 'no server');
  await page.unroute('**/v1/session');
  await page.click('text=Try again');
  await page.waitForSelector('.drop');
}));

test('the page to browse the API', () => on({}, async (page, server) => {
  await page.goto(`${server.url}docs`);
  await page.waitForSelector('details');
  await page.locator('details').first().evaluate((entry) => { entry.open = true; });
  await accessible(page, 'the API');
  await page.fill('#search', 'cancel');
  await page.waitForFunction(() => [...document.querySelectorAll('details')].filter((entry) => entry.offsetParent).length < 10);
}));

test('a token is requested, and a wrong one is refused', () => on({ HTTP__TOKEN: TOKEN }, async (page) => {
  await page.waitForSelector('dialog[open]');
  await accessible(page, 'the question for a token');
  await page.fill('#token', 'some-other-token-altogether');
  await page.click('text=Sign in');
  await page.waitForSelector('text=Wrong token');
  await page.fill('#token', TOKEN);
  await page.click('text=Sign in');
  await page.waitForSelector('.drop');
  await start(page, 1);
  await page.waitForSelector('.layers .layer', { timeout: 120_000 });
  await page.waitForFunction(() => [...document.querySelectorAll('.thumb img')].every((image) => image.naturalWidth > 0));
  await page.reload();
  await page.waitForSelector('.layers .layer');
}));
