/**
 * What a process holds of sidecars' parts at a time. Each registry has budgets of its own: one that is slow on purpose, or
 * serves parts as large as can be, is in the way of its own images alone.
 *
 *     fetch (room for packed bytes) ─▶ unpack (room for unpacked ones) ─▶ packed ones go ─▶ work ─▶ unpacked ones go
 *
 * Work with flat metadata waits for tables, and work with a table for nothing: flat metadata have budgets apart, so that
 * no one waits in a circle.
 */
import { ByteBudget } from './byte-budget.ts';
import type { PartKind } from './sidecar-limits.ts';

/** Bytes of the flat metadata, and of all tables, of one registry; a part that is larger comes alone. */
const HELD = 64 << 20;
/** Parts of so few bytes do not wait; an image has 1024 layers at most. */
const SMALL = 64 << 10;

interface Budgets {
  packed: ByteBudget;
  unpacked: ByteBudget;
  /** Work that has, or waits for, some of them. */
  users: number;
}

/** By registry and kind, while there is work. */
const known = new Map<string, Budgets>();

export interface PartWork<T> {
  registry: string;
  kind: PartKind | 'hints';
  /** Bytes. */
  packed: number;
  unpacked: number;
  fetch: () => Promise<Buffer>;
  unpack: (body: Buffer) => Promise<Buffer>;
  work: (bytes: Buffer) => Promise<T>;
  signal?: AbortSignal | undefined;
}

/** Fetches, unpacks and uses a part within the budgets of its registry. Errors: those of the steps, the signal's reason. */
export async function withinBudgets<T>(part: PartWork<T>): Promise<T> {
  if (part.packed <= SMALL && part.unpacked <= SMALL)
    return await part.work(await part.unpack(await part.fetch()));
  const key = `${part.registry} ${part.kind === 'flat' ? 'flat' : 'tables'}`;
  const budgets = known.get(key) ?? {
    packed: new ByteBudget(HELD),
    unpacked: new ByteBudget(HELD),
    users: 0,
  };
  known.set(key, budgets);
  budgets.users += 1;
  try {
    return await inTurn(part, budgets);
  } finally {
    budgets.users -= 1;
    if (budgets.users === 0) known.delete(key);
  }
}

async function inTurn<T>(part: PartWork<T>, { packed, unpacked }: Budgets): Promise<T> {
  const { fetch, unpack, work, signal } = part;
  const releasePacked = await packed.lease(part.packed, signal);
  let release: (() => void) | undefined;
  try {
    let bytes: Buffer;
    try {
      const body = await fetch();
      release = await unpacked.lease(part.unpacked, signal);
      bytes = await unpack(body);
    } finally {
      releasePacked();
    }
    return await work(bytes);
  } finally {
    release?.();
  }
}
