// The list of jobs: newest first, more on scrolling, with a search; and the progress of unfinished batches.

import { api, ended } from './api.js';
import { ago, h, icon } from './dom.js';
import { inWords, share } from './running.js';
import { parentOf } from './sheets.js';
import { failed, toast } from './toast.js';

const PAGE = 60;
/** Milliseconds between requests to the server: while jobs run, and otherwise. */
const BUSY = 2500;
const IDLE = 12_000;
/** How often, a second apart, the jobs are looked at that were asked to stop and are to be queued again. */
const STOPPING_TRIES = 300;

const jobs = (count) => (count === 1 ? '1 job' : `${count} jobs`);

export class History {
  constructor(element) {
    this.rows = new Map();
    this.next = null;
    this.words = '';
    this.current = null;
    this.search = h('input', { type: 'search', id: 'search', placeholder: 'Search', 'aria-label': 'Search the history', oninput: () => this.searchSoon() });
    this.batches = h('div.batches', { 'aria-label': 'Running batches', role: 'group', hidden: true });
    this.list = h('ol.jobs', { 'aria-label': 'Jobs, newest first' });
    this.end = h('p.end', { role: 'status' });
    element.replaceChildren(
      h('div.history-head', {},
        h('a.new-button', { href: '#/' }, icon('plus'), 'New picture'),
        h('div.search', {}, icon('search'), this.search)),
      this.batches, this.list, this.end);
    new IntersectionObserver(([entry]) => entry.isIntersecting && this.more(), { root: element, rootMargin: '600px' }).observe(this.end);
    document.addEventListener('visibilitychange', () => this.schedule(0));
    this.refresh();
  }

  searchSoon() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.words = this.search.value.trim();
      this.clear();
      this.refresh();
    }, 200);
  }

  clear() {
    this.asked?.abort();
    this.rows.clear();
    this.list.replaceChildren();
    this.next = null;
    this.complete = false;
  }

  /** Loads the first page again: adds new jobs on top and updates known ones in place. */
  async refresh() {
    clearTimeout(this.timer);
    const asked = (this.asked = new AbortController());
    try {
      const page = await api.jobs({ q: this.words, limit: PAGE }, asked.signal);
      if (asked.signal.aborted) return;
      this.forget(page.jobs);
      let before = this.list.firstChild;
      for (const job of page.jobs) {
        const known = this.rows.get(job.id);
        if (known) {
          known.update(job);
          before = known.element.nextSibling;
        } else {
          this.list.insertBefore(this.add(job), before);
        }
      }
      if (this.next === null && !this.complete) {
        this.next = page.next;
        this.complete = page.next === null;
      }
      this.busy = page.jobs.some((job) => !ended(job));
      this.tellEnd();
      this.showBatches(await api.batches(asked.signal));
      tellConnection(true);
    } catch (error) {
      if (error.name === 'AbortError') return;
      tellConnection(error.status !== 0);
      if (error.status && error.status !== 401) this.end.textContent = error.message;
      this.busy = true;
    }
    this.schedule(this.busy ? BUSY : IDLE);
  }

  /** Removes the rows within this page's range that are not among its jobs: they were deleted elsewhere. */
  forget(jobs) {
    const there = new Set(jobs.map((job) => job.id));
    const last = this.rows.get(jobs.at(-1)?.id)?.element ?? null;
    for (const [id, { element }] of this.rows) {
      const within = last ? element.compareDocumentPosition(last) & Node.DOCUMENT_POSITION_FOLLOWING : this.complete;
      if (within && !there.has(id)) this.remove(id);
    }
  }

  schedule(pause) {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), pause);
  }

  async more() {
    if (!this.next || this.loading) return;
    this.loading = true;
    try {
      const page = await api.jobs({ q: this.words, limit: PAGE, after: this.next });
      for (const job of page.jobs) if (!this.rows.has(job.id)) this.list.append(this.add(job));
      this.next = page.next;
      this.complete = page.next === null;
      this.tellEnd();
    } catch (error) {
      failed(error);
    }
    this.loading = false;
  }

  tellEnd() {
    const nothing = this.words ? `No jobs found for “${this.words}”.` : 'No jobs yet. Pictures that you split are listed here.';
    this.end.textContent = this.rows.size ? '' : nothing;
  }

  add(job) {
    const row = new Row(job);
    row.mark(this.current);
    this.rows.set(job.id, row);
    return row.element;
  }

  /** Adds a job that was just submitted, or updates one that has changed. */
  put(job) {
    const known = this.rows.get(job.id);
    if (known) known.update(job);
    else if (!this.words) this.list.prepend(this.add(job));
    this.tellEnd();
    if (ended(job)) {
      this.schedule(0);
    } else if (!this.busy) {
      this.busy = true;
      this.schedule(BUSY);
    }
  }

  remove(id) {
    this.rows.get(id)?.element.remove();
    this.rows.delete(id);
    this.tellEnd();
  }

  select(id) {
    this.current = id;
    for (const row of this.rows.values()) row.mark(id);
  }

  /** Takes a cancellation back. Jobs that were asked to stop do so within a step, and are queued again after that. */
  async putBack(batch, undo) {
    let back = 0;
    try {
      for (let tries = 0; tries < STOPPING_TRIES; tries += 1) {
        const { retried, stopping } = await api.undoCancel(batch, undo);
        back += retried;
        this.schedule(0);
        if (!stopping) break;
        await new Promise((done) => { setTimeout(done, 1000); });
      }
      toast(`${jobs(back)} of “${batch}” ${back === 1 ? 'is' : 'are'} queued again.`);
    } catch (error) {
      failed(error);
    }
  }

  showBatches({ batches }) {
    const open = batches.filter((batch) => batch.ended < batch.total);
    this.batches.hidden = open.length === 0;
    this.batches.replaceChildren(...open.map((batch) => {
      const { failed: lost = 0 } = batch.states;
      const told = `${batch.ended} of ${batch.total}${lost ? `, ${lost} failed` : ''}`;
      const stop = async () => {
        const left = batch.total - batch.ended;
        if (!confirm(`Cancel the rest of “${batch.batch}”? ${jobs(left)} ${left === 1 ? 'has' : 'have'} not ended.`)) return;
        try {
          const { cancelled, undo } = await api.cancelBatch(batch.batch);
          const told = `${jobs(cancelled)} of “${batch.batch}” ${cancelled === 1 ? 'was' : 'were'} cancelled.`;
          toast(told, { action: cancelled ? { label: 'Undo', run: () => this.putBack(batch.batch, undo) } : null });
          this.schedule(0);
        } catch (error) {
          failed(error);
        }
      };
      return h('div.batch', {},
        h('div.row.between', {}, h('strong', {}, batch.batch), h('button.icon', { 'aria-label': `Cancel the rest of ${batch.batch}`, onclick: stop }, icon('close'))),
        h('progress', { max: batch.total, value: batch.ended, 'aria-label': `Progress of ${batch.batch}` }),
        h('p.soft', {}, told));
    }));
  }
}

