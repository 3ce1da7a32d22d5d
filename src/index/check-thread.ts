/** A thread that checks one flat image; started by check-flat.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { toErrorRecord } from '../../schemas/errors.ts';
import { checkFlat } from '../image/erofs-check.ts';
import type { FromCheckThread } from './check-flat.ts';

const answer = (message: FromCheckThread) => parentPort?.postMessage(message, []);
try {
  const { buffer, byteOffset, byteLength } = workerData as Uint8Array<ArrayBuffer>;
  answer({ ok: true, checked: checkFlat(Buffer.from(buffer, byteOffset, byteLength)) });
} catch (error) {
  answer({ ok: false, error: toErrorRecord(error) });
}
