/**
 * The strict check of flat metadata (src/image/erofs-check.ts) for processes whose event loop has other work: in small steps.
 * Metadata of more than 32 MiB are for a process of their own (src/indexer/unpacker.ts).
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { checkFlat, checkFlatInSteps } from '../image/erofs-check.ts';

/** Smaller metadata are checked in one step, bytes. */
const SMALL = 64 << 10;

/** As checkFlat. */
export async function checkFlatAside(metadata: Buffer): Promise<ReturnType<typeof checkFlat>> {
  if (metadata.length <= SMALL) return checkFlat(metadata);
  const check = checkFlatInSteps(metadata);
  for (;;) {
    const { done, value } = check.next();
    if (done === true) return value;
    await nextTurn();
  }
}
