import { describe, expect, it } from 'vitest';
import { START_QUIET, StartQuiet } from '../../actors/start-quiet.ts';

const { quietMs, limitMs } = START_QUIET;
const never = Number.NEGATIVE_INFINITY;
const calm = { lastFirstRead: never, isBringing: false };

describe('the rest of a layer', () => {
  it('comes at the first pause after the layer was opened', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 1_000);
    expect(quiet.look(1_000 + quietMs - 1, calm)).toEqual([]);
    expect(quiet.look(1_000 + quietMs, calm)).toEqual(['a']);
    expect(quiet.look(1_000 + quietMs + 100, calm)).toEqual([]);
  });

  it('waits while a reader waits for blocks, whose layer it may be', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.coldRead(400);
    expect(quiet.look(quietMs, calm)).toEqual([]);
    quiet.coldRead(800);
    expect(quiet.look(800 + quietMs - 1, calm)).toEqual([]);
    expect(quiet.look(800 + quietMs, calm)).toEqual(['a']);
  });

  it('waits while blocks that are there are read for the first time', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    expect(quiet.look(quietMs, { ...calm, lastFirstRead: 1 })).toEqual([]);
    expect(quiet.look(quietMs + 1, { ...calm, lastFirstRead: 1 })).toEqual(['a']);
  });

  it('comes at the limit where the reads never pause', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    for (let now = 0; now < limitMs; now += 100) {
      quiet.coldRead(now);
      expect(quiet.look(now, calm)).toEqual([]);
    }
    quiet.coldRead(limitMs);
    expect(quiet.look(limitMs, calm)).toEqual(['a']);
  });

  it('waits for a pack that is on its way, beyond the limit too', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    expect(quiet.look(2 * limitMs, { ...calm, isBringing: true })).toEqual([]);
    expect(quiet.look(2 * limitMs, calm)).toEqual(['a']);
  });

  it('does not come where it is not wanted any more, or the layer has closed', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.want('b', 0);
    quiet.forget('a');
    expect(quiet.look(quietMs, calm)).toEqual(['b']);
  });

  it('comes at a pause, and the start may go on until the limit', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.want('b', 400);
    expect(quiet.look(400 + quietMs, calm)).toEqual(['a', 'b']);
    expect(quiet.starting(limitMs - 1)).toEqual(['a', 'b']);
    expect(quiet.starting(limitMs)).toEqual(['b']);
    quiet.forget('b');
    expect(quiet.starting(limitMs)).toEqual([]);
  });

  it('comes at a pause, and does not go on when another start has begun', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.look(quietMs, calm);
    for (const layer of ['b', 'c']) quiet.want(layer, 1_000);
    expect(quiet.starting(1_000)).toEqual(['b', 'c']);
  });

  it('has a start beyond the limit where a pack comes so long', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.look(limitMs, { ...calm, isBringing: true });
    expect(quiet.starting(limitMs)).toEqual(['a']);
    quiet.look(limitMs + 100, calm);
    expect(quiet.starting(limitMs + 100)).toEqual([]);
  });

  it('has a limit of its own where the layer was opened later', () => {
    const quiet = new StartQuiet();
    quiet.want('a', 0);
    quiet.want('b', 5_000);
    quiet.coldRead(limitMs);
    expect(quiet.look(limitMs, calm)).toEqual(['a']);
    quiet.coldRead(limitMs + 5_000);
    expect(quiet.look(limitMs + 5_000, calm)).toEqual(['b']);
  });
});
