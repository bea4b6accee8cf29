// A job that is queued or running: its stage, progress, elapsed time, and the button that cancels it.

import { api, ended } from './api.js';
import { h, say, seconds } from './dom.js';
import { watch } from './events.js';
import { failed } from './toast.js';

const STAGES = {
  fetch: 'Reading the picture', decode: 'Reading the picture', load: 'Loading the model',
  caption: 'Writing a caption', text_encode: 'Encoding the text', vae_encode: 'Encoding the picture',
  denoise: 'Denoising', vae_decode: 'Decoding the layers', composite: 'Compositing the layers',
  encode_png: 'Saving', store: 'Saving',
};

/** What the job is doing, such as `Denoising, step 12 of 50`. */
export function inWords(job) {
  if (job.cancel_requested && !ended(job)) return 'Stopping after this step';
  if (job.state === 'queued') return job.error ? `Waiting to retry: ${job.error.message}` : 'Waiting for a worker';
  if (job.state !== 'running') return job.state;
  const { stage, step = 0, steps = 0 } = job.progress ?? {};
  const words = STAGES[stage] ?? 'Starting';
  return stage === 'denoise' && steps ? `${words}, step ${step} of ${steps}` : words;
}

/** Progress from 0 to 1, or null if unknown. Denoise steps take nearly all of the time. */
export function share(job) {
  const { stage, step = 0, steps = 0 } = job.progress ?? {};
  return stage === 'denoise' && steps ? step / steps : null;
}

/** A view of a job's progress; update it with `show(job, past)`, where `past` is the seconds since its attempt began. */
export function progressView(job, { compact = false } = {}) {
  let now = job;
  let began = null;
  const words = h('p.stage');
  const time = h('p.time');
  const bar = h('progress', { max: 1, 'aria-label': 'Progress of the job' });
  const cancel = h('button', { type: 'button', onclick: stopIt }, 'Cancel');
  const lost = h('p.lost', { role: 'status', hidden: true }, 'The connection is lost. Reconnecting…');
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
    // The first steps are too few to predict from; after that the pace is even.
    const left = part > 0.08 && part < 1 ? `, about ${seconds((past / part) * (1 - part))} left` : '';
    time.textContent = `${seconds(past)}${left}`;
  }

  const clock = setInterval(tick, 1000);
  show(job);
  return { element, show, connected: (alive) => { lost.hidden = alive; }, close: () => clearInterval(clock) };
}

/** Shows `job` until it has ended, then calls `onEnd(job)`. Returns the element and a function that releases it. */
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
