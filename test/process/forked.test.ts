/** Work in a process of its own: whatever becomes of the process, its parent hears of it and goes on. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { getPriority } from 'node:os';
import { describe, expect, test } from 'vitest';
import { EXPENDABLE } from '../../src/kernel/oom-score.ts';
import { runForked } from '../../src/process/forked.ts';
import { DIALOGUE, type Work } from './forked-work.ts';

const program = new URL('./forked-work.ts', import.meta.url);
const run = (
  work: Work,
  options: {
    nice?: number;
    ownSession?: boolean;
    signal?: AbortSignal;
    silenceMs?: number;
    onNote?: (pid: number) => void;
  } = {},
) => runForked(DIALOGUE, work, { program, what: 'the work', heapMiB: 256, silenceMs: 30_000, ...options });

/** Nice values of all threads of a process: field 19 of proc_pid_stat(5). */
const nicesOf = (pid: number): number[] =>
  readdirSync(`/proc/${pid}/task`).map((thread) => {
    const text = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[16]);
  });

describe('work in a process of its own', () => {
  test('is answered, with its notes; every thread has the priority', async () => {
    const stop = new AbortController();
    const started = Promise.withResolvers<number>();
    const work = run('sleep', { nice: 19, onNote: started.resolve, signal: stop.signal });
    expect(new Set(nicesOf(await started.promise))).toEqual(new Set([19]));
    stop.abort(new Error('enough'));
    await expect(work).rejects.toThrow('enough');
    expect(await run('answer')).toMatchObject({ nice: getPriority() });
  });

  test('of the lowest priority has that beside other sessions as well, where the kernel groups by sessions', async ({
    skip,
  }) => {
    const groupOf = (pid: number) => readFileSync(`/proc/${pid}/autogroup`, 'latin1').trim();
    if (!existsSync('/proc/self/autogroup')) skip('the kernel does not group by sessions');
    const stop = new AbortController();
    const started = Promise.withResolvers<number>();
    const options = { nice: 19, ownSession: true, onNote: started.resolve, signal: stop.signal };
    const work = run('sleep', options);
    expect(groupOf(await started.promise)).toMatch(/ nice 19$/);
    expect(groupOf(process.pid)).not.toMatch(/ nice 19$/);
    stop.abort(new Error('enough'));
    await expect(work).rejects.toThrow('enough');
  });

  test('is what the kernel ends when memory runs out, whatever this process is worth to it', async () => {
    expect(await run('answer')).toMatchObject({ oomScore: EXPENDABLE });
  });

  test('fails with its own error', async () => {
    await expect(run('fail')).rejects.toMatchObject({ code: 'integrity', message: 'other bytes' });
  });

  test('fails when the process is killed', async () => {
    await expect(run('die')).rejects.toMatchObject({ code: 'internal' });
  });

  test.each(['other note', 'other result', 'no message'] as const)(
    'with %s is not believed, and the process ends',
    async (what) => {
      const started = Promise.withResolvers<number>();
      const work = run(what, { onNote: started.resolve });
      work.catch(() => {});
      const pid = await started.promise;
      await expect(work).rejects.toMatchObject({
        code: 'internal',
        message: 'the work said what it may not say',
        hint: expect.stringContaining('cofa down'),
      });
      await expect.poll(() => readdirSync('/proc').includes(String(pid))).toBe(false);
    },
  );

  test('fails when no process can be started, as while the program is being replaced', async () => {
    const { execPath } = process;
    process.execPath = '/nonexistent/node';
    try {
      await expect(run('answer')).rejects.toMatchObject({ code: 'ENOENT' });
    } finally {
      process.execPath = execPath;
    }
    // What the channel says of its end would come here as an error that ends this process.
    await new Promise((resolve) => setTimeout(resolve, 50));
  });

  test('that is no order is refused by the process', async () => {
    await expect(run('sing' as Work)).rejects.toMatchObject({
      code: 'internal',
      message: 'what was ordered is no order',
    });
  });

  test('fails when the process falls silent, and the process ends', async () => {
    const started = Promise.withResolvers<number>();
    const work = run('sleep', { silenceMs: 8_000, onNote: started.resolve });
    work.catch(() => {});
    const pid = await started.promise;
    await expect(work).rejects.toMatchObject({ code: 'timeout' });
    await expect.poll(() => readdirSync('/proc').includes(String(pid))).toBe(false);
  });
});
