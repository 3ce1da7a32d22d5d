import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { Progress } from '../../schemas/api.ts';
import { CofaError, type Reply } from '../../schemas/errors.ts';
import { callOver, type Terms, type Transport } from '../../src/client/call.ts';

/** A way that does what each call in turn says; the last one for all further calls. */
function way(...answers: Array<(terms: Terms) => Reply | Promise<Reply>>): Transport & { asked: number } {
  const made = {
    asked: 0,
    ask: async (_operation: string, _request: unknown, terms: Terms) =>
      await (answers[Math.min(made.asked++, answers.length - 1)] as (terms: Terms) => Promise<Reply>)(terms),
    close: async () => {},
  };
  return made;
}

const fine = (): Reply => ({ ok: true, result: { stopped: true } });
const noEngine = (): never => {
  throw new CofaError('not-running', 'no process listens');
};
const silent = async ({ signal }: Terms): Promise<Reply> =>
  await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

describe('a call of the API', () => {
  test('takes the next way where no engine took the request', async () => {
    const [first, second] = [way(noEngine), way(fine)];
    expect(await callOver(first, second)('scrub-stop', {})).toEqual({ stopped: true });
    expect([first.asked, second.asked]).toEqual([1, 1]);
  });

  test('that broke off is not made again on the next way: it may have been carried out', async () => {
    const broken = way(() => {
      throw new CofaError('unavailable', 'the connection broke');
    });
    const second = way(fine);
    await expect(callOver(broken, second)('scrub-stop', {})).rejects.toMatchObject({ code: 'unavailable' });
    expect(second.asked).toBe(0);
  });

  test('that an engine refuses because it stops is not made again', async () => {
    const stopping = way(() => ({
      ok: false,
      error: { code: 'not-running', message: 'the engine is stopping' },
    }));
    const second = way(fine);
    const call = callOver(stopping, second)('scrub-stop', {}, { patienceMs: 10_000 });
    await expect(call).rejects.toMatchObject({ code: 'not-running', message: 'the engine is stopping' });
    expect([stopping.asked, second.asked]).toEqual([1, 0]);
  });

  test('waits for an engine that starts, as long as its patience lasts', async () => {
    const starting = way(noEngine, noEngine, fine);
    expect(await callOver(starting)('scrub-stop', {}, { patienceMs: 10_000 })).toEqual({ stopped: true });
    const never = way(noEngine);
    await expect(callOver(never)('scrub-stop', {}, { patienceMs: 50 })).rejects.toMatchObject({
      code: 'not-running',
    });
    expect(never.asked).toBeGreaterThan(1);
  });

  test('ends when no answer came in time, and when its caller leaves', async () => {
    const call = callOver(way(silent));
    await expect(call('status', {}, { timeoutMs: 20 })).rejects.toMatchObject({ code: 'timeout' });
    const stop = new AbortController();
    const left = call('status', {}, { signal: stop.signal });
    stop.abort(new Error('interrupted'));
    await expect(left).rejects.toThrow('interrupted');
    await expect(call('status', {}, { signal: stop.signal })).rejects.toThrow('interrupted');
  });

  test('of which nothing is heard ends early; progress is a sign of life', async () => {
    const seen: Progress[] = [];
    const options = { silenceMs: 200, onProgress: (progress: Progress) => void seen.push(progress) };
    const talking = way(async ({ onProgress }) => {
      for (let beat = 0; beat < 5; beat++) {
        await sleep(80);
        onProgress?.({ phase: 'scrub', done: beat });
      }
      return fine();
    });
    expect(await callOver(talking)('scrub-stop', {}, options)).toEqual({ stopped: true });
    expect(seen).toHaveLength(5);
    await expect(callOver(way(silent))('scrub-stop', {}, options)).rejects.toMatchObject({ code: 'timeout' });
  });
});
