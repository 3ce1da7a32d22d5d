import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Status } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { renderEvent } from '../../src/cli/events.ts';
import { failureOf } from '../../src/cli/failure.ts';
import { type ImageView, render as renderImage } from '../../src/cli/inspect.ts';
import { printable, type Sink } from '../../src/terminal/output.ts';
import { ProgressView } from '../../src/cli/progress.ts';
import { render as renderPs } from '../../src/cli/ps.ts';
import { render as renderStatus } from '../../src/cli/status.ts';
import { formatBytes, formatDuration, formatShare, renderTable } from '../../src/terminal/table.ts';
import { StartError } from '../../src/container/command.ts';
import { ContainerFolder } from '../../src/container/record.ts';
import { Interrupted } from '../../src/terminal/interrupted.ts';

describe('numbers for people', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [9_999, '10.0 kB'],
    [99_960, '100 kB'],
    [999_499, '999 kB'],
    [999_500, '1.00 MB'],
    [270_000_000, '270 MB'],
    [4_300_000_000, '4.30 GB'],
    [7.7e15, '7700 TB'],
  ])('%d bytes: %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text));
  it.each([
    [0, 0, '-'],
    [0, 5, '0.0 %'],
    [1, 1000, '0.1 %'],
    [1, 3, '33 %'],
    [99_999, 100_000, '99.9 %'],
    [398, 399, '99.7 %'],
    [5, 5, '100 %'],
  ])('%d of %d: %s', (part, whole, text) => expect(formatShare(part, whole)).toBe(text));
  it.each([
    [-5, '0 ms'],
    [12.4, '12 ms'],
    [1_234, '1.2 s'],
    [59_960, '1 min'],
    [185_000, '3 min 5 s'],
    [7_800_000, '2 h 10 min'],
    [273_600_000, '3 d 4 h'],
  ])('%d ms: %s', (ms, text) => expect(formatDuration(ms)).toBe(text));
  it('everything but all is never 100 %', () => {
    fc.assert(
      fc.property(fc.nat(100_000), fc.nat(100_000), (a, b) => {
        const [part, whole] = [Math.min(a, b), Math.max(a, b)];
        expect(formatShare(part, whole) === '100 %').toBe(part === whole && whole > 0);
      }),
    );
  });
});

describe('tables', () => {
  it('align columns, numbers to the right, without blanks at the end of lines', () => {
    expect(
      renderTable(
        ['NAME', 'SIZE', 'STATE'],
        [
          ['a', '5', ''],
          ['longer', '1000', 'x'],
        ],
        ['SIZE'],
      ),
    ).toBe('NAME    SIZE  STATE\na          5\nlonger  1000  x\n');
  });
  it('stay tables whatever their values are', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }))),
        (rows) => {
          const text = renderTable(['A', 'B'], rows);
          expect(text.split('\n')).toHaveLength(rows.length + 2);
          expect(printable(text.replaceAll('\n', ''))).toBe(text.replaceAll('\n', ''));
        },
      ),
    );
  });
});

const exitOf = (error: unknown, command?: string) => failureOf(error, command).exit;

describe('errors', () => {
  it('bring an exit code by kind, command or themselves', () => {
    expect(exitOf(new CofaError('unauthorized', 'x'), 'mount')).toBe(4);
    expect(exitOf(new CofaError('unauthorized', 'x'), 'run')).toBe(125);
    expect(exitOf(new StartError(127, 'x'), 'run')).toBe(127);
    expect(exitOf(new Error('bug'), 'mount')).toBe(1);
    expect(exitOf(Object.assign(new Error('full'), { code: 'ENOSPC' }), 'index')).toBe(8);
    expect(failureOf(new Interrupted('SIGTERM'), 'run')).toEqual({ exit: 143, record: undefined });
  });
  it('always have a hint', () => {
    expect(failureOf(new CofaError('not-found', 'x'), 'mount').record?.hint).toMatch(/check the name/);
    expect(failureOf(new CofaError('not-found', 'x', { hint: 'own' }), 'mount').record?.hint).toBe('own');
    expect(failureOf(new CofaError('invalid-argument', 'x'), 'mount').record?.hint).toBe(
      'see: cofa mount --help',
    );
  });
});

