// The edit dialog of one layer: an instruction, the picture before and after, and all versions.

import { bytes, h, icon, say } from './dom.js';
import { KINDS, field, presetField, shortName } from './new.js';
import { progressView } from './running.js';
import { versionThumbnail, versionUrl } from './sheets.js';
import { failed } from './toast.js';

/** What a layer's edit can give, which keeps its outline: nothing here adds or removes parts. */
const EXAMPLES = [
  ['Change the color to blue', 'Recolors the subject'],
  ['Make it more vibrant', 'Increases saturation'],
  ['Make the light warmer', 'Shifts the colors towards orange'],
  ['Make it look vintage', 'Applies vintage color grading'],
  ['Simplify the details', 'Reduces visual complexity'],
  ['Make it photorealistic', 'Enhances realism'],
];

/** What the small checkpoint can give. */
const SMALL_EXAMPLES = [
  ['Make it green', 'Recolors the shape'],
  ['Make it red', 'Recolors the shape'],
  ['Change the color to blue', 'Recolors the shape'],
];

/** Opens the dialog for the layer with this key. The user may close it while an edit runs, and open it again. */
export function editLayer(sheets, key, { config, models }) {
  const { defaults: { edit: defaults }, bounds, limits, presets } = config;
  const layer = () => sheets.layer(key);
  let progress = null;

  const instruction = h('textarea', { id: 'instruction', name: 'instruction', rows: 2, required: true, maxLength: 2000, placeholder: 'Change the color to blue' });
  const number = (name, label, hint, [low, high], value, step = 1) => field(`edit-${name}`, label, hint,
    h('input', { type: 'number', id: `edit-${name}`, name, min: low, max: high, step, value: value ?? '', required: value !== null, inputMode: 'decimal' }));
  const mask = h('input', { type: 'file', id: 'edit-mask', name: 'mask', accept: KINDS, onchange: masked });
  const unmask = h('button.quiet', { type: 'button', hidden: true, onclick: () => { mask.value = ''; masked(); mask.focus(); } }, 'Remove the mask');
  const apply = h('button.primary', { type: 'submit' }, 'Apply edit');
  const problem = h('p.problem', { role: 'alert', hidden: true });
  const place = h('div');
  const versions = h('ol.versions', { 'aria-label': 'Versions of this layer, oldest first' });
  const compare = new Compare();
  const form = h('form', { onsubmit: send },
    field('instruction', 'What to change', 'One change at a time works best. The outline stays the same unless you allow a new one.', instruction),
    h('div.examples', { role: 'group', 'aria-label': 'Examples' }, (models?.edit?.small ? SMALL_EXAMPLES : EXAMPLES).map(([text, effect]) =>
      h('button', { type: 'button', title: effect, onclick: () => { instruction.value = text; instruction.focus(); } }, text))),
    h('div.fields', {},
      presetField('edit-preset', presets, defaults, () => form.elements.steps),
      number('steps', 'Steps', 'More steps: finer, slower.', bounds.steps, defaults.steps),
      number('cfg_scale', 'Guidance', 'How closely to follow the instruction. 1 turns it off.', bounds.cfg_scale, defaults.cfg_scale, 'any'),
      number('seed', 'Seed', 'Leave empty for a random seed.', [0, Number.MAX_SAFE_INTEGER], null),
      number('count', 'Variants', 'Several versions with other seeds, to choose from.', [1, 64], null)),
    field('edit-mask', 'Mask', 'A picture: what is white in it may change, what is black or transparent stays exactly. Leave empty for everywhere.', mask),
    unmask,
    h('label.row.soft', {}, h('input', { type: 'checkbox', name: 'keep_rest' }), 'Find what changed, and keep everything else exactly'),
    h('label.row.soft', {}, h('input', { type: 'checkbox', name: 'alpha' }), 'The outline may change, as for “Add a shadow” (takes twice the time)'),
    models?.edit?.small && h('p.soft', {}, `${shortName(models.edit.id)} is a small checkpoint. It can recolor simple shapes, as in “Make it green”.`),
    problem, h('div.row.actions', {}, apply), place);
  const title = h('h2', { id: 'edit-title' });
  const dialog = h('dialog.edit-dialog', { 'aria-labelledby': 'edit-title', onclose: gone },
    h('div.dialog-head', {}, title, h('button.icon', { 'aria-label': 'Close', onclick: () => dialog.close() }, icon('close'))),
    h('div.dialog-body', {},
      h('div.look', {}, compare.element, h('h3', {}, 'Versions'), versions),
      form));

  sheets.addEventListener('change', show);
  sheets.addEventListener('edit', heard);
  document.body.append(dialog);
  show();
  dialog.showModal();
  instruction.focus();

  function gone() {
    sheets.removeEventListener('change', show);
    sheets.removeEventListener('edit', heard);
    progress?.close();
    dialog.remove();
    document.querySelector(`[data-key="${CSS.escape(key)}"] .edit`)?.focus();
  }

  function show() {
    const { name, versions: all, current } = layer();
    title.textContent = `Edit ${name}`;
    const before = all[Math.max(0, all.indexOf(current) - 1)];
    // Thumbnails show trimmed layers on their canvas, so that both pictures have one place.
    const url = before.placement || current.placement ? (version) => versionThumbnail(version, 1280) : versionUrl;
    compare.show(url(before), url(current));
    versions.replaceChildren(...all.map((version, index) => {
      const text = index === 0 ? 'Original' : version.instruction || 'Edited';
      return h('li', {}, h('button', { 'aria-pressed': String(version === current), 'aria-label': `Version ${index + 1}: ${text}`, onclick: () => choose(version, index) },
        h('img', { src: versionThumbnail(version, 256), alt: '', width: 72, height: 72 }), h('span', {}, text)));
    }));
    follow(sheets.pending.get(key));
  }

  function choose(version, index) {
    const had = versions.contains(document.activeElement);
    sheets.change(key, { current: version });
    if (had) versions.children[index].querySelector('button').focus();
    say(`Version ${index + 1} is now in the picture`);
  }

  /** Shows the running edit, no matter which window started it. */
  function follow(pending) {
    apply.disabled = Boolean(pending);
    if (pending?.job.id !== progress?.id) {
      progress?.close();
      progress = pending ? { id: pending.job.id, ...progressView(pending.job, { compact: true }) } : null;
      place.replaceChildren(...(progress ? [progress.element] : []));
    }
    progress?.show(pending.job, pending.past);
  }

  function heard({ detail: { job, key: of } }) {
    if (of === key && job.state === 'failed') refuse(job.error?.message ?? 'The edit failed.');
  }

  function refuse(text) {
    problem.textContent = text;
    problem.hidden = false;
    problem.scrollIntoView({ block: 'nearest' });
  }

  function masked() {
    const [file] = mask.files;
    unmask.hidden = !file;
    problem.hidden = true;
    if (file && file.size > limits.max_upload_bytes) {
      refuse(`${file.name} is ${bytes(file.size)}; this server accepts up to ${bytes(limits.max_upload_bytes)}.`);
    }
  }

  async function send(event) {
    event.preventDefault();
    problem.hidden = true;
    const params = { instruction: instruction.value.trim() };
    if (form.elements.preset.value) params.preset = form.elements.preset.value;
    for (const name of ['steps', 'cfg_scale', 'seed', 'count']) {
      const { value } = form.elements[name];
      if (value !== '') params[name] = Number(value);
    }
    if (form.elements.keep_rest.checked) params.keep_rest = 'auto';
    if (form.elements.alpha.checked) params.alpha = 'grow';
    apply.disabled = true;
    try {
      await sheets.edit(key, layer().current, params, mask.files[0]);
    } catch (error) {
      apply.disabled = false;
      refuse(error.message);
      if (!error.status) failed(error);
    }
  }
}

/** Two pictures on top of each other, with a movable line between them. */
class Compare {
  constructor() {
    this.before = h('img', { alt: 'Before' });
    this.after = h('img', { alt: 'After' });
    const range = h('input', { type: 'range', min: 0, max: 100, value: 50, 'aria-label': 'Before on the left, after on the right', oninput: () => split() });
    this.element = h('div.compare', {}, h('div.checker', {}, this.before, this.after, h('span.line')), range, h('div.row.between.soft', {}, h('span', {}, 'Before'), h('span', {}, 'After')));
    const split = () => this.element.style.setProperty('--split', `${range.value}%`);
    split();
  }

  show(before, after) {
    this.element.classList.toggle('same', before === after);
    for (const [image, url] of [[this.before, before], [this.after, after]]) if (image.getAttribute('src') !== url) image.src = url;
  }
}
