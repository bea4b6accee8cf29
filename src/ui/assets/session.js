// Signing in, if the server needs a token. The token becomes a cookie that scripts cannot read.

import { api } from './api.js';
import { h } from './dom.js';

/** Resolves when this browser is signed in. */
export async function signedIn() {
  const { required, valid } = await api.session();
  if (required && !valid) await ask();
}

let asking = null;

function ask() {
  asking ??= new Promise((done) => {
    const token = h('input', { type: 'password', id: 'token', required: true, autocomplete: 'current-password' });
    const problem = h('p.problem', { role: 'alert', hidden: true });
    const send = h('button.primary', { type: 'submit' }, 'Sign in');
    const dialog = h('dialog.small', { 'aria-labelledby': 'token-title', oncancel: (event) => event.preventDefault() },
      h('form', { onsubmit },
        h('h2', { id: 'token-title' }, 'This server needs a token'),
        h('div.field', {}, h('label', { htmlFor: 'token' }, 'Token'), token,
          h('p.hint', {}, 'It is http.token in the server’s settings. Ask the person who runs the server.')),
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
        problem.textContent = error.status === 401 ? 'Wrong token.' : error.message;
        problem.hidden = false;
        token.select();
      }
      send.disabled = false;
    }
  });
  return asking;
}

export const askAgain = ask;
