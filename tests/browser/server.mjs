// A server of its own for a test: `acetate serve` on a free port, with the small checkpoints, in a folder that is gone
// afterwards.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

export const ROOT = path.resolve(import.meta.dirname, '../..');
/** What cargo builds into, and the program in it. */
export const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target');
const PROGRAM = path.resolve(ROOT, process.env.ACETATE ?? path.join(TARGET, 'debug/acetate'));

/** Looks until it holds, for longer than anything takes that works. */
export async function until(what, holds) {
  const start = Date.now();
  while (!await holds()) {
    if (Date.now() - start > 180_000) throw new Error(`${what} does not come`);
    await new Promise((done) => { setTimeout(done, 50); });
  }
}

export class Server {
  /** `settings` are environment variables without their `ACETATE__`. */
  static async start(settings = {}) {
    const server = new Server();
    server.folder = mkdtempSync(path.join(tmpdir(), 'acetate-'));
    server.settings = settings;
    server.bind = '127.0.0.1:0';
    await server.up();
    return server;
  }

  /** Starts the program and waits until it says where it is. */
  async up() {
    const environment = { PATH: process.env.PATH, HOME: this.folder, HF_HUB_OFFLINE: '1', ACETATE__DATA_DIR: path.join(this.folder, 'data') };
    for (const [name, value] of Object.entries(this.settings)) environment[`ACETATE__${name}`] = String(value);
    this.process = spawn(PROGRAM, ['serve', '--bind', this.bind], { cwd: ROOT, env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    this.said = '';
    this.process.stderr.on('data', (text) => { this.said += text; });
    this.ended = new Promise((done) => { this.process.once('exit', done); });
    const found = new Promise((done, fail) => {
      this.process.stdout.on('data', (text) => {
        const [, address] = String(text).match(/http:\/\/([0-9.:]+)\//) ?? [];
        if (address) done(address);
      });
      this.process.once('error', fail);
      this.process.once('exit', (code) => fail(new Error(`acetate serve ended with ${code}: ${this.said}`)));
    });
    // The same place again after a restart.
    this.bind = await found;
    this.url = `http://${this.bind}/`;
  }

  /** Ends the process and nothing else; `up()` starts it again in the same folder. */
  async down(signal = 'SIGTERM') {
    this.process.kill(signal);
    await this.ended;
  }

  async stop() {
    if (this.process.exitCode === null && this.process.signalCode === null) await this.down('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }

  async ask(method, where, body) {
    const options = { method, headers: {} };
    if (body instanceof FormData) options.body = body;
    else if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers['Content-Type'] = 'application/json';
    }
    const response = await fetch(new URL(where, this.url), options);
    if (!response.ok) throw new Error(`${method} ${where}: ${response.status} ${await response.text()}`);
    return response.json();
  }
}
