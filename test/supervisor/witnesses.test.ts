/** What a node makes of what members of its fleet say they have proven, and what it says itself. */
import { describe, expect, it } from 'vitest';
import { Counts } from '../../actors/counts.ts';
import { layersText } from '../../actors/device.ts';
import { emptyNode, foldEvent } from '../../actors/node-state.ts';
import { hexOf } from '../../schemas/digest.ts';
import type { CofaEvent, EventOf, NewEvent } from '../../schemas/events.ts';
import { type LedgerEntry, type LedgerHeard, MAX_LEDGER_LAYERS } from '../../schemas/fleet.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { createLog } from '../../src/process/log.ts';
import { SIDECAR_REVISION } from '../../src/registry/sidecars.ts';
import type { LiveFold } from '../../src/store/live-fold.ts';
import { Witnesses } from '../../src/supervisor/images/witnesses.ts';
import { HandClock } from '../support/hand-clock.ts';

const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const [MANIFEST, LAYER, RIGHT, WRONG, FLAT, FORGED] = ['1', 'a', 'b', 'c', 'd', 'e'].map(digest) as [
  string,
  string,
  string,
  string,
  string,
  string,
];
const layers: EventOf<'image.resolved'>['layers'] = [
  { diffId: LAYER, blob: digest('8'), blobSize: 1, mediaType: 'layer' },
];
const IMAGE = { ref: 'registry.example/app:1', layers };
const LAYERS = digestOf(layersText(layers));
const resolved: NewEvent<'image.resolved'> = {
  type: 'image.resolved',
  ...IMAGE,
  registry: 'registry.example',
  repository: 'app',
  manifest: MANIFEST,
  config: digest('6'),
};
const prepared = (root: string, flat: string, more: Partial<NewEvent<'image.prepared'>>): NewEvent => ({
  type: 'image.prepared',
  origin: 'node',
  revision: SIDECAR_REVISION,
  flat,
  devices: [{ diffId: LAYER, size: 1, spans: digest('8'), root }],
  ...more,
});
const root = (value: string): LedgerEntry => ({
  v: 1,
  verdict: 'proven',
  kind: 'root',
  diffId: LAYER,
  root: value,
});
const flat = (value: string): LedgerEntry => ({
  v: 1,
  verdict: 'proven',
  kind: 'flat',
  layers: LAYERS,
  revision: SIDECAR_REVISION,
  flat: value,
});
const contents = { flat: FLAT, revision: SIDECAR_REVISION, roots: [{ diffId: LAYER, root: RIGHT }] };
const forged = { flat: FORGED, revision: SIDECAR_REVISION, roots: [{ diffId: LAYER, root: WRONG }] };

/** A node, and what members will say to its next question. */
function newNode(witnesses = 1) {
  const state = emptyNode();
  const listeners: Array<Parameters<LiveFold['listen']>[0]> = [];
  const told: NewEvent[] = [];
  const conditions = new Map<string, string>();
  let isLogAway = false;
  const append = (async (id: string, event: NewEvent) => {
    if (isLogAway) throw new Error('NATS is away');
    told.push(event);
    const whole = { v: 1, at: 1, ...event } as CofaEvent;
    foldEvent(state, id, whole);
    for (const listener of listeners)
      listener({ seq: told.length, subject: `x.${id}`, event: whole } as never);
    return whole;
  }) as unknown as LiveFold['append'];
  const clock = new HandClock();
  const counts = new Counts();
  const says: { now: LedgerHeard | Error; asked: number } = {
    now: { nodes: 0, answered: 0, said: [] },
    asked: 0,
  };
  const node = new Witnesses({
    self: 'self',
    witnesses,
    ask: async () => {
      says.asked += 1;
      if (says.now instanceof Error) throw says.now;
      return says.now;
    },
    conditions: {
      set: (key, sentence) => void conditions.set(key, sentence),
      clear: (key) => void conditions.delete(key),
    },
    counts,
    clock,
    log: createLog('witnesses', 'silent'),
  });
  const listen = (listener: (typeof listeners)[number]) => {
    listeners.push(listener);
    return () => {};
  };
  node.open({ state, append, listen } as never);
  const say = (said: Record<string, readonly LedgerEntry[]>) => {
    const list = Object.entries(said).map(([from, entries]) => ({ from, entries }));
    says.now = { nodes: list.length, answered: list.length, said: list };
  };
  return {
    node,
    clock,
    counts,
    conditions,
    told,
    say,
    says,
    setLogAway: (isAway: boolean) => (isLogAway = isAway),
    tell: (id: string, event: NewEvent) => append(hexOf(id), event as never),
    sentences: () => [...conditions.values()],
    liars: () => told.flatMap((event) => (event.type === 'fleet.disbelieved' ? [event.name] : [])),
    disputes: () => told.flatMap((event) => (event.type === 'fleet.disputed' ? [event.about] : [])),
  };
}
const untilTold = () => new Promise(setImmediate);

