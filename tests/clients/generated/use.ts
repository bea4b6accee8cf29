// Uses the types that openapi-typescript generated: submits a picture, waits, and fetches a layer. Compiling it checks
// that parameters belong to their kind.

import { readFileSync } from 'node:fs';
import { strict as assert } from 'node:assert';
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

const [url, picture] = process.argv.slice(2);
assert(url && picture);
const client = createClient<paths>({ baseUrl: url.replace(/\/$/, '') });

type Job = components['schemas']['JobView'];
type Body = components['schemas']['SubmitBody'];

const upload = await client.POST('/v1/inputs', {
  body: readFileSync(picture) as unknown as string,
  bodySerializer: (body) => body as unknown as BodyInit,
  headers: { 'Content-Type': 'application/octet-stream' },
});
assert(upload.data, JSON.stringify(upload.error));
const body: Body = {
  kind: 'decompose',
  input: { image: { upload: upload.data.upload } },
  params: { layers: 2, steps: 1, prompt: 'x', preset: 'fast' },
};
// @ts-expect-error: an edit has no layers
const wrong: Body = { kind: 'edit', params: { layers: 2 } };
void wrong;
// @ts-expect-error: there is no such kind
const unknown: Body = { kind: 'paint' };
void unknown;

const submitted = await client.POST('/v1/jobs', { body });
assert(submitted.data, JSON.stringify(submitted.error));
let job: Job = submitted.data;
while (job.state === 'queued' || job.state === 'running') {
  await new Promise((done) => { setTimeout(done, 100); });
  const shown = await client.GET('/v1/jobs/{id}', { params: { path: { id: job.id } } });
  assert(shown.data, JSON.stringify(shown.error));
  job = shown.data;
}
assert.equal(job.state, 'succeeded', JSON.stringify(job.error));
assert(job.kind === 'decompose');
// The kind decides the type of the parameters.
assert.equal(job.params.layers, 2);

const layer = await client.GET('/v1/jobs/{id}/layers/{layer}', {
  params: { path: { id: job.id, layer: '1.png' } }, parseAs: 'arrayBuffer',
});
assert(layer.data);
assert.equal(Buffer.from(layer.data).subarray(1, 4).toString(), 'PNG');
const manifest = await client.GET('/v1/jobs/{id}/files/manifest.json', { params: { path: { id: job.id } } });
assert(manifest.data);
assert.equal(manifest.data.files.length, job.outputs.length);
assert(manifest.data.files.every((file) => file.bounding_box));
const missing = await client.GET('/v1/jobs/{id}', { params: { path: { id: '018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21' } } });
assert.equal(missing.error?.code, 'not_found');
console.log(`${job.outputs.length} files of job ${job.id}`);
