/**
 * What an image may write of the disk while a node indexes it. The indexer writes each device whole, also where a container
 * reads little of it, and no event tells the cache of them before they are proven. So the threads that write them count together: a
 * few KB of gzip or zstd may be all that fills a disk.
 *
 * The cache sees the same bytes as files that grow (src/front-end/cache-sizes.ts) and evicts what it can to make room.
 */
import { CofaError } from '../../schemas/errors.ts';

/** Plain data, which threads share. */
export interface RawBudget {
  /** Bytes that all threads have taken. */
  taken: BigInt64Array<SharedArrayBuffer>;
  /** Bytes that they may take together; Infinity: no limit but the disk's. */
  most: number;
  /** Bytes of the disk that they leave free. */
  reserve: number;
}

/** Nothing is taken yet; both in bytes. */
export const rawBudget = (most: number, reserve: number): RawBudget => ({
  taken: new BigInt64Array(new SharedArrayBuffer(8)),
  most,
  reserve,
});

/** For so many bytes that are about to be written. Error `no-space`. */
export function takeRaw({ taken, most }: RawBudget, bytes: number): void {
  const before = Number(Atomics.add(taken, 0, BigInt(bytes)));
  if (before + bytes <= most) return;
  throw new CofaError('no-space', `indexing the image takes more than the ${most} bytes of the cache`, {
    hint: 'raise --cache-limit, or prepare the image elsewhere with `cofa index`: then only what is read comes here',
  });
}

/** Bytes that were taken, and whose file was deleted: of a layer that is read again from another host. */
export function giveRawBack({ taken }: RawBudget, bytes: number): void {
  Atomics.sub(taken, 0, BigInt(bytes));
}
