/**
 * What goes wrong in a real engine is kept, with the stretch of the event log around it: processes killed, bytes that a registry
 * sends wrong, reads that fail, slow starts, a killed engine. The black box is killed at work, and its disk is full.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startRelay, type Relay } from '../../ops/bench/relay.ts';
import { IncidentList, IncidentShown } from '../../schemas/incidents.ts';
import { unmount } from '../../src/kernel/mount.ts';
import { loadFile } from '../../src/replay/load.ts';
import type { TraceEvent } from '../../src/replay/trace-events.ts';
import { type FaultImage, offsetInTar, pushImage, readPieces, twoLayers } from '../faults/fault-image.ts';
import { FILE, flawsOf } from '../replay/trace-format.ts';
import { type Engine, eventually, mountImage, runCofa, startEngine, untilWell } from '../support/engine.ts';
import { freePort } from '../support/ports.ts';
import { type RegistryServer, startRegistry } from '../support/registry-server.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let work = '';
let storage = '';
let registry: RegistryServer;
let relay: Relay;
let mounts = 0;

/** An engine that keeps incidents, and what its commands say of them. */
class TestNode {
  engine!: Engine;
  root = '';
  /** The port of its metrics. */
  metrics = 0;

  /** Also after its engine was killed. */
  async start(): Promise<void> {
    if (this.root === '') {
      this.root = await cleanup.tempDir('incidents-root');
      this.metrics = await freePort();
    }
    const args = ['--slow-start', '3', '--metrics', String(this.metrics)];
    this.engine = await startEngine({ root: this.root, readDeadlineMs: 5_000, args });
    const { engine } = this;
    cleanup.defer(() => engine.stop());
  }

  async cofa(...args: string[]): Promise<string> {
    const result = await runCofa(args, { env: { COFA_ROOT: this.root } });
    expect(result, result.stderr).toMatchObject({ code: 0 });
    return result.stdout;
  }

  async list() {
    return IncidentList.parse(JSON.parse(await this.cofa('incidents', 'ls', '--json'))).incidents;
  }

  async show(which: string | number) {
    return IncidentShown.parse(JSON.parse(await this.cofa('incidents', 'show', String(which), '--json')));
  }

  /** Waits until so many are kept; returns the last one. */
  async untilKept(count: number) {
    const all = await eventually(
      `${count} incidents`,
      async () => {
        const found = await this.list();
        return found.length >= count && found;
      },
      90_000,
    );
    expect(all).toHaveLength(count);
    return await this.show(all.at(-1)?.number ?? 0);
  }

  /** The pid of the black box that works for it. */
  blackBox(): number | undefined {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
      try {
        const [, parent] = /^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        if (Number(parent) === this.engine.pid && command.includes('black-box')) return Number(pid);
      } catch {
        // It has ended.
      }
    return undefined;
  }

  async prepared(name: string, seed: number, host = registry.host): Promise<FaultImage & { dir: string }> {
    const image = await pushImage(join(work, name), registry.host, name, twoLayers(seed));
    expect((await this.engine.cli(['index', image.ref])).code).toBe(0);
    const ref = image.ref.replace(registry.host, host);
    const dir = join(work, `mnt-${mounts++}`);
    await mountImage(this.engine, ref, dir);
    return { ...image, ref, dir };
  }
}

beforeAll(async () => {
  work = await cleanup.tempDir('incidents');
  storage = join(work, 'storage');
  registry = await startRegistry({ storage });
  cleanup.defer(() => registry.stop());
  relay = await startRelay({ to: { host: '127.0.0.1', port: registry.port }, rate: 6e6, rttMs: 5 });
  cleanup.defer(() => relay.stop());
}, 120_000);
afterAll(() => cleanup.run());

/** Most of the time is waiting, since an incident is kept when it has been quiet for a while: two nodes wait beside each other. */
const BESIDE = { concurrent: true };
const ONE_BY_ONE = { concurrent: false, timeout: 200_000 };

