// Debian's Chromium, without a window, and what every test asks of a page.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { TARGET } from './server.mjs';

const PLACES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const QUIET = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
/** Pictures to look at; those of the README go to $PICTURES where it is set. */
const LOOKED_AT = path.join(TARGET, 'browser');
const README = ['layers', 'edit', 'phone'];
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export class Browser {
  static async open({ width = 1360, height = 860, ...more } = {}) {
    const browser = new Browser();
    browser.folder = mkdtempSync(path.join(tmpdir(), 'chromium-'));
    browser.problems = [];
    browser.context = await chromium.launchPersistentContext(browser.folder, {
      executablePath: PLACES.find((place) => place && existsSync(place)),
      headless: true, args: QUIET, viewport: { width, height }, acceptDownloads: true, ...more,
    });
    browser.context.setDefaultTimeout(30_000);
    return browser;
  }

  async page(url) {
    const page = await this.context.newPage();
    page.on('pageerror', (error) => this.problems.push(`error: ${error.message}`));
    page.on('console', (message) => {
      // What the server refuses shows up here too, and is meant in some tests.
      if (message.type() === 'error' && !message.text().startsWith('Failed to load resource')) this.problems.push(message.text());
    });
    if (url) await page.goto(url);
    return page;
  }

  /** Closes it; scripts that failed and content that the policy stopped fail the test. */
  async close() {
    await this.context.close();
    rmSync(this.folder, { recursive: true, force: true });
    assert.deepEqual(this.problems, []);
  }
}

/** No violation of WCAG 2.2 AA that axe can find. */
export async function accessible(page, what) {
  const found = await page.evaluate(async (axe) => {
    if (!window.axe) (0, eval)(axe);
    const { violations } = await window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(' | ')}`);
  }, AXE);
  assert.deepEqual(found, [], `axe, ${what}`);
}

export async function screenshot(page, name) {
  const folder = (README.includes(name) && process.env.PICTURES) || LOOKED_AT;
  mkdirSync(folder, { recursive: true });
  await page.evaluate(async () => {
    const seen = (image) => { const at = image.getBoundingClientRect(); return at.bottom > 0 && at.top < innerHeight && at.width > 0; };
    // Pictures that come late, and what moves into its place; not what moves for ever.
    await Promise.all([...document.images].filter(seen).map((image) => image.decode().catch(() => {})));
    const moves = document.getAnimations().filter((move) => move.effect.getComputedTiming().endTime !== Infinity);
    await Promise.all(moves.map((move) => move.finished.catch(() => {})));
    await new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(done)); });
  });
  await page.screenshot({ path: path.join(folder, `page-${name}.png`) });
}

/** The pixels of a picture, or of the page's canvas when no address is given: RGBA, row by row. */
export async function pixels(page, url = null) {
  const numbers = await page.evaluate(async (url) => {
    let source = document.querySelector('canvas');
    if (url) {
      const blob = await (await fetch(url)).blob();
      // As stored: no colour management, and colour under alpha left alone as far as a canvas can.
      source = await createImageBitmap(blob, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
    }
    const canvas = new OffscreenCanvas(source.width, source.height);
    const context = canvas.getContext('2d');
    context.drawImage(source, 0, 0);
    return [...context.getImageData(0, 0, source.width, source.height).data];
  }, url);
  return Uint8ClampedArray.from(numbers);
}

/** Waits until the canvas has drawn what was last asked of it, and gives its pixels. */
export async function canvas(page) {
  await page.waitForSelector('canvas[aria-busy=false]', { state: 'attached' });
  return pixels(page);
}

export const same = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)) === 0;
