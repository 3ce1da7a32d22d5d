/**
 * The strict check of flat metadata (src/image/erofs-check.ts) where the event loop has others to serve: a large image
 * is checked in a thread (0.25 s for 200,000 inodes).
 */
import { Worker } from 'node:worker_threads';
import { type ErrorRecord, fromErrorRecord } from '../../schemas/errors.ts';
import { checkFlat } from '../image/erofs-check.ts';

type Checked = ReturnType<typeof checkFlat>;
export type FromCheckThread = { ok: true; checked: Checked } | { ok: false; error: ErrorRecord };

/** Smaller ones are checked in less time than a thread takes to start, bytes. */
const SMALL = 1 << 20;

/** As checkFlat. `metadata` stays usable. */
export async function checkFlatAside(metadata: Buffer): Promise<Checked> {
  if (metadata.length <= SMALL) return checkFlat(metadata);
  const worker = new Worker(new URL('./check-thread.ts', import.meta.url), { workerData: metadata });
  return await new Promise<Checked>((resolve, reject) => {
    worker.once('message', (message: FromCheckThread) => {
      if (message.ok) resolve(message.checked);
      else reject(fromErrorRecord(message.error));
    });
    worker.once('error', reject);
    worker.once('exit', () => reject(new Error('the thread that checks flat metadata ended')));
  });
}
