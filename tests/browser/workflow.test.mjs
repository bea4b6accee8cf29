// What a user does with a picture, from the drop to the download. It also takes the README's screenshots.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { Browser, accessible, canvas, pixels, same, screenshot } from './browser.mjs';
import { ROOT, Server } from './server.mjs';

const SCENE = path.join(ROOT, 'examples/scene.png');

let server;
let browser;
let page;
before(async () => {
  server = await Server.start();
  browser = await Browser.open({ colorScheme: 'light' });
  page = await browser.page(server.url);
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

const row = (name) => page.locator('.layer', { has: page.locator(`[aria-label="Name of ${name}"]`) });
const names = () => page.locator('.layer .name').evaluateAll((inputs) => inputs.map((input) => input.value));

test('the start says which model is loaded, and that it is a small one', async () => {
  await page.waitForSelector('.drop');
  assert.match(await page.locator('#model').innerText(), /layered-nano/);
  assert.match(await page.locator('.notice').innerText(), /small checkpoint.*Qwen-Image-Layered/s);
  assert.equal(await page.inputValue('#layers'), '4');
  assert.equal(await page.inputValue('#steps'), '50');
  await screenshot(page, 'start');
  await accessible(page, 'the start');
  await page.click('#model');
  await accessible(page, 'the models');
  await page.keyboard.press('Escape');
});

test('a picture is split into layers, step by step', async () => {
  await page.setInputFiles('#file', SCENE);
  await page.fill('#seed', '7');
  await page.click('button[type=submit]');
  await page.waitForSelector('.running .stage');
  await page.waitForFunction(() => /step \d+ of 50/.test(document.querySelector('.running .stage')?.textContent ?? ''), null, { timeout: 120_000 });
  assert.ok(await page.locator('.running button', { hasText: 'Cancel' }).isEnabled());
  await accessible(page, 'a job on its way');
  await screenshot(page, 'running');
  await page.waitForSelector('.layers .layer', { timeout: 180_000 });
  assert.deepEqual(await names(), ['White tree', 'Purple house', 'Cyan star', 'Background']);
  const cut = await page.locator('.layer .name').evaluateAll((inputs) => inputs.filter((input) => input.scrollWidth > input.clientWidth).length);
  assert.equal(cut, 0, 'names are shown whole');
  await canvas(page);
  await accessible(page, 'the layers');
  await screenshot(page, 'layers');
});

test('layers are hidden, made faint, renamed, moved, and viewed on their own', async () => {
  const whole = await canvas(page);
  const eye = row('Purple house').locator('[aria-label="Show Purple house"]');
  await eye.click();
  assert.equal(await eye.getAttribute('aria-pressed'), 'false');
  const without = await canvas(page);
  assert.ok(!same(whole, without), 'the house is gone');
  await eye.click();
  assert.ok(same(whole, await canvas(page)), 'and is back');

  await row('Background').locator('.thumb').click();
  const alone = await canvas(page);
  await row('Background').locator('.thumb').click();
  assert.ok(!same(whole, alone));

  await row('Cyan star').locator('input[type=range]').fill('40');
  assert.ok(!same(whole, await canvas(page)), 'the star is faint');
  await row('Cyan star').locator('.name').fill('Étoile');
  await page.keyboard.press('Enter');

  // With the keyboard and with the pointer.
  const grip = row('White tree').locator('.grip');
  await grip.focus();
  await page.keyboard.press('ArrowDown');
  assert.deepEqual(await names(), ['Purple house', 'White tree', 'Étoile', 'Background']);
  assert.equal(await page.evaluate(() => document.activeElement.className), 'icon grip', 'the focus goes along');
  assert.match(await page.locator('#say').textContent(), /White tree is now number 2 of 4/);
  const from = await row('Étoile').locator('.grip').boundingBox();
  const to = await row('Purple house').boundingBox();
  await page.mouse.move(from.x + 8, from.y + 8);
  await page.mouse.down();
  await page.mouse.move(from.x + 8, from.y - 60, { steps: 5 });
  await page.mouse.move(from.x + 8, to.y + 4, { steps: 8 });
  await page.mouse.up();
  assert.deepEqual(await names(), ['Étoile', 'Purple house', 'White tree', 'Background']);
});

test('a layer is edited: its colors change and its alpha does not', async () => {
  const original = await row('Purple house').locator('.thumb img').evaluate((image) => image.src.replace('/thumbnails/', '/files/').replace(/\?.*/, ''));
  const before = await canvas(page);
  await page.click('[aria-label="Edit Purple house"]');
  await page.waitForSelector('dialog[open]');
  await page.click('text=Change the color to blue');
  assert.equal(await page.inputValue('#instruction'), 'Change the color to blue');
  await page.fill('#instruction', 'Make it green');
  await page.fill('#edit-seed', '7');
  await accessible(page, 'the edit dialog');
  const gaps = await page.locator('dialog input[type=checkbox]').evaluateAll((inputs) => inputs.map((input) => input.getBoundingClientRect().right - input.parentElement.getBoundingClientRect().left));
  assert.ok(gaps.length >= 2 && gaps.every((gap) => gap < 30), `checkboxes stand before their words: ${gaps}`);
  await page.click('text=Apply edit');
  await page.waitForSelector('dialog .running');
  await page.waitForFunction(() => document.querySelectorAll('.versions li').length === 2, null, { timeout: 180_000 });
  await screenshot(page, 'edit');

  const edited = await page.locator('.compare img').nth(1).getAttribute('src');
  const [was, is] = [await pixels(page, original), await pixels(page, new URL(edited, server.url).href)];
  let colours = 0;
  for (let at = 0; at < was.length; at += 4) {
    assert.equal(is[at + 3], was[at + 3], 'alpha');
    if (was[at + 3] === 255) colours += Math.abs(is[at] - was[at]) + Math.abs(is[at + 1] - was[at + 1]) + Math.abs(is[at + 2] - was[at + 2]);
  }
  assert.ok(colours > 1000, `the colours differ by ${colours} in all`);

  // Undo and redo.
  const after = await canvas(page);
  assert.ok(!same(before, after), 'the picture shows the edit');
  await page.click('[aria-label^="Version 1"]');
  assert.ok(same(before, await canvas(page)), 'the first version is back');
  await page.click('[aria-label^="Version 2"]');
  assert.ok(same(after, await canvas(page)));
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-label')), 'Edit Purple house', 'the focus is where it was');
});

test('a mask says where an edit may change its layer', async () => {
  const original = await row('Background').locator('.thumb img').evaluate((image) => image.src.replace('/thumbnails/', '/files/').replace(/\?.*/, ''));
  const mask = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(256, 256);
    const context = canvas.getContext('2d');
    context.fillRect(0, 0, 256, 256);
    context.fillStyle = 'white';
    context.fillRect(0, 0, 128, 256);
    return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
  });
  await page.click('[aria-label="Edit Background"]');
  await page.waitForSelector('dialog[open]');
  await page.fill('#instruction', 'Make it red');
  await page.fill('#edit-seed', '7');
  assert.ok(await page.locator('text=Remove the mask').isHidden());
  await page.setInputFiles('#edit-mask', { name: 'mask.txt', mimeType: 'text/plain', buffer: Buffer.from('none') });
  await page.click('text=Apply edit');
  await page.waitForSelector('dialog .problem:not([hidden])');
  assert.match(await page.locator('dialog .problem').innerText(), /image|picture/);
  await page.click('text=Remove the mask');
  assert.equal(await page.inputValue('#edit-mask'), '');
  await page.setInputFiles('#edit-mask', { name: 'mask.png', mimeType: 'image/png', buffer: Buffer.from(mask) });
  await accessible(page, 'the edit dialog with a mask');
  await page.click('text=Apply edit');
  await page.waitForFunction(() => document.querySelectorAll('.versions li').length === 2, null, { timeout: 180_000 });
  const edited = await page.locator('.compare img').nth(1).getAttribute('src');
  const [was, is] = [await pixels(page, original), await pixels(page, new URL(edited, server.url).href)];
  const width = Math.sqrt(was.length / 4); // the scene is square
  let [left, right] = [0, 0];
  for (let at = 0; at < was.length; at += 1) {
    const differs = Math.abs(was[at] - is[at]);
    const column = Math.floor(at / 4) % width;
    if (column < width / 2) left += differs;
    else if (column > width / 2 + 2) right += differs; // the mask is scaled, so that its edge is soft
  }
  assert.ok(left > 1000 && right === 0, `the differences are ${left} under white and ${right} under black`);
  await page.keyboard.press('Escape');
});

