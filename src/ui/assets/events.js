// Live updates of a job. A stream that breaks is opened again, because the server may have been restarted.

import { ended } from './api.js';

const SOONEST = 500;
const LATEST = 5000;

/**
 * Calls `onJob(job)` when the state changes, `onProgress(progress, seconds, job)` in between, and
 * `onConnection(alive)` when the stream breaks or is back. Returns a function that stops it.
 *
 * Browsers limit the connections to one server, so a hidden tab keeps none open.
 */
export function watch(id, { onJob, onProgress = () => {}, onConnection = () => {} }) {
  let source = null;
  let timer = null;
  let pause = SOONEST;

  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const stop = () => {
    close();
    document.removeEventListener('visibilitychange', look);
  };
  const open = () => {
    close();
    source = new EventSource(`/v1/jobs/${id}/events`);
    source.addEventListener('state', (event) => {
      const job = JSON.parse(event.data);
      alive();
      if (ended(job)) stop();
      onJob(job);
    });
    source.addEventListener('progress', (event) => {
      const told = JSON.parse(event.data);
      alive();
      onProgress(told.progress, told.seconds, told);
    });
    source.addEventListener('error', () => {
      close();
      onConnection(false);
      timer = setTimeout(open, pause);
      pause = Math.min(pause * 2, LATEST);
    });
  };
  const alive = () => {
    pause = SOONEST;
    onConnection(true);
  };
  const look = () => (document.hidden ? close() : open());

  document.addEventListener('visibilitychange', look);
  if (!document.hidden) open();
  return stop;
}
