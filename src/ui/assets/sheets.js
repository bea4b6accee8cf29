// The layers of a job as the user has arranged them: order, names, opacity, visibility, and the version of each layer.
//
// The pictures are on the server and never change. An edit is a job whose labels name the layer that it edits, so every
// tab and every browser finds it. The arrangement is in this browser's storage; other tabs on the same job follow it.

import { api, ended, fileUrl, thumbnailUrl } from './api.js';
import { watch } from './events.js';

const EDIT_OF = 'edit-of';
const LAYER = 'layer';
/** Decomposes of a job's layers are found as if this were their label. */
const LAYER_OF = 'layer-of';

export class Sheets extends EventTarget {
  /** `job` has succeeded; `variant` is one of its variants, if it has any. */
  constructor(job, variant = null) {
    super();
    this.job = job;
    this.variant = variant;
    this.layers = layersOf(job, variant);
    /** Edits that are waiting or running: key of the layer -> { job, past }, `past` in seconds. */
    this.pending = new Map();
    this.watched = new Map();
    this.restore();
    this.follow = (event) => {
      if (event.key !== this.storageKey) return;
      this.restore();
      this.changed('elsewhere');
      // Another tab may have made an edit that is unknown here.
      this.loadEdits();
    };
    window.addEventListener('storage', this.follow);
  }

  close() {
    window.removeEventListener('storage', this.follow);
    for (const stop of this.watched.values()) stop();
  }

  get storageKey() {
    return `acetate:stack:${this.job.id}${this.variant > 1 ? `:${this.variant}` : ''}`;
  }

  get topFirst() {
    return [...this.layers].reverse();
  }

  layer(key) {
    return this.layers.find((layer) => layer.key === key);
  }

  change(key, values) {
    Object.assign(this.layer(key), values);
    this.save();
  }

  /** Moves a layer to a position, counted from the top. */
  move(key, place) {
    const layer = this.layer(key);
    const order = this.topFirst.filter((other) => other !== layer);
    order.splice(place, 0, layer);
    this.layers = order.reverse();
    this.save();
  }

  save() {
    const layers = this.layers.map(({ key, name, opacity, visible, current }) => ({ key, name, opacity, visible, version: versionKey(current) }));
    try {
      localStorage.setItem(this.storageKey, JSON.stringify(layers));
    } catch {
      // Storage may be full or disabled; the arrangement then lasts until the page is closed.
    }
    this.changed('here');
  }

  /** Restores the saved arrangement; layers that are not in it keep their positions. */
  restore() {
    let saved = [];
    try {
      saved = JSON.parse(localStorage.getItem(this.storageKey)) ?? [];
    } catch {
      return;
    }
    const places = new Map(saved.map((one, index) => [one.key, index]));
    for (const one of saved) {
      const layer = this.layer(one.key);
      if (!layer) continue;
      Object.assign(layer, { name: one.name, opacity: one.opacity, visible: one.visible, wanted: one.version });
      layer.current = layer.versions.find((version) => versionKey(version) === one.version) ?? layer.current;
    }
    this.layers.sort((a, b) => (places.get(a.key) ?? 0) - (places.get(b.key) ?? 0));
  }

  /** Loads all edits of these layers. */
  async loadEdits() {
    const { jobs } = await api.jobs({ label: `${EDIT_OF}=${this.job.id}`, kind: 'edit', limit: 200 });
    for (const job of jobs.reverse()) this.adopt(job);
    this.changed('here');
  }

  /** Adds an edit job: as a version of its layer, or watched until it becomes one. `mine`: it was started here. */
  adopt(job, mine = false) {
    const layer = this.layer(job.labels[LAYER]);
    if (!layer) return;
    if (!ended(job)) {
      this.pending.set(layer.key, { job });
      this.watch(job, layer.key, mine);
    } else {
      if (this.pending.get(layer.key)?.job.id === job.id) this.pending.delete(layer.key);
      if (job.state === 'succeeded') this.addVersion(layer, job, mine);
    }
    if (mine && job.state === 'succeeded') this.save();
    else this.changed('here');
  }

  /** Adds what an edit made: one version, or one for each of its variants. */
  addVersion(layer, job, choose) {
    if (layer.versions.some((version) => version.job === job.id)) return;
    const made = job.outputs.filter(({ role }) => role === 'edited').map(({ name, variant, seed }) => {
      const { instruction } = job.params;
      return { job: job.id, file: name, instruction: variant ? `${instruction} (seed ${seed})` : instruction };
    });
    layer.versions.push(...made);
    const wanted = made.find((version) => layer.wanted === versionKey(version));
    if (wanted || choose) layer.current = wanted ?? made[0];
  }

  watch(job, key, mine) {
    if (this.watched.has(job.id)) return;
    const stop = watch(job.id, {
      onJob: (job) => {
        // An edit that was started before a reload becomes current, too, unless another version was chosen since.
        const [from] = job.input;
        const { current } = this.layer(key);
        this.adopt(job, mine || (from.job === current.job && from.file === current.file));
        this.dispatchEvent(new CustomEvent('edit', { detail: { job, key, mine } }));
      },
      onProgress: (progress, past, told) => {
        const pending = this.pending.get(key);
        if (pending?.job.id !== job.id) return;
        this.pending.set(key, { job: { ...pending.job, state: told.state, progress }, past });
        this.changed('here');
      },
    });
    this.watched.set(job.id, stop);
  }