test('the stack can be downloaded as arranged', async () => {
  const take = async (label) => {
    await page.click('summary.button');
    const [download] = await Promise.all([page.waitForEvent('download'), page.locator('.menu-items button', { hasText: label }).click()]);
    return { name: download.suggestedFilename(), bytes: readFileSync(await download.path()) };
  };
  const psd = await take('Photoshop');
  assert.equal(psd.name, 'scene.psd');
  assert.equal(psd.bytes.subarray(0, 4).toString(), '8BPS');
  const star = Buffer.from('Étoile', 'utf16le').swap16();
  assert.ok(psd.bytes.includes(star), 'the new name is in it');
  const ora = await take('OpenRaster');
  assert.ok(ora.bytes.subarray(0, 60).toString().includes('image/openraster'));
  const stack = ora.bytes.toString();
  assert.match(stack, /name="Étoile" src="data\/layer-04.png"[^>]*opacity="0.4"/);
  const slide = await take('PowerPoint');
  assert.equal(slide.name, 'scene.pptx');
  assert.ok(slide.bytes.includes('ppt/slides/slide1.xml') && slide.bytes.includes('name="Étoile"'));
  assert.equal((await take('WebP')).bytes.subarray(8, 12).toString(), 'WEBP');
  assert.equal((await take('JPEG')).bytes.readUint16BE(), 0xffd8);
  const zip = await take('ZIP');
  assert.ok(zip.bytes.includes('composite.png') && zip.bytes.includes('edited.png'));

  const picture = await take('Picture');
  const shown = await canvas(page);
  const url = `data:image/png;base64,${picture.bytes.toString('base64')}`;
  const got = await page.evaluate(async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext('2d').drawImage(image, 0, 0);
    return [...canvas.getContext('2d').getImageData(0, 0, image.width, image.height).data];
  }, url);
  assert.ok(same(shown, Uint8ClampedArray.from(got)), 'the picture is what the canvas shows');
});

