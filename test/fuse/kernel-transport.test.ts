import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readdir, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { kernelTransport } from '../../src/fuse/kernel-transport.ts';
import { type FuseSession, openFuseSession } from '../../src/fuse/session.ts';
import { changeBacking } from '../../src/kernel/loop.ts';
import { isMounted } from '../../src/kernel/mount.ts';
import { acceptance, until } from './acceptance.ts';
import { allOk, readPieces, startReadJob } from './read-job.ts';
import type { ServeJob } from './serve-child.ts';
import { BLOCK, type Layer, type Serve, TestBed } from './test-bed.ts';

const MIB = 1 << 20;

const serve: Serve = async (target, cold) => {
  const session = await openFuseSession(target);
  const transport = kernelTransport({ fd: session.fd, resend: session.resend, cold, holdMs: 0 });
  return {
    transport,
    connection: session.connection,
    close: async () => {
      await transport.stop();
      session.close();
    },
  };
};

acceptance('kernel protocol', serve);

describe('kernel protocol', () => {
  let bed: TestBed;
  beforeEach(async () => {
    bed = await new TestBed(serve).start();
  });
  afterEach(() => bed.end());

  /** A mount without a server; a process of its own serves it later. */
  async function keepSession(): Promise<{ session: FuseSession; target: string }> {
    const target = join(bed.folder, 'kept');
    await mkdir(target);
    const session = await openFuseSession(target);
    bed.watch(target, session.connection);
    bed.cleanup.defer(() => session.close());
    return { session, target };
  }

  function startServer(session: FuseSession, job: ServeJob): Server {
    const server = new Server(session.fd, job);
    bed.cleanup.defer(() => server.kill());
    return server;
  }

  test('parallel cold reads through a direct-I/O loop do not queue behind each other', async () => {
    const layer = await bed.layer(64 * BLOCK);
    const { transport, target } = await bed.serve((_, offset, length, answer) => {
      setTimeout(() => {
        layer.fetch(offset, length);
        answer(0);
        // Longer than a busy machine works on all of them.
      }, 200);
    });
    transport.add(layer.file);
    const loop = await bed.loop(join(target, layer.file.name));
    const read = (blocks: number[], parallel: number) =>
      readPieces({
        path: loop.path,
        truth: layer.truth,
        pieces: blocks.map((block) => ({ offset: block * BLOCK, length: 4096 })),
        parallel,
      });
    const serial = await read([0, 2, 4, 6], 1);
    const parallel = await read(
      Array.from({ length: 16 }, (_, i) => 20 + 2 * i),
      16,
    );
    expect([...serial.results, ...parallel.results]).toEqual(allOk(20));
    // 16 one after the other would take four times as long as these 4.
    expect(parallel.ms).toBeLessThan(serial.ms);
  });

  test('servers are killed under readers of a loop again and again; no read fails or is wrong', async () => {
    const layer = await bed.layer(24 * MIB);
    const { session, target } = await keepSession();
    expect(session.resend).toBe(true);
    const job = jobFor([layer], { coldMs: 30 });
    let server = startServer(session, job);
    await server.said('ready');
    const loop = await bed.loop(join(target, layer.file.name));
    const pieces = Array.from({ length: layer.blockCount }, (_, i) => ({
      offset: ((i * 101) % layer.blockCount) * BLOCK,
      length: 8192,
    }));
    const reading = startReadJob({ path: loop.path, truth: layer.truth, pieces, parallel: 12 });
    bed.cleanup.defer(reading.kill);
    const done = new AbortController();
    void reading.report.finally(() => done.abort());
    let kills = 0;
    for (; !done.signal.aborted && kills < 12; kills++) {
      await server.said('cold'); // so something is always in flight
      await sleep(10 + ((kills * 13) % 50));
      await server.kill();
      server = startServer(session, job);
      await server.said('ready');
    }
    expect((await reading.report).results).toEqual(allOk(pieces.length));
    expect(kills).toBeGreaterThan(2);
  });

  test('a warm standby takes over when it is told to', async () => {
    const layer = await bed.layer(8 * BLOCK);
    const { session, target } = await keepSession();
    const first = startServer(session, jobFor([layer], { coldMs: 600_000 }));
    const second = startServer(session, jobFor([layer], { standby: true }));
    await first.said('ready');
    await second.said('standby');
    const pieces = [0, 1, 2, 3].map((block) => ({ offset: block * BLOCK + 1, length: 1000 }));
    const path = join(target, layer.file.name);
    const reading = startReadJob({ path, truth: layer.truth, pieces, parallel: 4, direct: true });
    bed.cleanup.defer(reading.kill);
    for (let i = 0; i < 4; i++) await first.said('cold');
    await first.kill();
    second.tell();
    expect((await reading.report).results).toEqual(allOk(4));
  });

  test('after a restart reads, lookups and attributes of files that are yet to be added wait for them', async () => {
    const [known, fresh] = [await bed.layer(4 * BLOCK), await bed.layer(4 * BLOCK)];
    const { session, target } = await keepSession();
    const first = startServer(session, jobFor([known]));
    await first.said('ready');
    const handle = await open(join(target, known.file.name), 'r');
    bed.cleanup.defer(() => handle.close());
    await first.kill();
    const second = startServer(session, jobFor([known, fresh], { addAfterMs: 300 }));
    const read = handle.read(Buffer.alloc(4096), 0, 4096, 0);
    const found = stat(join(target, fresh.file.name));
    await expect(stat(join(target, 'not-a-layer'))).rejects.toMatchObject({ code: 'ENOENT' });
    expect((await read).bytesRead).toBe(4096);
    expect((await found).size).toBe(fresh.file.size);
    await second.said('ready');
    await expect(stat(join(target, 'e'.repeat(64)))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('what never comes back gives ENOENT or EIO when the time for it is over', async () => {
    const layer = await bed.layer(4 * BLOCK);
    const { session, target } = await keepSession();
    const first = startServer(session, jobFor([layer]));
    await first.said('ready');
    const handle = await open(join(target, layer.file.name), 'r');
    bed.cleanup.defer(() => handle.close());
    await first.kill();
    startServer(session, jobFor([], { addAfterMs: 600_000, holdMs: 200 }));
    const late = stat(join(target, 'e'.repeat(64))).catch((error: NodeJS.ErrnoException) => error.code);
    await expect(handle.read(Buffer.alloc(512), 0, 512, 0)).rejects.toMatchObject({ code: 'EIO' });
    expect(await late).toBe('ENOENT');
  });

  test.each(['exit', 'throw'] as const)('%s ends the process though threads block', async (ending) => {
    const layer = await bed.layer(4 * BLOCK);
    const { session, target } = await keepSession();
    const server = startServer(session, jobFor([layer], { ending }));
    await server.said('ready');
    // Each of the two threads has served something, so both of them block in read(2) by now.
    for (let i = 0; i < 20; i++) await readdir(target);
    server.tell();
    const outcome = await Promise.race([server.exited, sleep(10_000, 'hangs', { ref: false })]);
    expect(outcome).toEqual([ending === 'exit' ? 7 : 1, null]);
    const next = startServer(session, jobFor([layer]));
    await next.said('ready');
    expect((await stat(join(target, layer.file.name))).size).toBe(layer.file.size);
  });

  test('when the connection is aborted the transport ends, and a process that only serves ends with it', async () => {
    const layer = await bed.layer(4 * BLOCK);
    const { session, target } = await keepSession();
    const server = startServer(session, jobFor([layer]));
    await server.said('ready');
    await stat(join(target, layer.file.name));
    session.abort();
    expect(await server.exited).toEqual([0, null]);
    await server.said('ended well');
    await expect(readdir(target)).rejects.toThrow();
  });

  test('descriptors of removed files are closed, also while they are read', async () => {
    const layer = await bed.layer(32 * BLOCK);
    layer.fetch();
    const { transport, target } = await bed.serve(() => {});
    transport.add(layer.file);
    const opened = async () => {
      const links = (await readdir('/proc/self/fd')).map((fd) =>
        readlink(`/proc/self/fd/${fd}`).catch(() => ''),
      );
      return (await Promise.all(links)).filter((link) => link === layer.device).length;
    };
    const pieces = Array.from({ length: 500 }, (_, i) => ({ offset: (i % 32) * BLOCK, length: BLOCK }));
    const path = join(target, layer.file.name);
    const job = startReadJob({ path, truth: layer.truth, pieces, parallel: 4, direct: true });
    bed.cleanup.defer(job.kill);
    await until(() => transport.counters().reads > 20);
    for (let i = 0; i < 20; i++) {
      transport.remove(layer.file.inode);
      transport.add(layer.file);
      await sleep(2);
    }
    const { results } = await job.report;
    expect(results.filter((result) => result !== 'ok' && result !== 'EIO')).toEqual([]);
    await until(async () => (await opened()) === 2); // the layer's own, and the transport's
    transport.remove(layer.file.inode);
    await until(async () => (await opened()) === 1);
  });

  test('a process that is started meanwhile does not inherit the descriptor', async () => {
    const { session } = await keepSession();
    const links = await promisify(execFile)('sh', ['-c', 'readlink /proc/self/fd/* || true']);
    expect(links.stdout).not.toContain('/dev/fuse');
    expect(await readlink(`/proc/self/fd/${session.fd}`)).toBe('/dev/fuse');
  });

  test('a session over a mount that is alive is refused; over one that a crash left it takes its place', async () => {
    const layer = await bed.layer(BLOCK);
    const { session, target } = await keepSession();
    const server = startServer(session, jobFor([layer]));
    await server.said('ready');
    await expect(openFuseSession(target)).rejects.toMatchObject({ code: 'busy' });
    session.abort();
    const next = await openFuseSession(target);
    bed.watch(target, next.connection);
    bed.cleanup.defer(() => next.close());
    session.close(); // the old one: whatever has its number now stays
    await expect(openFuseSession(target)).rejects.toMatchObject({ code: 'busy' });
    next.close();
    expect(isMounted(target)).toBe(false);
    await expect(openFuseSession(join(target, 'missing'))).rejects.toMatchObject({ code: 'not-found' });
  });

  test('a loop whose server died with its supervisor gives EIO at once, and is repaired by an exchange', async () => {
    const layer = await bed.layer(16 * BLOCK);
    const { session, target } = await keepSession();
    const server = startServer(session, jobFor([layer]));
    await server.said('ready');
    const loop = await bed.loop(join(target, layer.file.name));
    await server.kill();
    session.close();
    const pieces = [{ offset: 0, length: 4096 }];
    const job = { path: loop.path, truth: layer.truth, pieces, parallel: 1 };
    expect((await readPieces(job)).results).toEqual(['EIO']);
    await changeBacking(loop, layer.truth);
    expect((await readPieces(job)).results).toEqual(['ok']);
  });
});

function jobFor(layers: Layer[], more: Omit<ServeJob, 'files'> = {}): ServeJob {
  return {
    files: layers.map(({ file, truth }) => ({ name: file.name, size: file.size, device: truth })),
    ...more,
  };
}

/** A serving process. */
class Server {
  readonly exited: Promise<[number | null, string | null]>;
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  #text = '';

  constructor(fd: number, job: ServeJob) {
    const script = fileURLToPath(new URL('./serve-child.ts', import.meta.url));
    const stderr = job.ending === 'throw' ? 'ignore' : 'inherit';
    this.#child = spawn(process.execPath, [script, JSON.stringify(job)], {
      stdio: ['pipe', 'pipe', stderr, fd],
    });
    this.exited = once(this.#child, 'exit') as Promise<[number | null, string | null]>;
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#text += chunk.toString();
      const lines = this.#text.split('\n');
      this.#text = lines.pop() ?? '';
      this.#lines.push(...lines);
    });
  }

  /** Waits for a line, and takes it. */
  async said(line: string): Promise<void> {
    await until(() => this.#lines.includes(line));
    this.#lines.splice(this.#lines.indexOf(line), 1);
  }

  tell(): void {
    this.#child.stdin?.end('\n');
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.exited;
  }
}
