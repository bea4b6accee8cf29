// The start of everything: a picture by drop, paste or click, and how it is to be taken apart.

import { api } from './api.js';
import { bytes, h, icon, say } from './dom.js';
import { failed, toast } from './toast.js';

const KINDS = 'image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff';

/** Gives the element and a function that takes files from elsewhere on the page; calls `onJob(job)` when one is accepted. */
export function newJob({ config, models, onJob }) {
  const { defaults: { decompose: defaults }, bounds, limits } = config;
  let file = null;
  let shownUrl = null;

  const input = h('input.sr-only', { type: 'file', id: 'file', accept: KINDS, onchange: () => take(input.files) });
  const preview = h('img.preview', { alt: '', hidden: true });
  const caption = h('span.caption', {},
    h('strong', {}, 'Drop a picture here'),
    h('span', {}, 'or click to choose one, or paste it'));
  const zone = h('label.drop', { htmlFor: 'file' }, preview, caption);
  const sample = h('button.quiet', { type: 'button', onclick: takeSample }, 'Try it with a drawn scene');
  const submit = h('button.primary', { type: 'submit', disabled: true }, 'Take it apart');
  const problem = h('p.problem', { role: 'alert', hidden: true });

  const number = (name, label, hint, [low, high], value, step = 1) => field(name, label, hint,
    h('input', { type: 'number', id: name, name, min: low, max: high, step, value: value ?? '', required: value !== null, inputMode: 'decimal' }));
  const form = h('form.new', { onsubmit: send, 'aria-label': 'New picture' },
    h('h1', {}, 'Take a picture apart'),
    h('p.lead', {}, 'It comes back as transparent layers, back to front, that you can look at, edit one by one, and put together again.'),
    input, zone, h('div.row.between', {}, sample, h('p.soft', {}, `PNG, JPEG, WebP, GIF, BMP or TIFF, up to ${bytes(limits.max_upload_bytes)}`)),
    models?.decompose?.small ? smallNotice(models) : null,
    h('div.fields', {},
      number('layers', 'Layers', 'Background included.', bounds.layers, defaults.layers),
      number('steps', 'Steps', 'More is finer, and slower.', bounds.steps, defaults.steps),
      number('seed', 'Seed', 'Same seed, same layers. Empty: any.', [0, Number.MAX_SAFE_INTEGER], null)),
    field('prompt', 'What is in the picture', 'Left empty, the model describes it for itself.',
      h('textarea', { id: 'prompt', name: 'prompt', rows: 2, value: defaults.prompt })),
    h('details.more', {},
      h('summary', {}, 'More settings'),
      h('div.fields', {},
        number('cfg_scale', 'Guidance', 'How closely to follow the description. 1 is off, and twice as fast.', bounds.cfg_scale, defaults.cfg_scale, 'any'),
        resolution(defaults, models),
        field('cfg_normalize', 'Normalise guidance', 'Keeps colours from glaring.',
          h('select', { id: 'cfg_normalize', name: 'cfg_normalize' },
            h('option', { value: 'true', selected: defaults.cfg_normalize }, 'on'),
            h('option', { value: 'false', selected: !defaults.cfg_normalize }, 'off')))),
      field('negative_prompt', 'What should not be there', 'A single blank is a neutral one.',
        h('textarea', { id: 'negative_prompt', name: 'negative_prompt', rows: 1, value: defaults.negative_prompt }))),
    problem,
    h('div.row.actions', {}, submit));

  for (const kind of ['dragover', 'dragleave', 'drop']) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.toggle('over', kind === 'dragover');
      if (kind === 'drop') {
        event.stopPropagation();
        take(event.dataTransfer.files);
      }
    });
  }

  function refuse(text) {
    problem.textContent = text;
    problem.hidden = false;
  }

  /** Takes the first file, if it can be one. What it really is, the server finds out. */
  function take(files) {
    const [given, ...others] = files;
    if (!given) return;
    problem.hidden = true;
    if (given.type && !given.type.startsWith('image/')) {
      refuse(`${given.name} is no picture (${given.type}). PNG, JPEG, WebP, GIF, BMP and TIFF are.`);
      return;
    }
    if (given.size > limits.max_upload_bytes) {
      refuse(`${given.name} has ${bytes(given.size)}; this server takes up to ${bytes(limits.max_upload_bytes)}.`);
      return;
    }
    if (others.length) toast(`${files.length} files were given; the first one is taken. For many, use acetate submit.`);
    file = given;
    if (shownUrl) URL.revokeObjectURL(shownUrl);
    shownUrl = URL.createObjectURL(given);
    preview.src = shownUrl;
    preview.hidden = false;
    caption.replaceChildren(h('strong', {}, given.name || 'pasted picture'), h('span', {}, `${bytes(given.size)}. Click or drop to take another.`));
    zone.classList.add('filled');
    submit.disabled = false;
    say(`${given.name || 'A pasted picture'} is chosen`);
  }

  async function takeSample() {
    const response = await fetch('sample.png');
    take([new File([await response.blob()], 'scene.png', { type: 'image/png' })]);
  }

  async function send(event) {
    event.preventDefault();
    problem.hidden = true;
    const body = new FormData();
    body.set('kind', 'decompose');
    for (const [name, value] of new FormData(form)) {
      // What is left empty is left to the server; a negative prompt may be a blank.
      if (value !== '' && !(value instanceof File)) body.set(name, value);
    }
    body.append('label', `name=${(file.name || 'pasted picture').slice(0, 200)}`);
    body.set('image', file);
    submit.disabled = true;
    submit.textContent = 'Sending…';
    try {
      onJob(await api.submit(body));
    } catch (error) {
      const at = error.field?.split('.').pop();
      const wrong = at && form.elements[at];
      refuse(error.message);
      if (wrong) wrong.focus();
      if (!error.status) failed(error);
    } finally {
      submit.disabled = false;
      submit.textContent = 'Take it apart';
    }
  }

  return { element: form, take };
}

export function field(name, label, hint, control) {
  control.setAttribute('aria-describedby', `${name}-hint`);
  return h('div.field', {}, h('label', { htmlFor: control.id }, label), control, h('p.hint', { id: `${name}-hint` }, hint));
}

function resolution(defaults, models) {
  // The full models take two; the small one has one of its own.
  const sizes = models?.decompose?.small ? [] : [640, 1024];
  const given = defaults.resolution;
  if (given && !sizes.includes(given)) sizes.push(given);
  const options = sizes.map((size) => h('option', { value: size, selected: size === given }, `${size}`));
  return field('resolution', 'Resolution', 'The size the model works at.',
    h('select', { id: 'resolution', name: 'resolution' }, h('option', { value: '', selected: !given }, "the model's own"), options));
}

export function smallNotice(models) {
  return h('div.notice', { role: 'note' }, icon('warn'),
    h('p', {}, h('strong', {}, 'A small checkpoint is loaded. '),
      `${shortName(models.decompose.id)} knows drawn scenes of simple shapes. Photographs, text and people need `,
      h('code', {}, 'Qwen/Qwen-Image-Layered'), ', set as ', h('code', {}, 'qwen_image.model_path'), '.'));
}

/** The last part of a model's path or id. */
export const shortName = (id) => id.split('/').filter(Boolean).pop();
