/** Who waits at a home. */
import { describe, expect, test } from 'vitest';
import { type Question, Waiting } from '../../actors/fleet-waiting.ts';

const SOURCE = { registry: 'r', repository: 'app', digest: `sha256:${'a'.repeat(64)}`, size: 2 ** 26 };
const question = (from: string, tried: readonly string[], more: Partial<Question> = {}): Question => ({
  from,
  source: SOURCE,
  index: 0,
  class: 'demand',
  token: true,
  tried,
  ...more,
});

describe('who waits', () => {
  test('those who tried a member in vain may try it again when it has the piece, and it is no one else’s business', () => {
    const waiting = new Waiting(10);
    const first = () => {
      const next = waiting.first('key');
      if (next !== undefined) waiting.delete('key', next.from);
      return next?.tried;
    };
    waiting.add('key', question('a', ['x', 'y']));
    waiting.add('key', question('b', ['y']));
    // It asks again: what counts is what it says now.
    waiting.add('key', question('c', ['x']));
    waiting.add('key', question('c', ['z']));
    waiting.add('other', question('d', ['x']));
    waiting.retry('key', 'x');
    waiting.retry('key', 'nobody');
    expect([first(), first(), first(), first()]).toEqual([['y'], ['y'], ['z'], undefined]);
    expect(waiting.first('other')?.tried).toEqual(['x']);
  });

  test('ten thousand that have all tried one member cost nothing when others get the piece', () => {
    const waiting = new Waiting(20_000);
    let looks = 0;
    const tried = new Proxy(['late'], {
      get: (list, name) => {
        looks += 1;
        return Reflect.get(list, name) as unknown;
      },
    });
    for (let at = 0; at < 10_000; at++) waiting.add('key', question(`asker-${at}`, tried));
    looks = 0;
    for (let at = 0; at < 100; at++) waiting.retry('key', `holder-${at}`);
    expect(looks).toBe(0);
    waiting.retry('key', 'late');
    expect(waiting.first('key')?.tried).toEqual([]);
  });
});
