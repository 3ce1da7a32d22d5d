/** Phases of a start for metrics: the same that `cofa replay why --start` tells of the same log. */
import { expect, test } from 'vitest';
import { layersOfImage } from '../../actors/device.ts';
import { idOf } from '../../actors/node-state.ts';
import { StartWatcher } from '../../actors/start-times.ts';
import type { CofaEvent } from '../../schemas/events.ts';
import { decode } from '../../src/bus/connection.ts';
import { findMount, phasesOf } from '../../src/replay/start-phases.ts';
import { logOf, MOUNT, sampleRecords, START } from '../replay/sample-log.ts';

const mountedAt = START + 350;

function watch(order: (records: ReturnType<typeof sampleRecords>) => ReturnType<typeof sampleRecords>) {
  const log = logOf(sampleRecords());
  const watcher = new StartWatcher((manifest) => {
    const image = log.stateAt(log.count).images.get(manifest);
    return image === undefined ? new Set() : layersOfImage(image);
  });
  for (const { subject, bytes } of order(sampleRecords()))
    watcher.take(idOf(subject), decode(bytes) as CofaEvent);
  return watcher;
}

test('metrics and the replay tell the same phases, also where another process’s events come late', () => {
  const log = logOf(sampleRecords());
  const mount = findMount(log, MOUNT);
  const told = phasesOf(log, mount, mountedAt)
    .filter(({ phase }) => phase !== 'resolve')
    .map(({ phase, at, end }) => [phase, (end - at) / 1000]);
  expect(told).toEqual([
    ['prepare', 0.19],
    ['attach', 0.025],
    ['mount', 0.025],
  ]);
  const isLate = ({ subject, bytes }: { subject: string; bytes: Uint8Array }) =>
    subject.includes('.layer.') && (decode(bytes) as CofaEvent).type === 'layer.opened';
  for (const order of [
    (records: ReturnType<typeof sampleRecords>) => records,
    (records: ReturnType<typeof sampleRecords>) => [
      ...records.filter((record) => !isLate(record)),
      ...records.filter(isLate),
    ],
  ]) {
    const watcher = watch(order);
    expect(watcher.settled(mountedAt + 500)).toEqual([]);
    expect(watcher.settled(mountedAt + 1_000)).toMatchObject([{ prepared: 'sidecar', phases: told }]);
    expect(watcher.settled(mountedAt + 9_000)).toEqual([]);
  }
});

test('a mount that fails is no start', () => {
  const watcher = new StartWatcher(() => new Set());
  const base = { v: 1, at: 0 } as const;
  watcher.take('m1', {
    ...base,
    type: 'mount.requested',
    id: 'm1',
    dir: '/m',
    ref: 'r',
    manifest: 'sha256:0',
    prefetch: false,
    asked: 0,
  });
  watcher.take('m1', { ...base, type: 'mount.failed', code: 'unavailable', message: '' });
  watcher.take('m1', { ...base, type: 'mount.mounted' });
  expect(watcher.settled(1e9)).toEqual([]);
});
