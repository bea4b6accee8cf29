// The start form: a picture by drop, paste or click, and the parameters for splitting it.

import { api } from './api.js';
import { bytes, h, icon, say } from './dom.js';
import { failed, toast } from './toast.js';

export const KINDS = 'image/png,image/jpeg,image/webp,image/gif,image/bmp,image/tiff,image/jxl,.jxl,image/avif,.avif,image/heic,.heic,image/heif,.heif,.hif';

/** Returns the element and a function that takes files from elsewhere on the page; calls `onJob(job)` for an accepted job. */
export function newJob({ config, models, onJob }) {
  const { defaults: { decompose: defaults }, bounds, limits, presets } = config;
  // What the model was made for, if the server knows its model.
  const layers = models?.decompose?.layers ?? bounds.layers;
  let file = null;
  let shownUrl = null;

  const input = h('input.sr-only', { type: 'file', id: 'file', accept: KINDS, onchange: () => take(input.files) });
  const preview = h('img.preview', { alt: '', hidden: true });
  const caption = h('span.caption', {},
    h('strong', {}, 'Drop a picture here'),
    h('span', {}, 'or click to choose one, or paste one'));
  const zone = h('label.drop', { htmlFor: 'file' }, preview, caption);
  const sample = h('button.quiet', { type: 'button', onclick: takeSample }, 'Try a sample scene');
  const submit = h('button.primary', { type: 'submit', disabled: true }, 'Split into layers');
  const problem = h('p.problem', { role: 'alert', hidden: true });

  const number = (name, label, hint, [low, high], value, step = 1) => field(name, label, hint,
    h('input', { type: 'number', id: name, name, min: low, max: high, step, value: value ?? '', required: value !== null, inputMode: 'decimal' }));
  const form = h('form.new', { onsubmit: send, 'aria-label': 'New picture' },
    h('h1', {}, 'Split a picture into layers'),
    h('p.lead', {}, 'You get transparent layers, back to front, which you can edit one by one and put back together.'),
    input, zone, h('div.row.between', {}, sample, h('p.soft', {}, `PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF or HEIC, up to ${bytes(limits.max_upload_bytes)}`)),
    modelNotice(models),
    h('div.fields', {},
      layersField(layers, defaults.layers),
      presetField('preset', presets, defaults, () => form.elements.steps),
      number('steps', 'Steps', 'More steps: finer, slower.', bounds.steps, defaults.steps),
      number('seed', 'Seed', 'Same seed, same layers. Leave empty for a random seed.', [0, Number.MAX_SAFE_INTEGER], null),
      number('count', 'Variants', 'Several results with other seeds, to choose from.', [1, 64], null)),
    field('prompt', 'What is in the picture', 'Leave empty and the model writes it.',
      h('textarea', { id: 'prompt', name: 'prompt', rows: 2, value: defaults.prompt })),
    h('details.more', {},
      h('summary', {}, 'More settings'),
      h('div.fields', {},
        number('cfg_scale', 'Guidance', 'How closely to follow the description. 1 turns it off and is twice as fast.', bounds.cfg_scale, defaults.cfg_scale, 'any'),
        resolution(defaults, models),
        field('output_size', 'Size of the layers', 'The picture’s size: the layers compose to it exactly.',
          h('select', { id: 'output_size', name: 'output_size' },
            h('option', { value: '' }, 'the picture’s, if it is larger'),
            h('option', { value: 'source' }, 'the picture’s'),
            h('option', { value: 'model' }, 'the model’s'))),
        field('trim', 'Files of the layers', 'Trimmed files are smaller; their place is in the manifest.',
          h('select', { id: 'trim', name: 'trim' },
            h('option', { value: '' }, 'the whole canvas'),
            h('option', { value: 'true' }, 'trimmed'))),
        field('reuse', 'Equal jobs', 'Equal: the same picture, settings and seed, with the same model. Needs a seed.',
          h('select', { id: 'reuse', name: 'reuse' },
            h('option', { value: '' }, 'compute again'),
            h('option', { value: 'true' }, 'take their result'))),
        field('cfg_normalize', 'Normalize guidance', 'Prevents oversaturated colors.',
          h('select', { id: 'cfg_normalize', name: 'cfg_normalize' },
            h('option', { value: 'true', selected: defaults.cfg_normalize }, 'on'),
            h('option', { value: 'false', selected: !defaults.cfg_normalize }, 'off')))),
      field('negative_prompt', 'What should not be in the picture', 'A single space is neutral.',
        h('textarea', { id: 'negative_prompt', name: 'negative_prompt', rows: 1, value: defaults.negative_prompt }))),
    // In the bar that is always visible, so that a refusal is seen wherever the form is scrolled to.
    h('div.row.actions', {}, problem, submit));

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

  /** Takes the first file if it can be a picture; the server checks its content. */
  function take(files) {
    const [given, ...others] = files;
    if (!given) return;
    problem.hidden = true;
    if (given.type && !given.type.startsWith('image/')) {
      refuse(`${given.name} is not a picture. Use PNG, JPEG, WebP, GIF, BMP, TIFF, JPEG XL, AVIF or HEIC.`);
      return;
    }
    if (given.size > limits.max_upload_bytes) {
      refuse(`${given.name} is ${bytes(given.size)}; this server accepts up to ${bytes(limits.max_upload_bytes)}.`);
      return;
    }
    if (others.length) toast(`Only ${given.name} was added (1 of ${files.length}). To split many pictures, use \`acetate submit\`.`);
    file = given;
    if (shownUrl) URL.revokeObjectURL(shownUrl);
    shownUrl = URL.createObjectURL(given);
    preview.src = shownUrl;
    preview.hidden = false;
    caption.replaceChildren(h('strong', {}, given.name || 'pasted picture'), h('span', {}, `${bytes(given.size)}. Click or drop to replace it.`));
    zone.classList.add('filled');
    submit.disabled = false;
    say(`${given.name || 'A pasted picture'} was added`);
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
      // Empty fields are left out, so the server uses its defaults; a negative prompt may be a space.
      if (value !== '' && !(value instanceof File)) body.set(name, value);
      // As many as the picture has.
      else if (name === 'layers') body.set(name, 'auto');
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
      submit.textContent = 'Split into layers';
    }
  }

  return { element: form, take };
}

