// One job on the page: its progress, its failure, or its layers on the canvas with their controls.

import { api, ended, fileUrl, thumbnailUrl } from './api.js';
import { Canvas } from './canvas.js';
import { download, h, icon, say } from './dom.js';
import { kindOf, titleOf } from './history.js';
import { LayerList } from './layers.js';
import { running } from './running.js';
import { Sheets, variantsOf } from './sheets.js';
import { failed, toast } from './toast.js';

/** Returns the element and a function that releases everything. `onChange(job)` is called for every change of a job. */
export function documentView(job, context) {
  const element = h('div.document');
  let close = () => {};
  const show = (job) => {
    close();
    const part = !ended(job) ? onItsWay(job) : job.state === 'succeeded' ? stack(job, context) : withoutResult(job);
    element.replaceChildren(part.element);
    ({ close } = part);
  };

  function onItsWay(job) {
    const { element: progress, close } = running(job, {
      onChange: context.onChange,
      onEnd(job) {
        context.onChange(job);
        show(job);
      },
    });
    const [input] = job.links.inputs ?? [];
    const picture = input && h('img', { src: `${input}?size=640`, alt: 'The input picture' });
    return { element: h('div.waiting', {}, h('h1', {}, titleOf(job)), h('div.stage-picture', {}, picture, h('span.sweep')), progress), close };
  }

  function withoutResult(job) {
    const [input] = job.links.inputs ?? [];
    const again = h('button.primary', { onclick: () => act(again, async () => { const queued = await api.retry(job.id); context.onChange(queued); show(queued); }) }, 'Try again');
    const remove = h('button', { onclick: () => act(remove, () => context.remove(job)) }, 'Delete');
    const told = `${kindOf(job)} ${job.state === 'failed' ? 'failed' : 'cancelled'}`;
    return {
      element: h('div.waiting', {},
        h('h1', {}, titleOf(job)),
        input && h('div.stage-picture', {}, h('img', { src: `${input}?size=640`, alt: 'The input picture' })),
        h('div.ending', { role: 'status' }, h('h2', {}, told),
          job.error && job.state === 'failed' && h('p', {}, job.error.message, ' ', h('code', {}, job.error.code)),
          job.attempts > 1 && h('p.soft', {}, `It was attempted ${job.attempts} times.`)),
        h('div.row', {}, again, remove)),
      close() {},
    };
  }

  show(job);
  return { element, close: () => close() };
}

async function act(button, work) {
  button.disabled = true;
  try {
    await work();
  } catch (error) {
    failed(error);
  }
  button.disabled = false;
}

/** The layers of a job; of a job with variants, those of the chosen one. */
function stack(job, context) {
  const variants = variantsOf(job);
  if (!variants.length) return workbench(job, null, context);
  let shown = { close() {} };
  const place = h('div');
  const button = ({ variant, seed, picture }) => h('button', { onclick: () => choose(variant) },
    h('img', { src: thumbnailUrl(job.id, picture, 96), alt: '', width: 72, height: 72 }), h('span', {}, `Seed ${seed}`));
  const buttons = new Map(variants.map((one) => [one.variant, button(one)]));
  const choose = (variant) => {
    shown.close();
    shown = workbench(job, variant, context);
    place.replaceChildren(shown.element);
    for (const [other, one] of buttons) one.setAttribute('aria-pressed', String(other === variant));
    say(`Variant ${variant} is shown`);
  };
  choose(variants[0].variant);
  const list = h('ol.versions', { 'aria-label': 'Variants' }, ...[...buttons.values()].map((one) => h('li', {}, one)));
  const sheet = job.outputs.find(({ role }) => role === 'contact_sheet');
  const all = h('a.button.quiet', { href: fileUrl(job.id, sheet.name), download: 'variants.png' }, icon('down'), 'Contact sheet');
  return { element: h('div', {}, h('div.variants', {}, list, all), place), close: () => shown.close() };
}

