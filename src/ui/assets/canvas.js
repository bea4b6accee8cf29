// Draws the composite of the visible layers, again whenever the stack changes.

import { h } from './dom.js';
import { versionUrl } from './sheets.js';

/** Loaded pictures by URL; a layer's pictures never change, so each is loaded once. */
const loaded = new Map();

export function picture(url) {
  if (!loaded.has(url)) {
    const image = new Image();
    image.src = url;
    const ready = image.decode().then(() => image);
    loaded.set(url, ready);
    // A picture that failed to load may be loaded again later.
    ready.catch(() => loaded.delete(url));
  }
  return loaded.get(url);
}

export class Canvas {
  constructor(sheets, onError) {
    this.sheets = sheets;
    this.onError = onError;
    /** The key of the layer that is shown on its own. */
    this.solo = null;
    const [{ width, height } = { width: 1, height: 1 }] = sheets.layers;
    this.canvas = h('canvas', { width, height, role: 'img' });
    // Small pictures are enlarged, but never beyond the available space.
    this.element = h('div.sheet-view', {}, this.canvas);
    this.element.style.setProperty('--ratio', `${width / height}`);
    this.element.style.setProperty('--width', `${Math.max(width, 640)}px`);
    sheets.addEventListener('change', () => this.draw());
    this.draw();
  }

  async draw() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.canvas.ariaBusy = 'true';
    const alone = this.solo && this.sheets.layer(this.solo);
    const shown = alone ? [{ ...alone, opacity: 1 }] : this.sheets.layers.filter((layer) => layer.visible);
    let pictures;
    try {
      pictures = await Promise.all(shown.map((layer) => picture(versionUrl(layer.current))));
    } catch {
      this.onError('A layer could not be loaded.');
      if (turn === this.turn) this.canvas.ariaBusy = 'false';
      return;
    }
    // A newer draw has started in the meantime.
    if (turn !== this.turn) return;
    const { canvas } = this;
    const context = canvas.getContext('2d');
    context.clearRect(0, 0, canvas.width, canvas.height);
    shown.forEach((layer, index) => {
      context.globalAlpha = layer.opacity;
      const { placement } = layer.current;
      if (placement) context.drawImage(pictures[index], placement.x, placement.y);
      else context.drawImage(pictures[index], 0, 0, canvas.width, canvas.height);
    });
    const names = shown.map((layer) => layer.name).reverse().join(', ');
    canvas.setAttribute('aria-label', shown.length ? `Composite of ${shown.length} layers: ${names}` : 'Empty: every layer is hidden');
    canvas.ariaBusy = 'false';
  }

  /** The composite of the arranged layers as a PNG, even while one layer is shown on its own. */
  async png() {
    const solo = this.solo;
    this.solo = null;
    await this.draw();
    const blob = await new Promise((done) => this.canvas.toBlob(done, 'image/png'));
    this.solo = solo;
    if (solo) await this.draw();
    return blob;
  }
}
