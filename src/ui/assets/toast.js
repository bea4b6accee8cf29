// Short messages in the corner. Errors stay until they are closed.

import { h, icon } from './dom.js';

export function toast(text, { kind = 'note', action = null } = {}) {
  const region = document.getElementById('toasts');
  for (const old of region.querySelectorAll('.toast')) if (old.dataset.text === text) old.remove();
  const close = () => element.remove();
  const element = h(`div.toast.${kind}`, { role: kind === 'error' ? 'alert' : 'status', data: { text } },
    h('p', {}, text),
    action && h('button.quiet', { onclick: () => { close(); action.run(); } }, action.label),
    h('button.icon', { 'aria-label': 'Close this message', onclick: close }, icon('close')));
  region.append(element);
  // What offers an action stays until it is closed, for those who read slowly.
  if (kind !== 'error' && !action) setTimeout(close, 6000);
  return close;
}

export const failed = (error) => toast(error.message, { kind: 'error' });