describe('the word of the fleet on an image', () => {
  it('is that of the members that answer now', async () => {
    const { node, say } = newNode();
    say({ one: [flat(FLAT), root(RIGHT)] });
    expect((await node.wordOn(IMAGE)).vouch(contents)).toEqual({ members: ['one'] });
    // Gone: what it once said is nowhere kept.
    say({ two: [] });
    expect(await node.wordOn(IMAGE)).toMatchObject({ silence: expect.stringContaining('does not vouch') });
  });

  it('is silence where no member can be asked, or the image has too many layers', async () => {
    const { node, says } = newNode();
    says.now = new Error('no socket');
    expect((await node.wordOn(IMAGE)).silence).toContain('does not answer');
    const many = Array.from({ length: MAX_LEDGER_LAYERS + 1 }, () => layers[0] as (typeof layers)[number]);
    expect((await node.wordOn({ ref: 'many', layers: many })).silence).toContain('more than');
    expect(says.asked).toBe(1);
  });

  it('is less than what this node knows: a member that says otherwise is named, in the log, for a month', async () => {
    const { node, say, tell, sentences, liars, clock } = newNode();
    await tell(LAYER, { type: 'root.proven', root: RIGHT });
    say({ liar: [flat(FORGED), root(WRONG)], one: [flat(FLAT), root(RIGHT)] });
    const word = await node.wordOn(IMAGE);
    expect([word.vouch(forged), word.vouch(contents)]).toEqual([
      { reason: expect.stringContaining('refuted') },
      { members: ['one'] },
    ]);
    await untilTold();
    expect([liars(), [...node.disbelieved]]).toEqual([['liar'], ['liar']]);
    expect(sentences()).toEqual([expect.stringContaining('the member liar of the fleet has vouched')]);
    // Its word about other images counts no more, and it is told once.
    say({ liar: [flat(FLAT), root(RIGHT)] });
    expect((await node.wordOn(IMAGE)).silence).toBeDefined();
    await untilTold();
    expect(liars()).toEqual(['liar']);
    clock.turn(31 * 24 * 3_600_000);
    expect((await node.wordOn(IMAGE)).silence).toBeUndefined();
    expect(sentences()).toEqual([]);
  });

  it('a liar counts from the moment that it is found, also while the log takes no events', async () => {
    const { node, say, tell, liars, setLogAway } = newNode();
    await tell(LAYER, { type: 'root.refuted', root: WRONG });
    setLogAway(true);
    say({ liar: [flat(FORGED), root(WRONG)] });
    await node.wordOn(IMAGE);
    await untilTold();
    expect([liars(), [...node.disbelieved]]).toEqual([[], ['liar']]);
    setLogAway(false);
    await node.wordOn(IMAGE);
    await untilTold();
    expect([liars(), [...node.disbelieved]]).toEqual([['liar'], ['liar']]);
  });
});

it('what was heard is counted, by its outcome', async () => {
  const { node, say, says, counts } = newNode();
  const counted = () =>
    Object.fromEntries(counts.samples().map(([, [outcome], [value]]) => [String(outcome), value]));
  says.now = new Error('no socket');
  await node.wordOn(IMAGE);
  say({});
  await node.wordOn(IMAGE);
  expect(counted()).toEqual({ silent: 2 });
  say({ one: [] });
  await node.wordOn(IMAGE);
  say({ one: [flat(FLAT), root(RIGHT)] });
  await node.wordOn(IMAGE);
  say({ one: [flat(FLAT), root(RIGHT)], two: [flat(FORGED), root(RIGHT)] });
  await node.wordOn(IMAGE);
  expect(counted()).toEqual({ silent: 2, unproven: 1, vouched: 1, disputed: 1 });
});