const blocks = { absent: 90, fetching: 2, present: 8 };
const bytes = { total: 6_553_600, present: 524_288, fetched: 200_000 };
const status: Status = {
  node: 'n1',
  version: '0.1.0',
  protocol: 2,
  root: '/var/lib/cofa',
  nats: 'nats://127.0.0.1:4222',
  transport: 'kernel',
  startedAt: '2026-01-01T00:00:00.000Z',
  ready: true,
  degraded: ['NATS is away'],
  mounts: [
    {
      id: 'm1',
      dir: '/mnt/a',
      ref: 'docker.io/library/debian:12',
      manifest: 'sha256:aa',
      config: 'sha256:bb',
      configPath: '/x',
      origin: 'node',
      trust: 'proven',
      state: 'mounted',
    },
    {
      id: 'm2',
      dir: '/var/lib/cofa/containers/c1/image',
      ref: 'docker.io/library/debian:12',
      manifest: 'sha256:aa',
      config: 'sha256:bb',
      configPath: '/x',
      origin: 'node',
      trust: 'proven',
      container: 'c1',
      state: 'mounted',
    },
  ],
  images: [
    {
      ref: 'docker.io/library/debian:12',
      manifest: 'sha256:aa',
      state: 'ready',
      origin: 'node',
      trust: 'proven',
      blocks,
      bytes,
      reads: { hits: 3, misses: 1, errors: 0 },
      layers: [{ diffId: `sha256:${'d'.repeat(64)}`, state: 'lazy', blocks, bytes }],
    },
  ],
  cache: {
    usedBytes: 1_500_000,
    metadataBytes: 100_000,
    limitBytes: 20_000_000_000,
    freeBytes: 77_000_000_000,
    reserveBytes: 2_000_000_000,
    evictedBytes: 0,
    prefetch: true,
  },
  processes: [
    { role: 'supervisor', name: 'supervisor', pid: 77, state: 'running', restarts: 0, rssBytes: 80_000_000 },
    { role: 'fetcher', name: 'fetcher-0', pid: 78, state: 'restarting', restarts: 2 },
  ],
};

describe('pages', () => {
  const now = new Date('2026-01-01T00:02:00.000Z');
  it('status tells processes, mounts, and per image blocks, bytes, hit rate and who built the index', () => {
    const text = renderStatus(status, { layers: false, now });
    expect(text).toMatch(/^engine +0\.1\.0, node n1, pid 77, up 2 min$/m);
    expect(text).toMatch(/^degraded +NATS is away$/m);
    expect(text).toMatch(/^cache +1\.50 MB of 20\.0 GB, 77\.0 GB free on the disk$/m);
    expect(text).toMatch(/^fetcher-0 +78 +restarting +- +2 +- +-$/m);
    expect(text).toMatch(/^\/var\/lib\/cofa\/containers\/c1\/image +mounted +c1 +docker/m);
    expect(text).toMatch(
      /^docker\.io\/library\/debian:12 +ready +node +proven +6\.55 MB +8\.0 % +200 kB +90\/2\/8 +75 % +0$/m,
    );
    expect(text).not.toMatch(/dddddddddddd/);
    expect(renderStatus(status, { layers: true, now })).toMatch(/^dddddddddddd +lazy +6\.55 MB/m);
  });
  it('status of an engine that does nothing has no empty tables', () => {
    const text = renderStatus({ ...status, mounts: [], images: [], degraded: [] }, { layers: true, now });
    expect(text).not.toMatch(/IMAGE|MOUNT|degraded/);
  });
  it('ps shows containers and the mounts without an owner', () => {
    const folder = new ContainerFolder('/var/lib/cofa', 'c1');
    const record = {
      v: 1 as const,
      id: 'c1',
      ref: 'debian:12',
      args: ['sh', '-c', 'sleep 100'],
      created: '2026-01-01T00:00:00.000Z',
      owner: { pid: 1, start: '1', boot: 'b' },
      keep: false,
    };
    const text = renderPs([{ id: 'c1', state: 'orphaned', folder, record, pid: 99 }], status, now);
    expect(text).toMatch(/^c1 +orphaned +2 min +8\.0 % +debian:12 +sh -c sleep 100$/m);
    expect(text).toMatch(/^\/mnt\/a +mounted +8\.0 % +node +proven +docker/m);
    expect(text).not.toMatch(/containers\/c1\/image/);
    expect(
      renderPs([{ id: 'c1', state: 'dead', folder, record: undefined, pid: undefined }], undefined, now),
    ).toMatch(/^c1 +dead +- +- +- +-$/m);
  });
  it('inspect tells whether a sidecar is there', () => {
    const view: ImageView = {
      ref: 'docker.io/library/debian:12',
      manifest: 'sha256:aa',
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      platform: 'linux/amd64',
      created: null,
      config: 'sha256:cc',
      size: 50_000_000,
      layers: [
        {
          blob: `sha256:${'1'.repeat(64)}`,
          diffId: `sha256:${'2'.repeat(64)}`,
          mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
          size: 50_000_000,
          compression: null,
          rawSize: null,
          blocks: null,
          spans: null,
        },
      ],
      sidecar: null,
      sidecars: [],
    };
    expect(renderImage(view)).toMatch(/^sidecar +none: /m);
    Object.assign(view.layers[0] ?? {}, {
      compression: 'gzip',
      rawSize: 120_000_000,
      blocks: 1832,
      spans: 115,
    });
    view.sidecar = { digest: 'sha256:ee', size: 500_000, flat: 900_000, files: 6000, devices: 1 };
    const sidecar = { size: 500_000, revision: 1, identities: [], refused: [] };
    view.sidecars = [
      {
        ...sidecar,
        digest: 'sha256:ee',
        signed: 'signed',
        keys: ['release', 'ci'],
        identities: [{ name: 'builds', issuer: 'https://issuer.example', subject: 'dev@team.example' }],
      },
      { ...sidecar, digest: 'sha256:ff', signed: 'out-of-scope', keys: [] },
    ];
    const text = renderImage(view);
    expect(text).toMatch(/^sidecar +sha256:ee, 500 kB = 1\.0 % of the image$/m);
    expect(text).toMatch(
      /^vouched for by +release, ci, builds \(dev@team\.example of https:\/\/issuer\.example\)$/m,
    );
    expect(text).toMatch(
      /^sha256:ff +500 kB +no key: signed by one that may not vouch for this repository$/m,
    );
    expect(text).toMatch(/^0 +111111111111 +222222222222 +gzip +50\.0 MB +120 MB +1832 +115$/m);
  });
  it('an event of lists and numbers is told in words, unless it is damaged', () => {
    const sample = (at: number, busyUs: number) => ({ at, cpus: 2, busyUs, processes: [] });
    const line = (samples: unknown[]) =>
      renderEvent({
        seq: 7,
        time: '2026-01-01T00:00:00.000Z',
        subject: 'cofa.v1.n1.event.engine.main',
        type: 'engine.measured',
        data: { samples },
      });
    expect(line([sample(1_000, 0), sample(3_000, 1e6)])).toMatch(
      /engine\.measured {2}main {2}2 samples in 2\.00 s: 2 processors 25 % busy$/,
    );
    expect(line([{ at: 1 }])).toContain('samples=[{"at":1}]');
  });
  it('an event is one line', () => {
    const line = renderEvent({
      seq: 12,
      time: '2026-01-01T00:00:00.000Z',
      subject: 'cofa.v1.n1.event.mount.0123456789abcdef',
      type: 'mount.requested',
      data: { dir: '/mnt\n/x', n: 5, list: [1, 2] },
    });
    expect(line).toBe(
      '    12  2026-01-01T00:00:00.000Z  mount.requested  0123456789ab  dir=/mnt\\n/x n=5 list=[1,2]',
    );
  });
});