function workbench(job, variant, context) {
  const sheets = new Sheets(job, variant);
  const canvas = new Canvas(sheets, (text) => toast(text, { kind: 'error' }));
  const list = new LayerList(sheets, canvas, { onEdit: (layer) => editLayer(sheets, layer.key, context), onSplit: (layer) => splitLayer(sheets, layer, context) });
  sheets.addEventListener('edit', ({ detail: { job: edit, key, mine } }) => {
    context.onChange(edit);
    const name = sheets.layer(key)?.name ?? 'The layer';
    if (edit.state === 'succeeded') {
      if (mine) say(`The edit of ${name} is now in the picture`);
      else toast(`${name} was edited in another window. Its edit dialog has the new version.`);
    }
    if (edit.state === 'failed') toast(`The edit of ${name} failed: ${edit.error?.message ?? 'unknown reason'}`, { kind: 'error' });
  });
  sheets.loadEdits().catch(failed);
  if (job.kind !== 'edit' && job.kind !== 'composite') sheets.loadNested().catch(failed);

  const remove = h('button.quiet', { onclick: () => act(remove, () => context.remove(job)) }, 'Delete');
  const element = h('div.workbench', {},
    h('section.stage', { 'aria-label': 'Picture' },
      h('div.title-row', {}, h('h1', {}, titleOf(job)), downloads(job, sheets, canvas), remove),
      h('div.table', {}, canvas.element),
      parentLink(job), facts(job, variant)),
    h('section.panel', { 'aria-label': 'Layers' },
      h('div.row.between', {}, h('h2', {}, 'Layers'), allShown(sheets)),
      list.element, nestedLinks(sheets)));
  return { element, close: () => sheets.close() };
}

/** The dialog's code is loaded when it is first needed. */
const editLayer = (...given) => import('./edit.js').then((edit) => edit.editLayer(...given)).catch(failed);

async function splitLayer(sheets, layer, context) {
  try {
    const job = await sheets.split(layer.key);
    context.onChange(job);
    location.hash = `#/jobs/${job.id}`;
  } catch (error) {
    failed(error);
  }
}

/** Of a job that takes a layer apart: the way back to its picture. */
function parentLink(job) {
  const [input] = job.kind === 'decompose' ? job.input : [];
  if (!input?.job) return null;
  const which = input.layer ? `layer ${input.layer}` : input.file;
  return h('p.soft', {}, 'These are the layers of ', h('a', { href: `#/jobs/${input.job}` }, `${which} of another picture`), '. Its downloads have them as a group.');
}

/** The layers that were split again, with the way to their own layers. */
function nestedLinks(sheets) {
  const list = h('ul.nested', { 'aria-label': 'Layers that were split again' });
  const show = () => list.replaceChildren(...sheets.topFirst.filter(({ nested }) => nested).map(({ name, nested }) => {
    const count = nested.outputs.filter((file) => file.role === 'layer').length;
    const found = nested.state === 'succeeded' ? `${count} layers` : nested.state;
    return h('li', {}, `${name}: `, h('a', { href: `#/jobs/${nested.id}` }, found));
  }));
  sheets.addEventListener('change', show);
  show();
  return list;
}

function allShown(sheets) {
  const button = h('button.quiet', { onclick: () => {
    const visible = sheets.layers.some((layer) => !layer.visible);
    for (const { key } of sheets.layers) sheets.change(key, { visible });
  } });
  const show = () => { button.textContent = sheets.layers.some((layer) => !layer.visible) ? 'Show all' : 'Hide all'; };
  sheets.addEventListener('change', show);
  show();
  return button;
}

