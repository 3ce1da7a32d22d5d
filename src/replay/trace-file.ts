/** Writes a trace (trace-events.ts) into a file, entry by entry: memory does not grow with it. */
import { open, rename, rm, stat } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import type { ReplayLog } from './replay-log.ts';
import { type Stretch, traceEvents } from './trace-events.ts';
import { noNewFile } from './new-file.ts';

/** Characters that are written together. */
const PIECE = 1 << 20;

/** The whole file, or none. Errors: `conflict` where it exists and may not be replaced, `not-found`
 * where its folder is missing; others of the file system. */
export async function writeTrace(
  log: ReplayLog,
  stretch: Stretch,
  path: string,
  { replace, mount }: { replace: boolean; mount: string | undefined },
): Promise<{ entries: number; bytes: number }> {
  if (!replace && (await stat(path).catch(() => undefined)) !== undefined)
    throw new CofaError('conflict', `${path} exists`, { hint: 'another name, or --force' });
  const draft = `${path}.${process.pid}.draft`;
  const file = await open(draft, 'w', 0o600).catch((cause: unknown) => {
    throw noNewFile(path, cause);
  });
  let entries = 0;
  try {
    const about = { startTime: new Date(stretch.from).toISOString(), node: log.node, mount };
    let text = `{"displayTimeUnit":"ms","otherData":${JSON.stringify(about)},"traceEvents":[`;
    for (const event of traceEvents(log, stretch)) {
      text += `${entries === 0 ? '' : ','}\n${JSON.stringify(event)}`;
      entries += 1;
      if (text.length < PIECE) continue;
      await file.write(text);
      text = '';
    }
    await file.write(`${text}\n]}\n`);
    const { size } = await file.stat();
    await file.close();
    await rename(draft, path);
    return { entries, bytes: size };
  } catch (error) {
    await file.close().catch(() => {});
    await rm(draft, { force: true });
    throw error;
  }
}