test('a reload finds everything as it was left, and the history finds the job', async () => {
  const shown = await canvas(page);
  await page.reload();
  await page.waitForSelector('.layers .layer');
  assert.deepEqual(await names(), ['Étoile', 'Purple house', 'White tree', 'Background']);
  assert.ok(same(shown, await canvas(page)));

  await page.goto(`${server.url}#/`);
  await page.keyboard.press('/');
  await page.fill('#search', 'green');
  await page.waitForFunction(() => document.querySelectorAll('.jobs li').length === 1);
  assert.match(await page.locator('.jobs li').innerText(), /Make it green/);
  await page.fill('#search', 'nothing like it');
  await page.waitForFunction(() => /No jobs found/.test(document.querySelector('.end').textContent));
  await page.fill('#search', '');
  await page.waitForFunction(() => document.querySelectorAll('.jobs li').length === 3);
  await page.locator('.jobs a', { hasText: 'scene.png' }).click();
  await page.waitForSelector('.layers .layer');
});

test('dark mode, on a screen as narrow as a phone', async () => {
  await page.emulateMedia({ colorScheme: 'dark' });
  await canvas(page);
  await accessible(page, 'dark');
  await screenshot(page, 'dark');
  await page.setViewportSize({ width: 390, height: 844 });
  await accessible(page, 'narrow');
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 390, `nothing sticks out (${wide} px)`);
  await screenshot(page, 'phone');
  await page.click('#drawer');
  await page.waitForSelector('.history.open');
  await accessible(page, 'the drawer');
  await page.emulateMedia({ colorScheme: 'light' });
});

test('two tabs on one layer know of each other', async () => {
  await page.setViewportSize({ width: 1360, height: 860 });
  const other = await browser.page(page.url());
  await other.waitForSelector('.layers .layer');
  await other.locator('[aria-label="Name of Background"]').fill('Dots');
  await other.keyboard.press('Enter');
  await page.waitForFunction(() => [...document.querySelectorAll('.name')].some((input) => input.value === 'Dots'));

  await other.click('[aria-label="Edit Purple house"]');
  await other.fill('#instruction', 'Make it red');
  await other.fill('#edit-steps', '2');
  await other.click('text=Apply edit');
  await other.waitForFunction(() => document.querySelectorAll('.versions li').length === 3, null, { timeout: 120_000 });
  await page.click('[aria-label="Edit Purple house"]');
  await page.waitForFunction(() => document.querySelectorAll('.versions li').length === 3);
  assert.equal(await page.locator('.versions [aria-pressed=true]').count(), 1);
  await other.close();
});

test('an edit that is cancelled leaves everything as it was', async () => {
  const before = await canvas(page);
  await page.fill('#instruction', 'Make it yellow');
  await page.fill('#edit-steps', '1000');
  await page.click('text=Apply edit');
  await page.waitForFunction(() => /step \d+ of 1000/.test(document.querySelector('dialog .stage')?.textContent ?? ''), null, { timeout: 60_000 });
  await page.click('dialog .running button');
  await page.waitForSelector('dialog .running', { state: 'detached', timeout: 30_000 });
  assert.equal(await page.locator('.versions li').count(), 3);
  assert.ok(await page.locator('text=Apply edit').isEnabled());
  await page.keyboard.press('Escape');
  assert.ok(same(before, await canvas(page)));
});