const make = (errIsTerminal: boolean) => {
  let text = '';
  let time = 0;
  let tick: (() => void) | undefined;
  let stopped = false;
  const sink: Sink = { out: () => {}, err: (more) => (text += more), errIsTerminal };
  const view = new ProgressView('indexing x', sink, {
    now: () => time,
    every: (_, work) => {
      tick = work;
      return { stop: () => (stopped = true) };
    },
  });
  return {
    view,
    at: (ms: number) => {
      time = ms;
      tick?.();
    },
    text: () => text,
    stopped: () => stopped,
  };
};

describe('progress', () => {
  it('writes a line every few seconds where there is no terminal', () => {
    const { view, at, text, stopped } = make(false);
    view.update('a', { label: 'layer a', done: 10_000_000, total: 100_000_000 });
    at(100);
    at(2_900);
    expect(text()).toBe('');
    at(3_000);
    view.update('b', { label: 'layer b', done: 0, total: 100_000_000 });
    at(6_100);
    expect(text()).toBe(
      'cofa: indexing x: 10.0 MB of 100 MB (10 %)\ncofa: indexing x: 10.0 MB of 200 MB (5.0 %)\n',
    );
    view.stop();
    expect(stopped()).toBe(true);
    expect(text()).not.toContain('\x1b');
  });

  it('draws over its lines on a terminal and leaves nothing', () => {
    const { view, at, text } = make(true);
    view.update('a', { label: 'layer a', done: 50, total: 100 });
    view.update('b', { label: 'layer\x1b[2J b', done: 100, total: 100 });
    at(100);
    const first = text();
    expect(first).toMatch(
      /^layer a +\[============> +\] 50 % of 100 B\nlayer\\u\{1b\}\[2J b +\[=+\] 100 % of 100 B\nindexing x: 150 B of 200 B \(75 %\)\n$/,
    );
    view.stop();
    expect(text().slice(first.length)).toBe('\x1b[3A\r\x1b[J');
  });

  it('never draws more lines than fit, nor wider ones', () => {
    const { view, at, text } = make(true);
    for (let i = 0; i < 100; i++)
      view.update(`${i}`, { label: `layer ${'x'.repeat(i)}`, done: i, total: 1e12 });
    at(100);
    const lines = text().split('\n');
    expect(lines.length).toBeLessThanOrEqual(14);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(79);
  });

  it('says nothing where no one asks', () => {
    const view = new ProgressView('x', undefined);
    view.update('a', { label: 'a', done: 0, total: undefined });
    view.stop();
  });
});