function downloads(job, sheets, canvas) {
  const name = titleOf(job).replace(/\.[a-z]+$/i, '').replace(/[^\p{L}\p{N} _-]+/gu, '').trim().slice(0, 60) || 'acetate';
  const menu = h('details.menu');
  const item = (label, hint, make) => {
    const button = h('button', { onclick: () => act(button, async () => { await make(); menu.open = false; }) }, h('strong', {}, label), h('span', {}, hint));
    return button;
  };
  const whole = (format) => async () => download(await api.exportStack(format, sheets.exported), `${name}.${format}`);
  const layers = h('div.each', { role: 'group', 'aria-label': 'Single layers' });
  const show = () => layers.replaceChildren(...sheets.topFirst.map((layer) =>
    h('a', { href: fileUrl(layer.current.job, layer.current.file), download: `${layer.name}.png` }, layer.name)));
  sheets.addEventListener('change', show);
  show();
  menu.append(h('summary.button', {}, icon('down'), 'Download'),
    h('div.menu-items', {},
      item('Photoshop', 'layers, .psd', whole('psd')),
      item('OpenRaster', 'layers for Krita, .ora', whole('ora')),
      item('PowerPoint', 'layers on one slide, .pptx', whole('pptx')),
      item('ZIP', 'layers as PNG files', whole('zip')),
      item('Picture', 'the visible layers as one .png', async () => download(await canvas.png(), `${name}.png`)),
      item('WebP', 'the same, lossless, as .webp', whole('webp')),
      item('JPEG', 'the same, on white, as .jpg', whole('jpg')),
      layers));
  const leave = (event) => {
    if (event.type === 'keydown' ? event.key === 'Escape' : !menu.contains(event.relatedTarget)) menu.open = false;
  };
  menu.addEventListener('keydown', leave);
  menu.addEventListener('focusout', leave);
  return menu;
}

/** How the layers were made: caption, model, seed, device and so on. */
function facts(job, variant) {
  const list = h('dl.facts');
  const details = h('details.more', { ontoggle: load }, h('summary', {}, 'How it was made'), list);
  async function load() {
    if (!details.open || list.children.length) return;
    try {
      const manifest = await api.manifest(job);
      const own = manifest.variants?.find((one) => one.variant === variant) ?? manifest;
      const pairs = [
        ['Caption', manifest.caption?.text ?? manifest.request.params.prompt],
        ['Model', manifest.models.map((model) => model.id.split('/').slice(-2).join('/')).join(', ')],
        ['Fidelity', own.fidelity && fidelityInWords(own.fidelity)],
        ['Seed', String(own.seed)],
        ['Steps', manifest.request.params.steps ?? manifest.request.params.decompose?.steps],
        ['Quality', manifest.request.params.preset ?? manifest.request.params.decompose?.preset],
        ['Sampler', [...new Set(manifest.sampling?.map(({ sampler }) => sampler))].join(', ')],
        ['Guidance', manifest.request.params.cfg_scale],
        ['Reused', manifest.reused_from && `the result of job ${manifest.reused_from}`],
        ['Device', manifest.device],
        ['Time', `${manifest.timings.reduce((sum, { seconds }) => sum + seconds, 0).toFixed(1)} s`],
        ['Notes', manifest.notes.join(' ')],
        ['Job', job.id],
      ];
      list.replaceChildren(...pairs.filter(([, value]) => value !== undefined && value !== '').flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, String(value))]));
    } catch (error) {
      failed(error);
    }
  }
  return details;
}

/** What the layers differ from their picture by, and what each covers. */
function fidelityInWords({ psnr, max_error, model, output, model_psnr, model_max_error, layers, quality }) {
  const error = (psnr, largest) => (psnr === null ? 'exact' : `${psnr.toFixed(1)} dB, largest error ${largest}`);
  const size = ({ width, height }) => `${width}x${height}`;
  const parts = [`The layers compose to the picture: ${error(psnr, max_error)}.`];
  if (size(output) !== size(model)) parts.push(`As the model made them, at ${size(model)}: ${error(model_psnr, model_max_error)}.`);
  const areas = layers.map(({ layer, area, empty }) => `layer ${layer} ${empty ? 'is empty' : `${(100 * area).toFixed(1)} %`}`);
  parts.push(`Area: ${areas.join(', ')}.`);
  if (quality === 'low') parts.push('The quality is low: below the requested minimum PSNR.');
  return parts.join(' ');
}
