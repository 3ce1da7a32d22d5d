/** The blocks in doubt after an unclean stop: how often they are compared. */
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { LayerFacts } from '../../actors/node-state.ts';
import type { FrontNotice } from '../../schemas/front.ts';
import { Scrubber, type ScrubberOptions } from '../../src/front-end/scrubber.ts';
import { Conditions } from '../../src/process/conditions.ts';
import { layersAlone } from '../../src/store/layer-log.ts';
import { HandClock } from '../support/hand-clock.ts';

/** The layer's facts are looked at each time that it is compared. */
class Looks extends Map<string, LayerFacts> {
  count = 0;
  override get(id: string): LayerFacts | undefined {
    this.count += 1;
    return super.get(id);
  }
}

test('they are compared once, however often the supervisor asks, and it hears of that each time', async () => {
  const log = pino({ level: 'silent' });
  const [layers, notices]: [Looks, FrontNotice[]] = [new Looks(), []];
  const scrubber = new Scrubber({
    facts: layersAlone(layers),
    opened: new Map(),
    conditions: new Conditions(log),
    log,
    clock: new HandClock(),
    notify: (notice) => notices.push(notice),
  } as Partial<ScrubberOptions> as ScrubberOptions);
  const diffId = `sha256:${'a'.repeat(64)}`;
  const ask = async (first: number) => {
    scrubber.doubt({ layers: [{ diffId, ranges: [[first, 4]] }] });
    await scrubber.opening(diffId);
    return [notices.length, layers.count];
  };
  const [told, looks] = (await ask(0)) as [number, number];
  expect(looks).toBeGreaterThan(0);
  expect(await ask(0)).toEqual([told + 1, looks]);
  // Other blocks are another question.
  expect(await ask(8)).toEqual([told + 2, 2 * looks]);
  expect(notices.every(({ kind }) => kind === 'checked')).toBe(true);
});