describe('processes that end, and a disk that is full', BESIDE, () => {
  const node = new TestNode();
  beforeAll(() => node.start(), 120_000);

  test(
    'two processes are killed at once, and the black box as well: one incident, kept once',
    ONE_BY_ONE,
    async () => {
      const pids = await node.engine.pids();
      for (const name of ['fetcher-0', 'front-end']) process.kill(pids[name] as number, 'SIGKILL');
      const box = await eventually('the black box runs', () => node.blackBox(), 40_000);
      process.kill(box, 'SIGKILL');
      const incident = await node.untilKept(1);
      expect(incident).toMatchObject({
        kind: 'crash',
        times: 2,
        more: 0,
        summary: expect.stringMatching(/(fetcher-0|front-end): killed by SIGKILL/),
      });
      expect(incident.causes.map(({ of }) => of).sort()).toEqual(['fetcher-0', 'front-end']);
      expect(incident.story.join(' ')).toMatch(
        /front-end was killed by SIGKILL at .* UTC\. The supervisor started another one .* later, process \d+\./,
      );
      expect(incident.relevant.filter(({ type }) => type === 'process.ended')).toHaveLength(2);
      const metrics = await (await fetch(`http://127.0.0.1:${node.metrics}/metrics`)).text();
      expect(metrics.split('\n').filter((line) => line.startsWith('cofa_incidents_total'))).toEqual([
        'cofa_incidents_total{kind="integrity"} 0',
        'cofa_incidents_total{kind="eio"} 0',
        'cofa_incidents_total{kind="crash"} 1',
        'cofa_incidents_total{kind="slow-start"} 0',
      ]);
      // Every command that reads an exported log reads it.
      const events = (await node.cofa('replay', incident.file as string, '--events', '--json'))
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      expect(events).toHaveLength(incident.events);
      expect(
        events
          .filter(({ type }) => type === 'process.ended')
          .map(({ data }) => data.name)
          .sort(),
      ).toEqual(['fetcher-0', 'front-end']);
      const text = await node.cofa('incidents', 'show');
      for (const { command } of incident.next) expect(text).toContain(command);
      await node.cofa(
        ...(incident.next
          .find(({ command }) => command.startsWith('cofa replay'))
          ?.command.split(' ')
          .slice(1) ?? []),
        '--at',
        'end',
      );
      await untilWell(node.engine);
    },
  );

  test('a full disk loses the incident and nothing else', ONE_BY_ONE, async () => {
    const dir = join(node.root, 'incidents');
    const before = await node.list();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'full', dir]);
    cleanup.defer(() => unmount(dir, { lazy: true }).catch(() => {}));
    process.kill((await node.engine.pids())['fetcher-1'] as number, 'SIGKILL');
    await eventually(
      'it is said',
      () => node.engine.log('supervisor').includes('incidents could not be kept'),
      60_000,
    );
    expect(readdirSync(dir).filter((name) => name.includes('cofa-log') || name.endsWith('.draft'))).toEqual(
      [],
    );
    await unmount(dir, { lazy: true });
    await untilWell(node.engine);
    expect(await node.list()).toEqual(before);
  });

  test(
    'a killed engine is an incident of the next one, and none is lost or doubled',
    ONE_BY_ONE,
    async () => {
      const before = await node.list();
      process.kill(node.engine.pid, 'SIGKILL');
      await node.engine.ended;
      await node.engine.stop();
      await node.start();
      // The one that found no room is found again: the place was not written, nor is it lost.
      const all = await eventually(
        'the crash of the engine is kept',
        async () => {
          const found = await node.list();
          return found.some(({ summary }) => summary === 'the engine crashed') && found;
        },
        90_000,
      );
      expect(all.slice(0, before.length)).toEqual(before);
      expect(new Set(all.map(({ number }) => number)).size).toBe(all.length);
      const crash = await node.show(all.at(-1)?.number ?? 0);
      expect(crash.story.join(' ')).toMatch(
        /The engine ended without a word.*Its last event was .* Another one started at/,
      );
      const { log, close } = await loadFile(crash.file as string);
      expect(log.notes).toEqual([]);
      await close();

      await node.cofa('incidents', 'rm', String(crash.number));
      expect((await node.list()).map(({ number }) => number)).not.toContain(crash.number);
      const gone = await runCofa(['incidents', 'show', String(crash.number)], {
        env: { COFA_ROOT: node.root },
      });
      expect(gone).toMatchObject({
        code: 3,
        stderr: expect.stringContaining(`there is no incident ${crash.number}`),
      });
    },
  );
});

