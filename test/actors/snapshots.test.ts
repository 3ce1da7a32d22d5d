import { describe, expect, test } from 'vitest';
import {
  type Decision,
  type FlatLayer,
  SnapshotError,
  type SnapshotEvent,
  SnapshotTable,
  TARGET_LABEL,
} from '../../actors/snapshots.ts';

const time = { sec: 1, nsec: 2 };
const usage = { size: 4096, inodes: 1 };
const digest = (digit: string) => `sha256:${digit.repeat(64)}`;
const flat = (digit: string, layers: number): FlatLayer => ({
  chain: digest(digit),
  ref: 'r',
  manifest: digest('a'),
  layers,
  diffId: digest('d'),
});

/** A table with helpers that decide and apply at once. */
function table() {
  const snapshots = new SnapshotTable();
  let next = 0;
  const apply = ({ id, event }: Decision) => snapshots.apply(id, { v: 1, at: 0, ...event } as SnapshotEvent);
  const prepare = (key: string, parent = '', labels: Record<string, string> = {}) =>
    apply(snapshots.prepare({ id: `i${next++}`, kind: 'active', key, parent, labels, time }));
  const commit = (name: string, key: string, parent = '') =>
    apply(snapshots.commit({ name, key, parent, labels: {}, time, usage }));
  const layer = (name: string, parent = '') => {
    prepare(`${name}-key`, parent);
    commit(name, `${name}-key`);
  };
  const adopt = (target: string, parent: string, of: FlatLayer) => {
    const decision = snapshots.adopt({ id: `i${next++}`, target, parent, labels: {}, time, flat: of });
    if (decision !== undefined) apply(decision);
    return decision;
  };
  return { snapshots, apply, prepare, commit, layer, adopt };
}

const codeOf = (call: () => unknown): string => {
  try {
    call();
    return 'done';
  } catch (error) {
    if (error instanceof SnapshotError) return error.code;
    throw error;
  }
};

describe('decisions about snapshots', () => {
  test('of several things that are wrong, the one is named that containerd names first', () => {
    const { snapshots, prepare, layer, commit } = table();
    layer('c');
    prepare('a', 'c');
    expect(codeOf(() => prepare('a', 'none'))).toBe('not-found');
    expect(codeOf(() => prepare('a', 'a'))).toBe('invalid-argument');
    expect(codeOf(() => prepare('a', 'c'))).toBe('already-exists');
    expect(codeOf(() => prepare(''))).toBe('invalid-argument');
    expect(codeOf(() => commit('c', 'none'))).toBe('not-found');
    expect(codeOf(() => commit('c', 'a'))).toBe('already-exists');
    expect(codeOf(() => commit('d', 'c'))).toBe('failed-precondition');
    expect(codeOf(() => snapshots.parts('c'))).toBe('failed-precondition');
    expect(codeOf(() => snapshots.remove('c'))).toBe('failed-precondition');
    expect(codeOf(() => snapshots.remove('none'))).toBe('not-found');
  });

  test('a parent can be given on commit only where there was none', () => {
    const { snapshots, prepare, layer, commit } = table();
    layer('c');
    layer('other');
    prepare('on-c', 'c');
    expect(codeOf(() => commit('x', 'on-c', 'other'))).toBe('invalid-argument');
    commit('x', 'on-c', 'c');
    prepare('on-nothing');
    expect(codeOf(() => commit('y', 'on-nothing', 'none'))).toBe('not-found');
    commit('y', 'on-nothing', 'c');
    expect(snapshots.stat('y').parent).toBe('c');
    expect(codeOf(() => snapshots.remove('c'))).toBe('failed-precondition');
  });

  test('names of any kind are names, and nothing of them is in an id', () => {
    const { snapshots, prepare } = table();
    for (const name of [
      '../../etc',
      '.',
      '>',
      '*',
      'a b\n\0',
      '__proto__',
      'constructor',
      '𝄞'.repeat(1000),
    ]) {
      prepare(name, '', { __proto__x: 'y', constructor: 'c' });
      expect(snapshots.stat(name)).toMatchObject({ name, kind: 'active' });
      expect(snapshots.stat(name).id).toMatch(/^i\d+$/);
    }
    expect(codeOf(() => prepare('k'.repeat(20_000)))).toBe('invalid-argument');
  });

  test('labels above the limit are refused, empty ones are none', () => {
    const { snapshots, prepare } = table();
    prepare('a', '', { empty: '', l: 'x'.repeat(4095) });
    expect(Object.keys(snapshots.stat('a').labels)).toEqual(['l']);
    expect(codeOf(() => prepare('b', '', { l: 'x'.repeat(4096) }))).toBe('invalid-argument');
    const many = Object.fromEntries(Array.from({ length: 100 }, (_, at) => [`l${at}`, 'x'.repeat(4000)]));
    expect(codeOf(() => prepare('b', '', many))).toBe('invalid-argument');
  });

  test('a flat layer shows all below it, so nothing below it is mounted', () => {
    const { snapshots, prepare, layer, adopt } = table();
    layer('u1');
    adopt('t2', 'u1', flat('2', 2));
    layer('u3', 't2');
    layer('u4', 'u3');
    prepare('run', 'u4');
    const { folders, flat: below } = snapshots.parts('run');
    expect(below).toEqual(flat('2', 2));
    expect(folders).toEqual([snapshots.stat('u4').id, snapshots.stat('u3').id]);
    expect(snapshots.below('u1')).toEqual({ folders: [snapshots.stat('u1').id], flat: undefined });
  });

  test('what a client wants is adopted once for each parent, and found by its label', () => {
    const { snapshots, layer, adopt } = table();
    layer('p');
    expect(adopt(digest('1'), '', flat('1', 1))?.event).toMatchObject({ name: digest('1') });
    expect(adopt(digest('1'), '', flat('1', 1))).toBeUndefined();
    expect(adopt(digest('1'), 'p', flat('1', 1))?.event).not.toMatchObject({ name: digest('1') });
    for (const parent of ['', 'p']) {
      expect(snapshots.findTarget(digest('1'), parent)).toMatchObject({
        parent,
        kind: 'committed',
        labels: { [TARGET_LABEL]: digest('1') },
      });
    }
  });

  test('a table made from the folded facts decides as the one that saw the events', () => {
    const { snapshots, prepare, layer } = table();
    layer('c');
    prepare('a', 'c');
    const facts = new Map([...snapshots.all()].map((one) => [one.id, one]));
    const again = new SnapshotTable(facts);
    expect(again.stat('a')).toEqual(snapshots.stat('a'));
    expect(codeOf(() => again.remove('c'))).toBe('failed-precondition');
  });
});
