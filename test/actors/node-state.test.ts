import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { emptyNode, foldEvent, foldLayer, type LayerFacts, presentRanges } from '../../actors/node-state.ts';
import type { CofaEvent, NewEvent } from '../../schemas/events.ts';
import { pairsOf } from '../../actors/ranges.ts';

const hex = 'ab'.repeat(32);
const digest = `sha256:${hex}`;
const event = (fields: NewEvent): CofaEvent => ({ v: 1, at: 0, ...fields }) as CofaEvent;
const opened = event({
  type: 'layer.opened',
  size: 10 * 65536,
  blockSize: 65536,
  blockCount: 10,
  blob: digest,
});

describe('fold of the event log', () => {
  test('a mount lives from its request to its end', () => {
    const state = emptyNode();
    const requested = {
      type: 'mount.requested',
      id: 'm',
      dir: '/d',
      ref: 'r',
      manifest: digest,
      prefetch: true,
    } as const;
    foldEvent(state, 'm', event(requested));
    expect(state.mounts.get('m')?.state).toBe('requested');
    foldEvent(state, 'm', event({ type: 'mount.mounted' }));
    foldEvent(state, 'm', event({ type: 'mount.detached', reason: 'engine-stopped' }));
    expect(state.mounts.get('m')).toMatchObject({ state: 'detached', dir: '/d' });
    foldEvent(state, 'm', event({ type: 'mount.unmounted' }));
    expect(state.mounts.size).toBe(0);
  });

  test('a process that was started again runs, and how it ended is known', () => {
    const state = emptyNode();
    const process = { role: 'fetcher', name: 'fetcher-0' } as const;
    foldEvent(state, 'main', event({ type: 'process.started', ...process, pid: 1 }));
    // The log may hear of the end after the next start.
    foldEvent(state, 'main', event({ type: 'process.started', ...process, pid: 2 }));
    foldEvent(state, 'main', event({ type: 'process.ended', ...process, pid: 1, signal: 'SIGKILL' }));
    expect(state.processes.get('fetcher-0')).toMatchObject({
      pid: 2,
      starts: 2,
      lastEnd: { signal: 'SIGKILL', code: undefined },
    });
    foldEvent(state, 'main', event({ type: 'process.ended', ...process, pid: 2, code: 1 }));
    expect(state.processes.get('fetcher-0')?.pid).toBeUndefined();
    foldEvent(state, 'main', event({ type: 'engine.started', pid: 3, version: '1', transport: 'kernel' }));
    expect(state.processes.size).toBe(0);
  });

  test('blocks reported twice count once, and blocks beyond the end not at all', () => {
    const layers = new Map<string, LayerFacts>();
    foldLayer(layers, digest, opened as never);
    foldLayer(
      layers,
      digest,
      event({
        type: 'layer.blocks',
        ranges: [
          [2, 3],
          [4, 1],
          [9, 5],
        ],
      }) as never,
    );
    expect(layers.get(digest)).toMatchObject({ presentCount: 4 });
    expect(presentRanges(layers.get(digest)?.present ?? new Uint8Array())).toEqual([
      [2, 3],
      [9, 1],
    ]);
  });

  test('a layer opened again keeps its blocks; a dropped one has none', () => {
    const layers = new Map<string, LayerFacts>();
    foldLayer(layers, digest, opened as never);
    foldLayer(layers, digest, event({ type: 'layer.blocks', ranges: [[0, 10]] }) as never);
    foldLayer(layers, digest, event({ type: 'layer.completed', digest }) as never);
    foldLayer(layers, digest, opened as never);
    expect(layers.get(digest)).toMatchObject({ presentCount: 10, complete: true });
    foldLayer(layers, digest, event({ type: 'layer.dropped', reason: 'corrupt', message: '' }) as never);
    expect(layers.get(digest)).toMatchObject({ presentCount: 0, complete: false });
  });

  test('damage is known until a scrub of all blocks finds none', () => {
    const layers = new Map<string, LayerFacts>();
    const fold = (fields: NewEvent) => foldLayer(layers, digest, event(fields) as never);
    const damaged = () => layers.get(digest)?.damaged;
    foldLayer(layers, digest, opened as never);
    fold({ type: 'layer.blocks', ranges: [[0, 10]] });
    // The scrub that takes it out may never say how it ended.
    fold({ type: 'layer.evicted', ranges: [[3, 2]], reason: 'scrub' });
    expect(damaged()).toMatchObject({ bad: 2, repaired: 0, kept: 0 });
    fold({ type: 'layer.scrubbed', blocks: 10, bad: 3, repaired: 1, kept: 1 });
    expect(damaged()).toMatchObject({ bad: 3, repaired: 1, kept: 1 });
    for (const scope of ['newest', 'part'] as const)
      fold({ type: 'layer.scrubbed', blocks: 4, bad: 0, repaired: 0, scope });
    fold({ type: 'layer.evicted', ranges: [[0, 1]], reason: 'limit' });
    expect(damaged()).toMatchObject({ bad: 3 });
    fold({ type: 'layer.scrubbed', blocks: 7, bad: 0, repaired: 0 });
    expect(damaged()).toBeUndefined();
  });

  test('a refutation stays until the registry offers what the node has built', () => {
    const [forged, own] = [`sha256:${'1'.repeat(64)}`, `sha256:${'2'.repeat(64)}`];
    const sidecar = `sha256:${'3'.repeat(64)}`;
    const state = emptyNode();
    const resolved = {
      ref: 'r',
      registry: 'h',
      repository: 'r',
      manifest: digest,
      config: digest,
      layers: [],
    };
    const fold = (fields: NewEvent) => foldEvent(state, hex, event(fields));
    fold({ type: 'image.resolved', ...resolved });
    fold({ type: 'image.prepared', origin: 'sidecar', sidecar, flat: forged, devices: [] });
    fold({ type: 'image.refuted', flat: forged, sidecar, message: 'another mode' });
    fold({ type: 'image.prepared', origin: 'node', flat: own, devices: [] });
    fold({ type: 'image.verified', flat: own });
    fold({ type: 'image.resolved', ...resolved });
    expect(state.images.get(digest)).toMatchObject({ verified: own, refuted: { flat: forged, sidecar } });
    fold({ type: 'image.verified', flat: own, sidecar: digest });
    expect(state.images.get(digest)).toMatchObject({ verified: own, refuted: undefined });
  });

  test('an engine on another root has the mounts of the node and none of its blocks', () => {
    const state = emptyNode();
    const started = (root: string) =>
      foldEvent(
        state,
        'main',
        event({ type: 'engine.started', pid: 1, version: '0', transport: 'kernel', root }),
      );
    started('a');
    foldEvent(state, hex, opened);
    foldEvent(state, hex, event({ type: 'layer.blocks', ranges: [[0, 10]] }));
    foldEvent(state, hex, event({ type: 'layer.completed', digest }));
    started('a');
    expect(state).toMatchObject({ crashed: true, root: 'a' });
    expect(state.layers.get(digest)).toMatchObject({ presentCount: 10, complete: true });
    foldEvent(state, 'main', event({ type: 'engine.stopped' }));
    started('b');
    expect(state).toMatchObject({ crashed: false, root: 'b' });
    expect(state.layers.get(digest)).toMatchObject({ presentCount: 0, complete: false });
  });

  test('events in an order that cannot be are ignored, never thrown at', () => {
    const events: NewEvent[] = [
      { type: 'mount.mounted' },
      { type: 'mount.unmounted' },
      { type: 'image.failed', code: 'x', message: 'y' },
      { type: 'layer.blocks', ranges: [[0, 1]] },
      { type: 'layer.completed', digest },
      { type: 'layer.handed-over' },
    ];
    const state = emptyNode();
    for (const fields of events) foldEvent(state, hex, event(fields));
    expect(state).toEqual(emptyNode());
  });

  test('presentRanges is the inverse of the fold for any set of blocks', () => {
    fc.assert(
      fc.property(fc.uint8Array({ max: 1, minLength: 1, maxLength: 300 }), (blocks) => {
        const layers = new Map<string, LayerFacts>();
        const size = blocks.length * 65536;
        foldLayer(layers, digest, { ...(opened as object), size, blockCount: blocks.length } as never);
        const ranges = pairsOf(presentRanges(blocks));
        foldLayer(layers, digest, event({ type: 'layer.blocks', ranges }) as never);
        expect(layers.get(digest)?.present).toEqual(blocks);
        expect(layers.get(digest)?.presentCount).toBe(blocks.reduce((sum, block) => sum + block, 0));
      }),
    );
  });
});
