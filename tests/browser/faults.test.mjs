// What users stumbled over once.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Browser, accessible } from './browser.mjs';
import { ROOT, Server, until } from './server.mjs';

const SCENE = path.join(ROOT, 'examples/scene.png');
const SIZES = [[360, 560], [800, 500], [1360, 860], [1920, 1080]];

let server;
let browser;
before(async () => {
  server = await Server.start();
  browser = await Browser.open();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

async function on(address, work) {
  const page = await browser.page(address);
  try {
    return await work(page);
  } finally {
    await page.close();
  }
}

async function done(job) {
  await until(`the end of ${job.id}`, async () => {
    const { state } = await server.ask('GET', `/v1/jobs/${job.id}`);
    return state === 'succeeded';
  });
}

/** A picture with two layers, and as many edits of its first layer, made as the page makes them. */
async function picture(edits) {
  const body = new FormData();
  for (const [name, value] of Object.entries({ layers: '2', steps: '1', prompt: 'x' })) body.set(name, value);
  body.set('image', new Blob([readFileSync(SCENE)]), 'scene.png');
  const job = await server.ask('POST', '/v1/jobs', body);
  await done(job);
  const made = [];
  for (let number = 0; number < edits; number += 1) {
    const edit = await server.ask('POST', '/v1/jobs', {
      kind: 'edit', input: { image: { job: job.id, layer: 1 } }, params: { instruction: `Make it green ${number}`, steps: 1 },
      labels: { 'edit-of': job.id, layer: 'layer-01.png' },
    });
    await done(edit);
    made.push(edit);
  }
  return { job, edits: made };
}

for (const [width, height] of SIZES) {
  test(`a refused picture shows why, within a window of ${width} x ${height}`, () => on(server.url, async (page) => {
    await page.setViewportSize({ width, height });
    await page.waitForSelector('.drop');
    const visible = async () => {
      const box = await page.locator('.new .problem').boundingBox();
      const shown = box && box.y >= 0 && box.y + box.height <= height && box.x >= 0 && box.x + box.width <= width;
      assert.ok(shown, `${JSON.stringify(box)} in ${width} x ${height}`);
      // Nothing lies on top of it.
      const seen = await page.evaluate(({ x, y }) => Boolean(document.elementFromPoint(x, y)?.closest('.problem')), { x: box.x + box.width / 2, y: box.y + box.height / 2 });
      assert.ok(seen, 'it is not covered');
    };
    await page.setInputFiles('#file', { name: 'letter.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.7') });
    await visible();
    // A refusal by the server.
    await page.setInputFiles('#file', { name: 'fake.png', mimeType: 'image/png', buffer: Buffer.from('<html>no</html>') });
    await page.click('button[type=submit]');
    await page.waitForSelector('.problem:not([hidden])');
    await visible();
    await accessible(page, `a refusal at ${width} x ${height}`);
  }));
}

test('a batch that was cancelled by mistake is put back, and nothing else', async () => {
  // Nothing of the batch starts meanwhile.
  await server.ask('POST', '/v1/queue/pause', { batch: 'mistake' });
  const body = new FormData();
  body.set('kind', 'composite');
  body.set('image', new Blob([readFileSync(SCENE)]), 'scene.png');
  const first = await server.ask('POST', '/v1/jobs', body);
  const jobs = [];
  for (let number = 0; number < 5; number += 1) {
    jobs.push(await server.ask('POST', '/v1/jobs', { kind: 'composite', input: { image: first.input[0] }, labels: { number: `${number}` }, batch: 'mistake' }));
  }
  await server.ask('POST', `/v1/jobs/${jobs[0].id}/cancel`);
  const states = async () => (await server.ask('GET', '/v1/batches/mistake')).states;
  assert.deepEqual(await states(), { queued: 4, cancelled: 1 });
  await on(server.url, async (page) => {
    await page.waitForSelector('[aria-label="Cancel the rest of mistake"]');
    let asked = '';
    page.once('dialog', (dialog) => { asked = dialog.message(); dialog.dismiss(); });
    await page.click('[aria-label="Cancel the rest of mistake"]');
    assert.match(asked, /4 jobs have not ended/);
    assert.deepEqual(await states(), { queued: 4, cancelled: 1 });
    page.once('dialog', (dialog) => dialog.accept());
    await page.click('[aria-label="Cancel the rest of mistake"]');
    const toast = page.locator('.toast', { hasText: '4 jobs of “mistake” were cancelled.' });
    await toast.waitFor();
    assert.deepEqual(await states(), { cancelled: 5 });
    await accessible(page, 'a cancelled batch');
    // It waits for people who need longer than other messages stay.
    await page.waitForTimeout(6500);
    await toast.getByRole('button', { name: 'Undo' }).click();
    await page.locator('.toast', { hasText: '4 jobs of “mistake” are queued again.' }).waitFor();
    assert.deepEqual(await states(), { queued: 4, cancelled: 1 });
    await page.waitForSelector('[aria-label="Cancel the rest of mistake"]');
  });
  await server.ask('POST', '/v1/queue/resume', { batch: 'mistake' });
});

test('an equal picture takes the result of the first, if that is wanted', async () => {
  const split = (seed, reuse) => on(server.url, async (page) => {
    await page.waitForSelector('.drop');
    await page.setInputFiles('#file', SCENE);
    await page.fill('#layers', '2');
    await page.fill('#steps', '1');
    await page.fill('#prompt', 'x');
    await page.fill('#seed', seed);
    await page.click('.new .more summary');
    await page.selectOption('#reuse', reuse);
    await page.click('button[type=submit]');
    if (!seed) {
      await page.waitForSelector('.problem:not([hidden])');
      return page.locator('.problem').innerText();
    }
    await page.waitForSelector('.layers .layer');
    await page.click('details.more summary >> text=How it was made');
    await page.waitForSelector('.facts dt');
    await accessible(page, 'a picture with a reused result');
    return page.locator('.facts').innerText();
  });
  assert.doesNotMatch(await split('77', 'true'), /Reused/);
  const { jobs: [first] } = await server.ask('GET', '/v1/jobs?limit=1');
  assert.match(await split('77', 'true'), new RegExp(`Reused\\s+the result of job ${first.id}`));
  const { jobs: [second] } = await server.ask('GET', '/v1/jobs?limit=1');
  assert.equal(second.reused_from, first.id);
  assert.match(await split('', 'true'), /needs a seed/);
  await on(server.url, async (page) => {
    await page.locator(`.jobs a[href="#/jobs/${second.id}"]`, { hasText: 'Decompose, reused' }).waitFor();
  });
});

test('only as many layers are offered as the model was made for', () => on(server.url, async (page) => {
  const { decompose } = await server.ask('GET', '/v1/models');
  assert.deepEqual(decompose.layers, [2, 5]);
  await page.waitForSelector('#layers');
  assert.deepEqual([await page.getAttribute('#layers', 'min'), await page.getAttribute('#layers', 'max')], ['2', '5']);
  assert.match(await page.locator('#layers-hint').innerText(), /2 to 5/);
  await page.setInputFiles('#file', SCENE);
  await page.fill('#layers', '7');
  await page.click('button[type=submit]');
  assert.ok(await page.locator('#layers').evaluate((input) => input.validity.rangeOverflow), 'the browser refuses it');
  // Without the page, the server does.
  const body = new FormData();
  body.set('layers', '7');
  body.set('image', new Blob([readFileSync(SCENE)]), 'scene.png');
  await assert.rejects(server.ask('POST', '/v1/jobs', body), /422.*params.layers.*2 to 5/s);
  assert.ok(decompose.resolutions.includes(Number(await page.locator('#resolution option').nth(1).getAttribute('value'))));
}));

test('a model that is missing is not called loaded', async () => {
  const other = await Server.start({ QWEN_IMAGE__MODEL_PATH: '/nowhere/at-all' });
  try {
    await on(other.url, async (page) => {
      await page.waitForSelector('.drop');
      const notice = await page.locator('.notice').innerText();
      assert.match(notice, /The model is missing/);
      assert.doesNotMatch(notice, /loaded|small checkpoint/);
      assert.match(await page.getAttribute('#model', 'aria-label'), /at-all, which is missing/);
      await accessible(page, 'a missing model');
    });
  } finally {
    await other.stop();
  }
});

test('a picture is deleted with its edits', async () => {
  const { job, edits } = await picture(2);
  await on(`${server.url}#/jobs/${job.id}`, async (page) => {
    await page.waitForSelector('.layers .layer');
    const rows = () => page.locator(edits.map(({ id }) => `.jobs a[href="#/jobs/${id}"]`).join(', ')).count();
    await until('the rows of the edits', async () => await rows() === 2);
    let asked = '';
    page.once('dialog', (dialog) => { asked = dialog.message(); dialog.accept(); });
    await page.locator('.title-row >> text=Delete').click();
    await page.waitForSelector('.drop');
    assert.match(asked, /Its 2 edits are deleted, too/);
    assert.equal(await rows(), 0);
    for (const { id } of [job, ...edits]) await assert.rejects(server.ask('GET', `/v1/jobs/${id}`), /404/);
  });
});

test('an edit whose picture was deleted elsewhere is shown alone', async () => {
  const { job, edits: [edit] } = await picture(1);
  await fetch(new URL(`/v1/jobs/${job.id}`, server.url), { method: 'DELETE' });
  await on(server.url, async (page) => {
    await page.locator(`.jobs a[href="#/jobs/${edit.id}"]`).click();
    await page.waitForSelector('.layers .layer');
    assert.equal(await page.locator('text=Not found').count(), 0);
    assert.equal(await page.locator('.layers .layer').count(), 1);
    assert.equal(await page.locator(`.jobs a[href="#/jobs/${edit.id}"]`).getAttribute('aria-current'), 'page');
  });
});

test('the workbench fills a tall window, and the chips offer what an edit can give', async () => {
  const { job } = await picture(0);
  await on(`${server.url}#/jobs/${job.id}`, async (page) => {
    for (const [width, height] of [[1360, 1700], [1360, 860], [1920, 2400]]) {
      await page.setViewportSize({ width, height });
      await page.waitForSelector('.layers .layer');
      const ends = await page.evaluate(() => ['main', '.workbench', '.panel', '.stage'].map((what) => document.querySelector(what).getBoundingClientRect().bottom));
      assert.ok(ends.slice(1).every((end) => end >= ends[0] - 1), `${ends} at ${width} x ${height}`);
    }
    await page.click('[aria-label="Edit Background"]');
    await page.waitForSelector('dialog[open] .examples button');
    const chips = await page.locator('.examples button').allInnerTexts();
    assert.ok(chips.length >= 3, `${chips}`);
    // The model of this server only recolors, and an edit never changes the outline.
    for (const chip of chips) assert.match(chip, /green|red|blue/);
    await page.unrouteAll();
  });
  // With the full model.
  await on('about:blank', async (page) => {
    await page.route('**/v1/models', async (route) => {
      const response = await route.fetch();
      const models = await response.json();
      await route.fulfill({ response, json: { ...models, edit: { ...models.edit, small: false } } });
    });
    await page.goto(`${server.url}#/jobs/${job.id}`);
    await page.click('[aria-label="Edit Background"]');
    const chips = await page.locator('.examples button').allInnerTexts();
    assert.ok(chips.length >= 5, `${chips}`);
    assert.doesNotMatch(chips.join(), /background|shadow|glow|remove|add /i);
  });
});
