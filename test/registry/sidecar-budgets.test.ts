/** What a process holds of sidecars at a time: images by the dozen, of one registry and of another that says nothing. */
import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { withinBudgets } from '../../src/registry/sidecar-budgets.ts';
import type { PartKind } from '../../src/registry/sidecar-limits.ts';

const MIB = 1 << 20;

function meter() {
  const held = { now: 0, most: 0 };
  const part = (registry: string, kind: PartKind, size: number, inside: () => Promise<unknown> = turn) =>
    withinBudgets({
      registry,
      kind,
      packed: 1000,
      unpacked: size,
      fetch: async () => Buffer.alloc(0),
      unpack: async (body) => {
        held.now += size;
        held.most = Math.max(held.most, held.now);
        await turn();
        return body;
      },
      work: async () => {
        await inside();
        held.now -= size;
      },
    });
  return { held, part };
}

test('six tables that unpack to 60 MiB each are never held together', async () => {
  const { held, part } = meter();
  await Promise.all(Array.from({ length: 6 }, () => part('a', 'spans', 60 * MIB)));
  expect(held).toEqual({ now: 0, most: 60 * MIB });
});

test('twenty images at once, each of whose flat metadata waits for its tables, all get through', async () => {
  const { held, part } = meter();
  const images = Array.from({ length: 20 }, () => {
    const tables = Promise.all(Array.from({ length: 5 }, () => part('a', 'spans', 20 * MIB)));
    return part('a', 'flat', 40 * MIB, () => tables);
  });
  await Promise.all(images);
  expect(held.now).toBe(0);
  expect(held.most).toBeLessThanOrEqual(2 * 64 * MIB);
});

test('a registry that never answers is in the way of its own images alone', async () => {
  const { part } = meter();
  const silent = withinBudgets({
    registry: 'silent',
    kind: 'spans',
    packed: 200 * MIB,
    unpacked: 200 * MIB,
    fetch: () => new Promise<Buffer>(() => {}),
    unpack: async (body) => body,
    work: async () => {},
  });
  silent.catch(() => {});
  await part('a', 'spans', 200 * MIB);
});

test('what fails gives its bytes back', async () => {
  const { part } = meter();
  const failing = (step: 'fetch' | 'unpack' | 'work') => {
    const fail = async () => {
      throw new Error(step);
    };
    const fine = async () => Buffer.alloc(0);
    return withinBudgets({
      registry: 'a',
      kind: 'toc',
      packed: 60 * MIB,
      unpacked: 60 * MIB,
      fetch: step === 'fetch' ? fail : fine,
      unpack: step === 'unpack' ? fail : fine,
      work: step === 'work' ? fail : fine,
    });
  };
  for (const step of ['fetch', 'unpack', 'work'] as const) await expect(failing(step)).rejects.toThrow(step);
  await part('a', 'toc', 64 * MIB);
});
