// The page: loads the server's configuration, routes between `#/` and `#/jobs/ID`, and holds the parts that are always
// visible.

import { api, ended } from './api.js';
import { documentView } from './document.js';
import { h, icon, say } from './dom.js';
import { History, titleOf } from './history.js';
import { modelNotice, newJob, shortName } from './new.js';
import { editsOf, parentOf } from './sheets.js';
import { askAgain, signedIn } from './session.js';
import { failed, toast } from './toast.js';

const main = document.getElementById('main');
const drawer = document.getElementById('drawer');
const historyPane = document.getElementById('history');

let server = null;
let jobs = null;
let view = { close() {} };
/** The start form, kept with its picture and settings while the user looks at jobs. */
let start = null;

async function begin() {
  try {
    await signedIn();
    const [config, models] = await Promise.all([api.config(), api.models().catch(() => null)]);
    server = { config, models };
  } catch (error) {
    main.replaceChildren(h('div.waiting', {},
      h('h1', {}, 'The server cannot be reached'), h('p', {}, error.message),
      h('div.row', {}, h('button.primary', { onclick: begin }, 'Try again'))));
    return;
  }
  jobs = new History(historyPane);
  start = newJob({ ...server, onJob: accepted });
  showModel(server.models);
  await route();
}

function accepted(job) {
  jobs.put(job);
  location.hash = `#/jobs/${job.id}`;
}

const context = {
  get config() { return server.config; },
  get models() { return server.models; },
  onChange: (job) => jobs.put(job),
  async remove(job) {
    // Without their picture, its edits would be rows that lead nowhere.
    const edits = await editsOf(job);
    const more = edits.length ? ` ${edits.length === 1 ? 'Its edit is' : `Its ${edits.length} edits are`} deleted, too.` : '';
    if (!confirm(`Delete “${titleOf(job)}” and its files?${more} This cannot be undone.`)) return;
    for (const edit of edits) {
      await removeEdit(edit);
      jobs.remove(edit.id);
    }
    await api.remove(job.id);
    jobs.remove(job.id);
    toast('Deleted');
    location.hash = '#/';
  },
};

/** Deletes an edit; one that has not ended is cancelled first. Whoever deleted it before has done the same. */
async function removeEdit(edit) {
  try {
    let job = edit;
    if (!ended(job)) await api.cancel(job.id).catch((error) => { if (error.status !== 409) throw error; });
    while (!ended(job)) {
      await new Promise((done) => { setTimeout(done, 200); });
      job = await api.job(job.id);
    }
    await api.remove(job.id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
}

async function route() {
  // Before the page has started, there is nothing to show; begin() routes at its end.
  if (!server) return;
  const [, id] = location.hash.match(/^#\/jobs\/([0-9a-f-]{36})$/i) ?? [];
  view.close();
  view = { close() {} };
  openDrawer(false);
  jobs.select(id ?? null);
  if (!id) {
    main.replaceChildren(start.element);
    document.title = 'acetate';
    return;
  }
  const asked = location.hash;
  let job;
  try {
    job = await api.job(id);
  } catch (error) {
    if (asked !== location.hash) return;
    const told = error.status === 404 ? 'This job does not exist. It may have been deleted.' : error.message;
    main.replaceChildren(h('div.waiting', {}, h('h1', {}, error.status === 404 ? 'Not found' : 'This job cannot be shown'), h('p', {}, told),
      h('div.row', {}, h('button.primary', { onclick: route }, 'Try again'), h('a.button', { href: '#/' }, 'New picture'))));
    return;
  }
  if (asked !== location.hash) return;
  const parent = parentOf(job);
  if (parent) {
    // An edit is shown in the document of its layer, or alone if that was deleted.
    const exists = await api.job(parent).then(() => true, (error) => error.status !== 404);
    if (asked !== location.hash) return;
    if (exists) {
      location.replace(`#/jobs/${parent}`);
      return;
    }
  }
  view = documentView(job, context);
  main.replaceChildren(view.element);
  document.title = `${titleOf(job)} · acetate`;
  say(titleOf(job));
}

function showModel(models) {
  if (!models?.decompose) return;
  const button = document.getElementById('model');
  const { small } = models.decompose;
  const missing = models.decompose.available === false;
  const name = shortName(models.decompose.id);
  button.hidden = false;
  button.classList.toggle('warn', small || missing);
  button.replaceChildren(...(small || missing ? [icon('warn')] : []), h('span', {}, name));
  const remark = missing ? ', which is missing' : small ? ', a small checkpoint' : '';
  button.setAttribute('aria-label', `Model: ${name}${remark}`);
  button.addEventListener('click', () => {
    const line = (label, value) => [h('dt', {}, label), h('dd', {}, value)];
    const dialog = h('dialog.small', { 'aria-labelledby': 'models-title', onclose: () => dialog.remove() },
      h('div.dialog-head', {}, h('h2', { id: 'models-title' }, 'Models'), h('button.icon', { 'aria-label': 'Close', onclick: () => dialog.close() }, icon('close'))),
      h('dl.facts', {}, line('Layers', models.decompose.id), models.edit ? line('Edits', models.edit.id) : [],
        line('Device', models.device ?? 'chosen by the workers'), line('acetate', server.config.version)),
      modelNotice(models));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function openDrawer(open) {
  historyPane.classList.toggle('open', open);
  drawer.setAttribute('aria-expanded', String(open));
}

main.addEventListener('pointerdown', () => openDrawer(false));
drawer.addEventListener('click', () => openDrawer(!historyPane.classList.contains('open')));
document.getElementById('theme').addEventListener('click', () => {
  const { dataset } = document.documentElement;
  const dark = dataset.theme ? dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  dataset.theme = dark ? 'light' : 'dark';
  try {
    localStorage.setItem('acetate:theme', dataset.theme);
  } catch {
    // Without storage, the choice lasts until the page is closed.
  }
});
window.addEventListener('hashchange', route);
window.addEventListener('acetate:unauthorized', () => server && askAgain().then(route));

/** Takes pictures that are pasted or dropped anywhere on the page. */
function offer(files) {
  if (!start || !files.length) return false;
  if (location.hash !== '#/' && location.hash !== '') location.hash = '#/';
  start.take(files);
  return true;
}
window.addEventListener('paste', (event) => offer(event.clipboardData?.files ?? []) && event.preventDefault());
window.addEventListener('dragover', (event) => event.preventDefault());
window.addEventListener('drop', (event) => {
  event.preventDefault();
  offer(event.dataTransfer?.files ?? []);
});
window.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') openDrawer(false);
  const typing = event.target.closest?.('input, textarea, select, dialog');
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/') {
    event.preventDefault();
    openDrawer(true);
    document.getElementById('search')?.focus();
  }
  if (event.key === 'n') location.hash = '#/';
});
window.addEventListener('unhandledrejection', ({ reason }) => failed(reason instanceof Error ? reason : new Error(String(reason))));

begin();
