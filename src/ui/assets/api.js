// The server's API (docs/api.md). Every failure is a Problem with a readable `message`.

export class Problem extends Error {
  constructor({ status = 0, code = 'unreachable', detail, field = null, retryAfter = null }) {
    super(detail);
    Object.assign(this, { status, code, field, retryAfter });
  }
}

const unreachable = () => new Problem({ detail: 'The server does not respond. Is `acetate serve` still running?' });

async function ask(method, path, body, signal, accept = 'application/json') {
  const options = { method, signal, headers: { Accept: accept } };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers['Content-Type'] = 'application/json';
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw unreachable();
  }
  if (response.ok) return response;
  throw await problem(response);
}

async function problem(response) {
  let told = {};
  try {
    told = await response.json();
  } catch {
    // The response may come from a proxy.
  }
  const retryAfter = Number(response.headers.get('Retry-After')) || null;
  const detail = told.detail || told.title || `The server responded with ${response.status}.`;
  if (response.status === 401) window.dispatchEvent(new Event('acetate:unauthorized'));
  return new Problem({ status: response.status, code: told.code || 'unknown', detail, field: told.field, retryAfter });
}

const json = async (method, path, body, signal) => {
  const response = await ask(method, path, body, signal);
  return response.status === 204 ? null : response.json();
};
const query = (parameters) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return given.length ? `?${new URLSearchParams(given)}` : '';
};

export const api = {
  config: () => json('GET', '/v1/config'),
  models: () => json('GET', '/v1/models'),
  session: () => json('GET', '/v1/session'),
  signIn: (token) => json('POST', '/v1/session', { token }),
  jobs: (parameters, signal) => json('GET', `/v1/jobs${query(parameters)}`, undefined, signal),
  job: (id) => json('GET', `/v1/jobs/${id}`),
  submit: (body) => json('POST', '/v1/jobs', body),
  /** Stores a picture, which jobs can name. */
  upload: (file) => {
    const body = new FormData();
    body.set('image', file);
    return json('POST', '/v1/inputs', body);
  },
  cancel: (id) => json('POST', `/v1/jobs/${id}/cancel`),
  retry: (id) => json('POST', `/v1/jobs/${id}/retry`),
  remove: (id) => json('DELETE', `/v1/jobs/${id}`),
  batches: (signal) => json('GET', '/v1/batches?limit=10', undefined, signal),
  cancelBatch: (name) => json('POST', `/v1/batches/${encodeURIComponent(name)}/cancel`),
  undoCancel: (name, undo) => json('POST', `/v1/batches/${encodeURIComponent(name)}/retry`, { undo }),
  manifest: (job) => json('GET', job.links.manifest),
  exportStack: async (format, layers) => (await ask('POST', '/v1/export', { format, layers }, undefined, '*/*')).blob(),
};

/** The URL of a picture that a job made: the file, or a thumbnail of it. */
export const fileUrl = (job, file) => `/v1/jobs/${job}/files/${file}`;
export const thumbnailUrl = (job, file, size = 256) => `/v1/jobs/${job}/thumbnails/${file}?size=${size}`;

export const ended = (job) => ['succeeded', 'failed', 'cancelled'].includes(job.state);