describe('members that disagree', () => {
  it('are both not believed, which is a condition until this node has proven who was right', async () => {
    const { node, say, tell, sentences, liars } = newNode();
    say({ one: [flat(FLAT), root(RIGHT)], two: [flat(FLAT), root(WRONG)] });
    const word = await node.wordOn(IMAGE);
    for (const one of [contents, forged]) expect(word.vouch(one)).toHaveProperty('reason');
    expect(sentences()).toEqual([
      expect.stringContaining(`members of the fleet disagree about ${IMAGE.ref}`),
    ]);
    await tell(MANIFEST, resolved);
    await tell(MANIFEST, prepared(RIGHT, FLAT, {}));
    expect(liars()).toEqual([]);
    await tell(LAYER, { type: 'root.proven', root: RIGHT });
    await untilTold();
    expect(liars()).toEqual(['two']);
    expect(sentences()).toEqual([expect.stringContaining('the member two')]);
  });

  it('that no one contradicts are named, too, when this node has proven what they spoke of', async () => {
    const { node, say, tell, liars } = newNode();
    say({ liar: [flat(FORGED), root(WRONG)] });
    expect((await node.wordOn(IMAGE)).vouch(forged)).toEqual({ members: ['liar'] });
    await tell(MANIFEST, resolved);
    await tell(MANIFEST, prepared(RIGHT, FLAT, {}));
    await untilTold();
    expect(liars()).toEqual(['liar']);
  });

  it('are in the log, once for each dispute, also where it takes events later', async () => {
    const { node, say, disputes, setLogAway } = newNode();
    const torn = { one: [flat(FLAT), root(RIGHT)], two: [flat(FORGED), root(RIGHT)] };
    setLogAway(true);
    say(torn);
    await node.wordOn(IMAGE);
    await untilTold();
    expect(disputes()).toEqual([]);
    setLogAway(false);
    for (let times = 0; times < 3; times++) {
      await node.wordOn(IMAGE);
      await untilTold();
    }
    expect(disputes()).toEqual([['flat metadata']]);
    say({ one: torn.one });
    await node.wordOn(IMAGE);
    say({ one: torn.one, two: [flat(FLAT), root(WRONG)] });
    await node.wordOn(IMAGE);
    await untilTold();
    expect(disputes()).toEqual([['flat metadata'], [`the block root of ${LAYER}`]]);
  });

  it('and agree the next time: the condition ends', async () => {
    const { node, say, sentences } = newNode();
    say({ one: [flat(FLAT), root(RIGHT)], two: [flat(FORGED), root(RIGHT)] });
    await node.wordOn(IMAGE);
    expect(sentences()).toHaveLength(1);
    say({ one: [flat(FLAT), root(RIGHT)] });
    expect((await node.wordOn(IMAGE)).vouch(contents)).toEqual({ members: ['one'] });
    expect(sentences()).toEqual([]);
  });
});

describe('a member that was believed', () => {
  it.each<[string, string, NewEvent]>([
    ['its root turns out to be wrong', LAYER, { type: 'root.refuted', root: WRONG }],
    ['another root turns out to be the right one', LAYER, { type: 'root.proven', root: RIGHT }],
    [
      'its metadata turn out to be wrong',
      MANIFEST,
      { type: 'image.refuted', flat: FORGED, message: 'other' },
    ],
  ])('is named when %s', async (_, id, finding) => {
    const { node, tell, liars } = newNode();
    await tell(MANIFEST, resolved);
    await tell(MANIFEST, prepared(WRONG, FORGED, { origin: 'sidecar', vouched: 'fleet:liar' }));
    expect(liars()).toEqual([]);
    await tell(id, finding);
    await untilTold();
    expect([liars(), [...node.disbelieved]]).toEqual([['liar'], ['liar']]);
  });
});

it('a node says what its own log has proven, and nothing before it has read that', async () => {
  const { node, tell } = newNode();
  const subject = { layers: LAYERS, diffIds: [LAYER] };
  await tell(MANIFEST, resolved);
  await tell(MANIFEST, prepared(RIGHT, FLAT, { origin: 'sidecar', vouched: 'fleet:one' }));
  expect(node.proven(subject)).toEqual([]);
  await tell(MANIFEST, prepared(RIGHT, FLAT, {}));
  await tell(LAYER, { type: 'root.proven', root: RIGHT });
  expect(node.proven(subject)).toEqual([flat(FLAT), root(RIGHT)]);
  const early = new Witnesses({
    self: 'early',
    witnesses: 1,
    ask: () => Promise.reject(new Error('not asked')),
    conditions: { set: () => {}, clear: () => {} },
    counts: new Counts(),
    clock: new HandClock(),
    log: createLog('witnesses', 'silent'),
  });
  expect(early.proven(subject)).toEqual([]);
});
