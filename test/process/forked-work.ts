/** A process for forked.test.ts. */
import { readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { serveForked } from '../../src/process/forked.ts';

export type Work = 'answer' | 'fail' | 'die' | 'sleep';

serveForked<Work, number, object>(async (work, note) => {
  note(process.pid);
  if (work === 'fail') throw new CofaError('integrity', 'other bytes', { hint: 'look' });
  if (work === 'die') process.kill(process.pid, 'SIGKILL');
  if (work === 'sleep') await sleep(60_000);
  const threads = readFileSync('/proc/self/status', 'utf8').match(/^Threads:\s+(\d+)/m)?.[1];
  const oomScore = Number(readFileSync('/proc/self/oom_score_adj', 'latin1'));
  return { oomScore, nice: getPriority(), threads: Number(threads) };
});
