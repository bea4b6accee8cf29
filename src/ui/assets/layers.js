// The list of layers next to the canvas, topmost first: visibility, opacity, name and position of each.

import { h, icon, say } from './dom.js';
import { inWords } from './running.js';
import { versionThumbnail } from './sheets.js';

export class LayerList {
  /** `onEdit(layer)` opens the edit of a layer, `onSplit(layer)` splits it into layers of its own. */
  constructor(sheets, canvas, { onEdit, onSplit }) {
    this.sheets = sheets;
    this.canvas = canvas;
    this.onEdit = onEdit;
    this.onSplit = onSplit;
    this.rows = new Map(sheets.layers.map((layer) => [layer.key, this.row(layer)]));
    this.element = h('ol.layers', { 'aria-label': 'Layers, topmost first' });
    sheets.addEventListener('change', () => this.show());
    this.show();
  }

  show() {
    const wanted = this.sheets.topFirst.map((layer) => this.rows.get(layer.key).element);
    // Moving an element removes its focus, so only elements in the wrong place are moved.
    wanted.forEach((element, place) => {
      if (this.element.children[place] !== element) {
        const focused = element.contains(document.activeElement) && document.activeElement;
        this.element.insertBefore(element, this.element.children[place] ?? null);
        if (focused) focused.focus();
      }
    });
    for (const layer of this.sheets.layers) this.rows.get(layer.key).update(layer);
  }

  row({ key }) {
    const { sheets } = this;
    const thumbnail = h('img', { alt: '', width: 56, height: 56, decoding: 'async' });
    const solo = h('button.thumb', { 'aria-pressed': 'false', onclick: () => this.alone(key) }, thumbnail);
    const name = h('input.name', { type: 'text', maxLength: 120, spellcheck: false, onchange: () => rename(), onkeydown: (event) => event.key === 'Enter' && name.blur() });
    const eye = h('button.icon', { onclick: () => sheets.change(key, { visible: !sheets.layer(key).visible }) });
    const opacity = h('input', { type: 'range', min: 0, max: 100, step: 1, oninput: () => sheets.change(key, { opacity: opacity.value / 100 }) });
    const percent = h('output', {});
    const edit = h('button.edit', { onclick: () => this.onEdit(sheets.layer(key)) }, icon('pencil'), 'Edit');
    const split = h('button.split', { title: 'Split this layer into layers', onclick: () => this.onSplit(sheets.layer(key)) }, 'Split');
    const grip = h('button.icon.grip', { onkeydown: (event) => this.nudge(event, key), onpointerdown: (event) => this.drag(event, key) }, icon('grip'));
    const status = h('p.status', { role: 'status', hidden: true });
    const element = h('li.layer', { data: { key } }, grip, solo, name, h('div.tools', {}, eye, split, edit), h('div.opacity', {}, opacity, percent), status);

    const rename = () => {
      const given = name.value.trim();
      if (given) sheets.change(key, { name: given });
      else name.value = sheets.layer(key).name;
    };
    let eyeShown = null;
    const update = (layer) => {
      const source = versionThumbnail(layer.current, 256);
      if (thumbnail.getAttribute('src') !== source) thumbnail.src = source;
      if (document.activeElement !== name) name.value = layer.name;
      name.setAttribute('aria-label', `Name of ${layer.name}`);
      solo.setAttribute('aria-label', `Show only ${layer.name}`);
      solo.setAttribute('aria-pressed', String(this.canvas.solo === key));
      if (eyeShown !== layer.visible) eye.replaceChildren(icon(layer.visible ? 'eye' : 'hidden'));
      eyeShown = layer.visible;
      eye.setAttribute('aria-label', `Show ${layer.name}`);
      eye.setAttribute('aria-pressed', String(layer.visible));
      eye.title = layer.visible ? 'Hide' : 'Show';
      opacity.value = Math.round(layer.opacity * 100);
      opacity.setAttribute('aria-label', `Opacity of ${layer.name}`);
      percent.textContent = `${Math.round(layer.opacity * 100)} %`;
      edit.setAttribute('aria-label', `Edit ${layer.name}`);
      split.setAttribute('aria-label', `Split ${layer.name}`);
      grip.setAttribute('aria-label', `Move ${layer.name}: drag, or use the arrow keys`);
      element.classList.toggle('off', !layer.visible);
      const pending = sheets.pending.get(key);
      const edits = layer.versions.indexOf(layer.current);
      status.hidden = !pending && edits === 0;
      status.textContent = pending ? inWords(pending.job) : layer.current.instruction ?? '';
      status.title = status.textContent;
      status.classList.toggle('busy', Boolean(pending));
    };
    return { element, update };
  }

  alone(key) {
    this.canvas.solo = this.canvas.solo === key ? null : key;
    const { name } = this.sheets.layer(key);
    say(this.canvas.solo ? `Only ${name} is shown` : 'All layers are shown again');
    this.canvas.draw();
    this.show();
  }

  nudge(event, key) {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const order = this.sheets.topFirst;
    const place = order.findIndex((layer) => layer.key === key) + by;
    if (place < 0 || place >= order.length) return;
    this.sheets.move(key, place);
    this.rows.get(key).element.querySelector('.grip').focus();
    say(`${this.sheets.layer(key).name} is now number ${place + 1} of ${order.length} from the top`);
  }

  /** Follows the pointer; the other rows make room when it passes their middle. */
  drag(event, key) {
    if (event.button !== 0) return;
    event.preventDefault();
    const { element } = this.rows.get(key);
    event.currentTarget.focus();
    element.classList.add('dragged');
    let from = event.clientY;
    const follow = (move) => {
      if (move.pointerId !== event.pointerId) return;
      const place = this.sheets.topFirst.findIndex((layer) => layer.key === key);
      const { previousElementSibling: above, nextElementSibling: below } = element;
      const before = element.offsetTop;
      if (above && move.clientY < middle(above)) this.sheets.move(key, place - 1);
      else if (below && move.clientY > middle(below)) this.sheets.move(key, place + 1);
      from += element.offsetTop - before;
      element.style.transform = `translateY(${move.clientY - from}px)`;
    };
    const over = new AbortController();
    const drop = () => {
      over.abort();
      element.classList.remove('dragged');
      element.style.transform = '';
    };
    // Listens on the window, because a row that is moved in the list loses its pointer capture.
    window.addEventListener('pointermove', follow, { signal: over.signal });
    window.addEventListener('pointerup', drop, { signal: over.signal });
    window.addEventListener('pointercancel', drop, { signal: over.signal });
  }
}

function middle(element) {
  const { top, height } = element.getBoundingClientRect();
  return top + height / 2;
}