  /** Submits an edit of a version of a layer and returns the job. `mask`: a file, or nothing. */
  async edit(key, version, params, mask) {
    const input = { image: { job: version.job, file: version.file } };
    if (mask) input.mask = { upload: (await api.upload(mask)).upload };
    const labels = { [EDIT_OF]: this.job.id, [LAYER]: key };
    const job = await api.submit({ kind: 'edit', input, params, labels });
    this.adopt(job, true);
    return job;
  }

  /** Splits what a layer shows now into layers of its own and returns the job. */
  split(key) {
    const { job, file } = this.layer(key).current;
    const from = { job, file };
    // An edited layer is a picture of its own.
    const input = this.isOriginal(key) && this.layer(key).number ? { from } : { image: from };
    return api.submit({ kind: 'decompose', input, params: { layers: 'auto' } });
  }

  isOriginal(key) {
    const { current, versions } = this.layer(key);
    return current === versions[0];
  }

  /** Finds what layers were split into: the newest result for each. */
  async loadNested() {
    const { jobs } = await api.jobs({ label: `${LAYER_OF}=${this.job.id}`, kind: 'decompose', limit: 200 });
    for (const job of jobs) {
      const layer = this.layers.find(({ key, number }) => isFrom(job, this.job.id, key, this.variant > 1 ? null : number));
      if (layer && !layer.nested) layer.nested = job;
    }
    this.changed('here');
  }

  changed(by) {
    this.dispatchEvent(new CustomEvent('change', { detail: { by } }));
  }

  /** The layers for the export, back to front. */
  get exported() {
    return this.layers.flatMap(({ key, name, opacity, visible, nested, current: { job, file } }) => {
      const parts = opacity === 1 && this.isOriginal(key) ? partsOf(nested, this.layer(key)) : [];
      if (!parts.length) return [{ job, file, name, opacity, visible }];
      return parts.map((part) => ({ job: nested.id, file: part.name, name: part.layer_name ?? part.name, opacity: 1, visible, groups: [name] }));
    });
  }
}

/** Whether a job takes this layer apart. */
function isFrom(job, parent, file, number) {
  const [input] = job.input ?? [];
  return input?.job === parent && (input.file === file || (number && input.layer === number));
}

/** The layers that a layer was split into, if they have its canvas. */
function partsOf(nested, { width, height }) {
  if (nested?.state !== 'succeeded') return [];
  const parts = nested.outputs.filter((file) => file.role === 'layer' && (file.variant ?? 1) === 1);
  const fits = (file) => (file.placement ?? file).width === width && (file.placement ?? file).height === height;
  return parts.every(fits) ? parts : [];
}

const versionKey = (version) => `${version.job}/${version.file}`;
/** The variants of a job, in order; none if it has one result. */
export function variantsOf(job) {
  const seeds = new Map(job.outputs.filter(({ variant }) => variant).map(({ variant, seed }) => [variant, seed]));
  return [...seeds].map(([variant, seed]) => ({ variant, seed, picture: pictureOf(job, variant) }));
}

/** The picture that stands for a variant: an edit's own, or the foremost layer. */
function pictureOf(job, variant) {
  const files = job.outputs.filter((file) => file.variant === variant && file.role !== 'regenerated');
  return files[files.length - 1].name;
}

export const versionUrl = (version) => fileUrl(version.job, version.file);
export const versionThumbnail = (version, size) => thumbnailUrl(version.job, version.file, size);
/** The job whose stack an edit belongs to, if it was made on this page. */
export const parentOf = (job) => job.labels?.[EDIT_OF];

/** All edits of a job's layers that were made on this page. */
export async function editsOf(job) {
  const edits = [];
  let after = null;
  do {
    const page = await api.jobs({ label: `${EDIT_OF}=${job.id}`, kind: 'edit', limit: 200, after });
    // The search ignores case and finds more than the label.
    edits.push(...page.jobs.filter((edit) => parentOf(edit) === job.id));
    after = page.next;
  } while (after);
  return edits;
}

/** The layers of a job, back to front. A workflow's own edits become versions; the originals are kept. */
function layersOf(job, variant) {
  const outputs = job.outputs.filter((file) => (variant ? file.variant === variant : true));
  const of = (role) => outputs.filter((file) => file.role === role);
  const base = of('layer');
  if (!base.length) {
    const [file] = outputs;
    return file ? [layer(job, file, job.kind === 'edit' ? 'Edited' : 'Composite')] : [];
  }
  const edited = new Map(of('edited_layer').map((file) => [file.layer, file]));
  return base.map((file, index) => {
    const made = layer(job, file, file.layer_name ?? (index === 0 ? 'Background' : `Layer ${index + 1}`));
    if (edited.has(file.layer)) {
      const edits = (job.params.edits ?? []).filter((edit) => edit.layer === file.layer);
      const instruction = edits.map((edit) => edit.instruction).join('; ');
      const { name, placement } = edited.get(file.layer);
      made.current = { job: job.id, file: name, placement, instruction };
      made.versions.push(made.current);
    }
    return made;
  });
}

function layer(job, file, name) {
  const { placement } = file;
  const original = { job: job.id, file: file.name, placement };
  // Of the canvas, if the file is trimmed.
  const { width, height } = placement ?? file;
  return { key: file.name, number: file.layer, nested: null, name, opacity: 1, visible: true, width, height, versions: [original], current: original };
}