/** The list is loaded regularly, so it notices first that the server does not respond. */
function tellConnection(alive) {
  const place = document.getElementById('connection');
  if (place.hidden !== alive) place.hidden = alive;
}

/** One job in the list; the browser skips rendering it while it is out of view. */
class Row {
  constructor(job) {
    this.image = h('img', { alt: '', loading: 'lazy', decoding: 'async', width: 48, height: 48 });
    this.image.addEventListener('error', () => this.image.classList.add('missing'));
    this.title = h('span.title');
    this.state = h('span.state');
    this.bar = h('progress', { max: 1, hidden: true, 'aria-label': 'Progress' });
    this.link = h('a.job', {}, this.image, h('span.words', {}, this.title, this.state, this.bar));
    this.element = h('li', {}, this.link);
    this.update(job);
  }

  update(job) {
    const parent = parentOf(job);
    // The page of an edit leads to its picture, if that still exists.
    this.opens = parent ?? job.id;
    this.id = job.id;
    this.link.href = `#/jobs/${job.id}`;
    const edited = parent && job.outputs[0];
    const source = edited ? `${edited.thumbnail}?size=96` : job.links.thumbnail && `${job.links.thumbnail}?size=96`;
    if (source && this.image.getAttribute('src') !== source) this.image.src = source;
    this.title.textContent = titleOf(job);
    this.state.textContent = job.state === 'succeeded' ? `${KIND[job.kind]}${job.reused_from ? ', reused' : ''} · ${ago(job.created_at)}` : ended(job) ? `${KIND[job.kind]} ${job.state}` : inWords(job);
    this.element.dataset.state = job.state;
    this.bar.hidden = job.state !== 'running';
    const part = share(job);
    if (part === null) this.bar.removeAttribute('value');
    else this.bar.value = part;
  }

  mark(current) {
    if (this.opens === current || this.id === current) this.link.setAttribute('aria-current', 'page');
    else this.link.removeAttribute('aria-current');
  }
}

const KIND = { decompose: 'Decompose', edit: 'Edit', composite: 'Composite', workflow: 'Workflow' };

export const kindOf = (job) => KIND[job.kind];

export function titleOf(job) {
  const { prompt, instruction, edits } = job.params ?? {};
  return instruction || job.labels?.name || prompt || edits?.[0]?.instruction || nameOf(job) || `${KIND[job.kind]} ${job.id.slice(-6)}`;
}

/** The file name of the first input, if it is an address. */
function nameOf(job) {
  const [first] = job.input ?? [];
  return typeof first === 'string' ? decodeURIComponent(first.split('/').pop()) : null;
}
