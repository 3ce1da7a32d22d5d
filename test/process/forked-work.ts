/** A process for forked.test.ts. */
import { readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError } from '../../schemas/errors.ts';
import { count, fields, oneOf, type Shape } from '../../schemas/shapes.ts';
import { serveForked } from '../../src/process/forked.ts';

const WORKS = ['answer', 'fail', 'die', 'sleep', 'other note', 'other result', 'no message'] as const;
export type Work = (typeof WORKS)[number];

export interface Answer {
  oomScore: number;
  nice: number;
  threads: number;
}

/** The process's id is its note. */
export const DIALOGUE = {
  isOrder: oneOf(WORKS) as Shape<Work>,
  isNote: count(1) as Shape<number>,
  isResult: fields({ oomScore: count(0), nice: count(0), threads: count(1) }) as Shape<Answer>,
};

async function work(order: Work, note: (note: number) => void): Promise<Answer> {
  note(process.pid);
  if (order === 'fail') throw new CofaError('integrity', 'other bytes', { hint: 'look' });
  if (order === 'die') process.kill(process.pid, 'SIGKILL');
  if (order === 'other note') note(0.5);
  if (order === 'no message') process.send?.('done');
  if (order === 'other result') return { nice: 'yes' } as unknown as Answer;
  if (order !== 'answer') await sleep(60_000);
  const threads = readFileSync('/proc/self/status', 'utf8').match(/^Threads:\s+(\d+)/m)?.[1];
  const oomScore = Number(readFileSync('/proc/self/oom_score_adj', 'latin1'));
  return { oomScore, nice: getPriority(), threads: Number(threads) };
}

if (import.meta.main) await serveForked(DIALOGUE, work);
