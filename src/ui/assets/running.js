// A job on its way: what it is doing, how far it is, how long it has taken, and the button that stops it.

import { api, ended } from './api.js';
import { h, say, seconds } from './dom.js';
import { watch } from './events.js';
import { failed } from './toast.js';

const STAGES = {
  fetch: 'Reading the picture', decode: 'Reading the picture', load: 'Loading the model',
  caption: 'Describing the picture', text_encode: 'Reading the words', vae_encode: 'Looking at the picture',
  denoise: 'Painting', vae_decode: 'Developing', composite: 'Putting layers together',
  encode_png: 'Saving', store: 'Saving',
};

/** In words: `Painting, step 12 of 50`. */
export function inWords(job) {
  if (job.cancel_requested && !ended(job)) return 'Stopping within a step';
  if (job.state === 'queued') return job.error ? `Waiting to try again: ${job.error.message}` : 'Waiting for its turn';
  if (job.state !== 'running') return job.state;
  const { stage, step = 0, steps = 0 } = job.progress ?? {};
  const words = STAGES[stage] ?? 'Starting';
  return stage === 'denoise' && steps ? `${words}, step ${step} of ${steps}` : words;
}

/** From 0 to 1, or null where nobody knows. Steps of denoising are nearly all of the time. */
export function share(job) {
  const { stage, step = 0, steps = 0 } = job.progress ?? {};
  return stage === 'denoise' && steps ? step / steps : null;
}

/** What a job is doing, brought up to date with `show(job, past)`; `past` is in seconds since its attempt began. */
export function progressView(job, { compact = false } = {}) {
  let now = job;
  let began = null;
  const words = h('p.stage');
  const time = h('p.time');
  const bar = h('progress', { max: 1, 'aria-label': 'Progress of the job' });
  const cancel = h('button', { type: 'button', onclick: stopIt }, 'Cancel');
  const lost = h('p.lost', { role: 'status', hidden: true }, 'The connection is lost. Trying again…');
  const element = h(`section.running${compact ? '.compact' : ''}`, { 'aria-label': 'Job in progress' },
    h('div.row', {}, words, time, cancel), bar, lost);

  async function stopIt() {
    cancel.disabled = true;
    try {
      show(await api.cancel(now.id));
      say('Stopping');
    } catch (error) {
      cancel.disabled = false;
      failed(error);
    }
  }

  function show(job, past) {
    now = job;
    if (past !== undefined) began = Date.now() - past * 1000;
    else if (job.state === 'running' && job.started_at) began ??= new Date(job.started_at).getTime();
    words.textContent = inWords(job);
    const part = share(job);
    if (part === null) bar.removeAttribute('value');
    else bar.value = part;
    cancel.disabled = job.cancel_requested || ended(job);
    tick();
  }

  function tick() {
    if (began === null || now.state !== 'running') {
      time.textContent = '';
      return;
    }
    const past = (Date.now() - began) / 1000;
    const part = share(now);
    // The first steps tell little; from then on they come at an even pace.
    const left = part > 0.08 && part < 1 ? `, about ${seconds((past / part) * (1 - part))} left` : '';
    time.textContent = `${seconds(past)}${left}`;
  }

  const clock = setInterval(tick, 1000);
  show(job);
  return { element, show, connected: (alive) => { lost.hidden = alive; }, close: () => clearInterval(clock) };
}

/** Shows `job` until it has ended, then calls `onEnd(job)`. Gives the element and a function that lets go of it. */
export function running(job, { onChange = () => {}, onEnd }) {
  const view = progressView(job);
  let now = job;
  const stop = watch(job.id, {
    onJob(job) {
      now = job;
      view.show(job);
      onChange(job);
      if (!ended(job)) return;
      close();
      say(job.state === 'succeeded' ? 'The job is done' : `The job ${job.state === 'failed' ? 'has failed' : 'was cancelled'}`);
      onEnd(job);
    },
    onProgress(progress, past, told) {
      now = { ...now, state: told.state, attempts: told.attempts, progress };
      view.show(now, past);
      onChange(now);
    },
    onConnection: view.connected,
  });
  function close() {
    view.close();
    stop();
  }
  return { element: view.element, close };
}
