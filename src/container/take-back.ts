/** Takes back a mount whose caller no longer wants it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import type { CallEngine } from '../client/call.ts';

/** An engine that is in the middle of the mount answers `busy`; this asks it again for so long, ms. */
const PATIENCE_MS = 15_000;

/**
 * Unmounts `dir` after its mount was aborted. The engine may not know of it yet, or be in the middle of it. Errors:
 * those of `unmount`; `busy` when it stays so.
 */
export async function takeBack(engine: { readonly call: CallEngine }, dir: string): Promise<void> {
  for (const deadline = performance.now() + PATIENCE_MS; ; await sleep(100)) {
    try {
      await engine.call('unmount', { dir }, { timeoutMs: PATIENCE_MS });
      return;
    } catch (error) {
      const busy = error instanceof CofaError && error.code === 'busy';
      if (!busy || performance.now() > deadline) throw error;
    }
  }
}