describe('what readers notice', BESIDE, () => {
  const node = new TestNode();
  beforeAll(() => node.start(), 120_000);

  test('a start over a slow link, and a read that a dead registry lets fail', ONE_BY_ONE, async () => {
    const image = await node.prepared('slow', 9_100, relay.host);
    // 4 MB of noise at 6 Mbit/s, in order.
    expect(
      await readPieces(join(image.dir, 'app/noise'), image.files.get('app/noise') as Buffer, {
        pieceSize: 1 << 20,
      }),
    ).not.toContain('EIO');
    const slow = await node.untilKept(1);
    expect(slow).toMatchObject({ kind: 'slow-start', summary: `the start of ${image.ref} was slow` });
    expect(slow.story[0]).toMatch(/took (at least )?\d.*: .*reads \d/);
    const why = slow.next.find(({ command }) => command.includes(' why '))?.command.split(' ') ?? [];
    expect(await node.cofa(...why.slice(1))).toContain('reads');
    // The same start for Perfetto, by the rules of its format.
    const trace = join(work, 'start.json');
    await node.cofa('replay', 'export', slow.file as string, '--mount', image.dir, '--perfetto', trace);
    const { traceEvents } = FILE.parse(JSON.parse(readFileSync(trace, 'utf8')));
    expect(flawsOf(traceEvents as TraceEvent[])).toEqual([]);
    for (const name of ['prepare', 'attach', 'mount', 'transfer'])
      expect(traceEvents.some((event) => event.ph === 'X' && event.name === name)).toBe(true);

    relay.stop();
    const outcomes = await readPieces(
      join(image.dir, 'lib/noise'),
      (image.files.get('lib/noise') as Buffer).subarray(0, 65_536),
      { pieceSize: 65_536 },
    );
    expect(outcomes).toContain('EIO');
    const failed = await node.untilKept(2);
    expect(failed).toMatchObject({ kind: 'eio' });
    expect(failed.story.join(' ')).toMatch(
      /got an error instead of data.*Their blocks hold .*\/lib\/noise.*Its fetches failed: unavailable/,
    );
    const read = failed.next.find(({ command }) => command.includes('--read'))?.command.split(' ') ?? [];
    expect(await node.cofa(...read.slice(1))).toContain('block');
    await node.engine.cli(['unmount', image.dir]);
  });

  test(
    'a registry that sends other bytes: an incident of integrity, and none of them was served',
    ONE_BY_ONE,
    async () => {
      const image = await node.prepared('bad', 9_200);
      const digest = image.blobs[0]?.digest.slice('sha256:'.length) as string;
      const path = join(storage, 'docker/registry/v2/blobs/sha256', digest.slice(0, 2), digest, 'data');
      const blob = await readFile(path);
      const content = image.files.get('app/noise') as Buffer;
      // Noise is not compressed: what lies there in the blob is near what lies there in the file.
      const at = Math.floor(
        blob.length *
          ((offsetInTar(image.tars[0] as Buffer, content) + content.length / 2) /
            (image.tars[0] as Buffer).length),
      );
      await writeFile(
        path,
        Buffer.concat([blob.subarray(0, at), Buffer.alloc(65_536, 7), blob.subarray(at + 65_536)]),
      );
      const outcomes = await readPieces(join(image.dir, 'app/noise'), content, { exact: true });
      expect([...new Set(outcomes)].sort()).toEqual(['EIO', 'ok']);
      const incident = await node.untilKept(3);
      expect(incident.kind).toBe('integrity');
      expect(incident.story[0]).toMatch(
        /^Fetched bytes of layer \w{12} were refused.*None of them was served\.$/,
      );
      expect(incident.causes.map(({ kind }) => kind).sort()).toEqual(['eio', 'integrity']);
      await node.engine.cli(['unmount', image.dir]);
    },
  );
});
