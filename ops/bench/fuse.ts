/**
 * What a read through FUSE costs when its block is present: cofa's own server beside a passthrough file system in C
 * (bindfs). Each serves the same file from the page cache, so only the way through FUSE counts. fio reads with
 * O_DIRECT: every read is a request. Rounds are interleaved.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { kernelTransport } from '../../src/fuse/kernel-transport.ts';
import { openFuseSession } from '../../src/fuse/session.ts';
import { BLOCK_PRESENT, inodeOf } from '../../src/fuse/transport.ts';
import { isMounted } from '../../src/kernel/mount.ts';
import { Cleanup } from '../../test/support/temp.ts';
import { median, timed } from './measure.ts';

const SIZE = 512 << 20;
const BLOCK = 64 << 10;
const SECONDS = 3;
const JOBS = [
  { name: '4 KiB random', rw: 'randread', bs: '4k', jobs: 1 },
  { name: '4 KiB random, 4 readers', rw: 'randread', bs: '4k', jobs: 4 },
  { name: '128 KiB in order', rw: 'read', bs: '128k', jobs: 1 },
  { name: '128 KiB in order, 4 readers', rw: 'read', bs: '128k', jobs: 4 },
] as const;

export interface FuseRead {
  /** bytes a second */
  rate: number;
  p50Us: number;
  p99Us: number;
}

export interface FuseReads {
  job: string;
  cofa: FuseRead;
  bindfs: FuseRead;
}

/** Medians over the rounds. */
export async function fuseReads(rounds: number, say: (line: string) => void): Promise<FuseReads[]> {
  const cleanup = new Cleanup();
  try {
    const folder = await cleanup.tempDir('fuse');
    const file = join(folder, 'data', 'f'.repeat(64));
    for (const name of ['data', 'cofa', 'bindfs']) await mkdir(join(folder, name));
    // Not sparse, and from then on in the page cache.
    await timed('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${SIZE >> 20}`, 'status=none']);
    const servers = {
      cofa: [process.execPath, fileURLToPath(import.meta.url), 'serve', join(folder, 'cofa'), file],
      bindfs: ['bindfs', '-f', '--multithreaded', join(folder, 'data'), join(folder, 'bindfs')],
    };
    for (const [name, [command = '', ...args]] of Object.entries(servers)) {
      const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'] });
      cleanup.defer(async () => {
        if (child.exitCode !== null) return;
        child.kill('SIGTERM');
        await once(child, 'exit');
      });
      await untilMounted(join(folder, name));
    }
    const results = new Map<string, FuseRead[]>();
    for (let round = 1; round <= rounds; round++) {
      for (const job of JOBS) {
        say(`FUSE, round ${round} of ${rounds}: ${job.name}`);
        for (const server of round % 2 === 1 ? ['cofa', 'bindfs'] : ['bindfs', 'cofa']) {
          const key = `${job.name} ${server}`;
          const read = await fio(join(folder, server, basename(file)), job);
          results.set(key, [...(results.get(key) ?? []), read]);
        }
      }
    }
    const of = (job: string, server: string): FuseRead => {
      const all = results.get(`${job} ${server}`) ?? [];
      return {
        rate: median(all.map(({ rate }) => rate)),
        p50Us: median(all.map(({ p50Us }) => p50Us)),
        p99Us: median(all.map(({ p99Us }) => p99Us)),
      };
    };
    return JOBS.map(({ name }) => ({ job: name, cofa: of(name, 'cofa'), bindfs: of(name, 'bindfs') }));
  } finally {
    await cleanup.run();
  }
}

async function fio(file: string, job: (typeof JOBS)[number]): Promise<FuseRead> {
  const { stdout } = await promisify(execFile)(
    'fio',
    [
      ['--name=read', `--filename=${file}`, `--size=${SIZE}`, `--rw=${job.rw}`, `--bs=${job.bs}`],
      ['--ioengine=psync', '--direct=1', '--readonly', `--numjobs=${job.jobs}`, '--group_reporting'],
      ['--time_based', `--runtime=${SECONDS}`, '--randrepeat=1', '--output-format=json'],
    ].flat(),
    { timeout: 60_000, maxBuffer: 16 << 20 },
  );
  const { jobs } = JSON.parse(stdout) as {
    jobs: Array<{ read: { bw_bytes: number; clat_ns: { percentile: Record<string, number> } } }>;
  };
  const { bw_bytes, clat_ns } = jobs[0]?.read ?? { bw_bytes: 0, clat_ns: { percentile: {} } };
  const us = (percent: string) => (clat_ns.percentile[percent] ?? 0) / 1000;
  return { rate: bw_bytes, p50Us: us('50.000000'), p99Us: us('99.000000') };
}

async function untilMounted(target: string): Promise<void> {
  for (let tries = 0; tries < 200; tries++) {
    if (isMounted(target)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`nothing was mounted at ${target}`);
}

/** The front end's part of a read, with all its notes about one, in a process of its own. */
async function serve(target: string, path: string): Promise<void> {
  const session = await openFuseSession(target);
  const transport = kernelTransport({
    fd: session.fd,
    resend: session.resend,
    holdMs: 0,
    cold: (_file, _offset, _length, answer) => answer(5),
  });
  const file = await open(path, 'r');
  const { size } = await file.stat();
  const count = Math.ceil(size / BLOCK);
  const blocks = new SharedArrayBuffer(count);
  new Uint8Array(blocks).fill(BLOCK_PRESENT);
  transport.add({
    name: basename(path),
    inode: inodeOf(`sha256:${basename(path)}`),
    size,
    fd: file.fd,
    blockSize: BLOCK,
    blocks,
    firstReads: { clock: new SharedArrayBuffer(8), ticks: new SharedArrayBuffer(4 * count) },
    uses: new SharedArrayBuffer(4 * (count + 1)),
  });
  await once(process, 'SIGTERM');
  await transport.stop();
  session.close();
  process.exit(0);
}

if (process.argv[1] === import.meta.filename && process.argv[2] === 'serve')
  await serve(process.argv[3] ?? '', process.argv[4] ?? '');
