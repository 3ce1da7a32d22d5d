/** What a member keeps of pieces that came for its own processes. Other members are stand-ins, the disk takes nothing. */
import { randomBytes } from 'node:crypto';
import { beforeEach, describe, expect, test } from 'vitest';
import { pieceKey } from '../../actors/fleet-home-protocol.ts';
import type { BlobSource } from '../../schemas/fetch.ts';
import { Asking } from '../../src/fleet/asking.ts';
import type { AskerNews } from '../../src/fleet/core.ts';
import { Pieces } from '../../src/fleet/pieces.ts';
import { createLog } from '../../src/process/log.ts';

const SOURCE: BlobSource = {
  registry: 'registry.example',
  repository: 'team/app',
  digest: `sha256:${'a'.repeat(64)}`,
  size: 1_000,
};
const OTHER: BlobSource = { ...SOURCE, repository: 'other/app' };
const KEY = pieceKey(SOURCE, 0);

let copies: Map<string, Buffer>;
let kept: string[];
let news: AskerNews[];
let pieces: Pieces;
let asking: Asking;
beforeEach(() => {
  copies = new Map(['one', 'two'].map((member) => [member, randomBytes(1_000)]));
  [kept, news] = [[], []];
  const store = {
    read: async () => undefined,
    write: async () => {},
    forget: async () => {},
    has: () => true,
    originOf: () => undefined,
  };
  pieces = new Pieces({ store, onLost: () => {}, log: createLog('asking', 'silent') });
  asking = new Asking({
    self: 'self',
    toAsker: (one) => void news.push(one),
    toHome: () => {},
    send: () => {},
    getting: {
      get: async (member: string) => ({ bytes: copies.get(member) }),
      leave: () => {},
      viaOf: () => undefined,
    } as never,
    give: async () => {
      throw new Error('this member has nothing');
    },
    pieces,
    serves: true,
    keep: (_, from) => void kept.push(from),
    onHedge: () => {},
    proofs: { challenged: () => true, challengeOf: () => undefined, take: () => undefined } as never,
    now: () => 0,
    after: () => {
      throw new Error('nothing is put off');
    },
  });
});

/** The piece comes from a member for a process that reads `source`. */
async function come(member: string, source: BlobSource): Promise<void> {
  const before = news.length;
  asking.run({
    type: 'get',
    member,
    key: KEY,
    source,
    index: 0,
    class: 'demand',
    token: false,
    tried: [],
  });
  await expect.poll(() => news.length).toBeGreaterThan(before);
}

describe('a piece that a process has verified', () => {
  test('is kept, and others hear of it', async () => {
    await come('one', SOURCE);
    asking.verified(SOURCE, [0]);
    expect(kept).toEqual(['one']);
    expect(news.map(({ type }) => type)).toEqual(['came', 'verified']);
    expect(pieces.fresh(KEY)).toMatchObject({ isKept: true, bytes: copies.get('one') });
  });

  test('is not taken for the copy that another member has sent for another repository since', async () => {
    await come('one', SOURCE);
    await come('two', OTHER);
    asking.verified(SOURCE, [0]);
    expect([kept, pieces.fresh(KEY)?.isKept]).toEqual([[], false]);
    asking.verified(OTHER, [0]);
    expect(kept).toEqual(['two']);
  });

  test('nor for another copy of the same member', async () => {
    await come('one', SOURCE);
    copies.set('one', randomBytes(1_000));
    await come('one', OTHER);
    asking.verified(SOURCE, [0]);
    expect(kept).toEqual([]);
  });

  test('is kept as it is when another copy comes for another repository', async () => {
    await come('one', SOURCE);
    asking.verified(SOURCE, [0]);
    await come('two', OTHER);
    asking.verified(OTHER, [0]);
    expect(pieces.fresh(KEY)).toMatchObject({ isKept: true, bytes: copies.get('one') });
    expect(new Set(kept)).toEqual(new Set(['one']));
  });
});