export function field(name, label, hint, control) {
  control.setAttribute('aria-describedby', `${name}-hint`);
  return h('div.field', {}, h('label', { htmlFor: control.id }, label), control, h('p.hint', { id: `${name}-hint` }, hint));
}

const PRESETS = {
  exact: 'Exact: as the model’s authors run it',
  balanced: 'Balanced: as good in less than half the time',
  fast: 'Fast: nearly as good in a quarter of the time',
  lightning: 'Lightning: a LoRA for very few steps',
};

/** Chooses a preset; `steps()` is the field that shows its number of steps. Presets that the page does not know show by name. */
export function presetField(id, presets, defaults, steps) {
  const names = presets.map(({ name }) => h('option', { value: name, selected: name === defaults.preset }, PRESETS[name] ?? name));
  const select = h('select', { id, name: 'preset', onchange: () => {
    const preset = presets.find(({ name }) => name === select.value);
    steps().value = preset?.steps ?? defaults.steps;
    const { cfg_scale: guidance } = steps().form.elements;
    // Only `lightning` changes guidance; the others need it.
    const usual = defaults.preset === 'lightning' && preset ? 4 : defaults.cfg_scale;
    guidance.value = preset?.cfg_scale ?? usual;
  } }, h('option', { value: '', selected: !defaults.preset }, 'The server’s default'), names);
  return field(id, 'Quality', 'How carefully to compute. Sets the number of steps.', select);
}

function resolution(defaults, models) {
  // The full models support two resolutions, the small one only its own.
  const sizes = [...(models?.decompose?.resolutions ?? (models?.decompose?.small ? [] : [640, 1024]))];
  const given = defaults.resolution;
  if (given && !sizes.includes(given)) sizes.push(given);
  const options = sizes.map((size) => h('option', { value: size, selected: size === given }, `${size}`));
  return field('resolution', 'Resolution', 'The size the model works at.',
    h('select', { id: 'resolution', name: 'resolution' }, h('option', { value: '', selected: !given }, 'default'), options));
}

function layersField([least, most], value) {
  const low = Math.max(least, 1);
  const shown = value === 'auto' ? '' : Math.min(Math.max(value, low), most);
  return field('layers', 'Layers', `Including the background, ${low} to ${most} with this model. Leave empty for as many as the picture has.`,
    h('input', { type: 'number', id: 'layers', name: 'layers', min: low, max: most, step: 1, value: shown, inputMode: 'numeric' }));
}

/** What users must know of the model before they use it, or null. */
export function modelNotice(models) {
  if (models?.decompose?.available === false) return missingNotice(models);
  return models?.decompose?.small ? smallNotice(models) : null;
}

function missingNotice(models) {
  const { id, small } = models.decompose;
  const what = small
    ? `${shortName(id)}, which comes with acetate, is not where it should be. Pictures cannot be split. `
    : `${id} is not on the server. The first picture downloads it, or fails. `;
  return h('div.notice', { role: 'note' }, icon('warn'),
    h('p', {}, h('strong', {}, 'The model is missing. '), what, h('code', {}, 'acetate doctor'), ' says where it is looked for.'));
}

function smallNotice(models) {
  return h('div.notice', { role: 'note' }, icon('warn'),
    h('p', {}, h('strong', {}, 'This is a small checkpoint. '),
      `${shortName(models.decompose.id)} only knows drawings of simple shapes. Photographs, text and people need `,
      h('code', {}, 'Qwen/Qwen-Image-Layered'), ', set as ', h('code', {}, 'qwen_image.model_path'), '.'));
}

/** The last part of a model's path or id. */
export const shortName = (id) => id.split('/').filter(Boolean).pop();
