// The token, where the server asks for one. It becomes a cookie that no script can read.

import { api } from './api.js';
import { h } from './dom.js';

/** Resolves when the server lets this browser in. */
export async function signedIn() {
  const { required, valid } = await api.session();
  if (required && !valid) await ask();
}

let asking = null;

function ask() {
  asking ??= new Promise((done) => {
    const token = h('input', { type: 'password', id: 'token', required: true, autocomplete: 'current-password' });
    const problem = h('p.problem', { role: 'alert', hidden: true });
    const send = h('button.primary', { type: 'submit' }, 'Go on');
    const dialog = h('dialog.small', { 'aria-labelledby': 'token-title', oncancel: (event) => event.preventDefault() },
      h('form', { onsubmit },
        h('h2', { id: 'token-title' }, 'This server asks for a token'),
        h('div.field', {}, h('label', { htmlFor: 'token' }, 'Token'), token,
          h('p.hint', {}, 'Whoever runs the server has it: http.token in its settings.')),
        problem, h('div.row.actions', {}, send)));
    document.body.append(dialog);
    dialog.showModal();

    async function onsubmit(event) {
      event.preventDefault();
      send.disabled = true;
      try {
        await api.signIn(token.value);
        dialog.remove();
        asking = null;
        done();
      } catch (error) {
        problem.textContent = error.status === 401 ? 'That is not the token of this server.' : error.message;
        problem.hidden = false;
        token.select();
      }
      send.disabled = false;
    }
  });
  return asking;
}

export const askAgain = ask;
