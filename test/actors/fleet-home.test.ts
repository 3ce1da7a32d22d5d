/** What a home does for others: one fetch for all, rights before bytes, and who comes first. */
import { describe, expect, test } from 'vitest';
import { Home } from '../../actors/fleet-home.ts';
import {
  type HomeEffect,
  type HomeEvent,
  type HomeLimits,
  pieceKey,
} from '../../actors/fleet-home-protocol.ts';
import { challengeOf, PROOF_BYTES } from '../../actors/fleet-rights.ts';
import { PIECE_BYTES } from '../../schemas/fleet.ts';

const SOURCE = {
  registry: 'registry.example',
  repository: 'team/private',
  digest: `sha256:${'a'.repeat(64)}`,
  size: 4 * PIECE_BYTES,
};
type Asked = Partial<Extract<HomeEvent, { type: 'ask' }>>;
type Got = Partial<Extract<HomeEvent, { type: 'get' }>>;

/** `home` is the first home, `second` the other one. */
function newHome(limits: Partial<HomeLimits> = {}, self = 'home', used = [SOURCE.registry]) {
  const home = new Home(
    {
      self,
      homes: (_source, _index, cell) => (cell === undefined ? ['home', 'second'] : ['near', 'next']),
      standIns: () => ['third', 'fourth'],
      isAsked: (member) => !['dead', 'busy'].includes(member),
      isThere: (member) => member !== 'dead',
      uses: (one) => used.includes(one),
    },
    limits,
  );
  let now = 0;
  let requests = 0;
  const at = (ms: number) => {
    now = ms;
  };
  const send = (event: HomeEvent): HomeEffect[] => home.handle(event);
  const key = (index = 0) => pieceKey(SOURCE, index);
  const ask = (from: string, more: Asked = {}) =>
    send({
      type: 'ask',
      from,
      source: SOURCE,
      index: 0,
      class: 'demand',
      token: true,
      tried: [],
      now,
      ...more,
    });
  const get = (from: string, more: Got = {}) =>
    send({
      type: 'get',
      request: ++requests,
      from,
      source: SOURCE,
      index: 0,
      class: 'demand',
      token: true,
      hasToken: false,
      forHome: false,
      tried: [],
      now,
      ...more,
    });
  /** The home's fetch of a piece ends. */
  const ends = (effects: HomeEffect[], how: { ok: boolean; refused?: boolean; differs?: boolean }) => {
    const fetch = effects.find((effect) => effect.type === 'fetch');
    if (fetch?.type !== 'fetch') throw new Error(`no fetch in ${JSON.stringify(effects)}`);
    return send({ type: 'fetched', flight: fetch.flight, key: fetch.key, now, ...how });
  };
  /** It has the piece, and the registry gives it to those with a token alone. */
  const isPrivate = (index = 0) => {
    home.keep(key(index), 'registry');
    home.rights.learnedOfEveryone(SOURCE, false, now);
  };
  return { home, at, send, ask, get, ends, isPrivate, key, now: () => now };
}
const states = (effects: HomeEffect[]) =>
  effects.flatMap((effect) =>
    effect.type === 'answer' || effect.type === 'tell'
      ? [
          `${effect.to} ${effect.answer.state}${effect.answer.at === undefined ? '' : ` at ${effect.answer.at}`}`,
        ]
      : effect.type === 'reply'
        ? [`reply ${effect.answer.state}`]
        : effect.type === 'fetch'
          ? [`fetch by ${effect.by}`]
          : [effect.type],
  );

describe('a piece that the zone lacks', () => {
  test('is fetched once, for all that ask meanwhile: the other home is asked for it first, then the registry', () => {
    const { ask, ends } = newHome();
    const first = ask('one');
    expect(states(first)).toEqual(['fetch by member', 'one coming']);
    expect([ask('two'), ask('three', { class: 'prefetch' })].map(states)).toEqual([
      ['two coming'],
      ['three coming'],
    ]);
    const origin = ends(first, { ok: false });
    expect(states(origin)).toEqual(['fetch by everyone']);
    expect(states(ends(origin, { ok: true }))).toEqual(['one have', 'two have', 'three have']);
  });

  test('of a private image is fetched with the token of the first that brings one, and no one else needs to', () => {
    const { ask, get, ends, send, now, key } = newHome();
    const origin = ends(ask('one'), { ok: false });
    ask('two');
    expect(states(ends(origin, { ok: false, refused: true }))).toEqual(['one bring', 'two bring']);
    const fetch = get('one', { hasToken: true });
    expect(states(fetch)).toEqual(['fetch by request']);
    // The registry says what it thinks of the second one's token; then it waits for the same fetch.
    expect(states(get('two', { hasToken: true }))).toEqual(['check']);
    expect(states(send({ type: 'checked', from: 'two', source: SOURCE, may: true, now: now() }))).toEqual([
      'reply coming',
    ]);
    expect(states(ends(fetch, { ok: true }))).toEqual(['send', 'two have']);
    expect(send({ type: 'lost', key: key(), now: now() })).toEqual([]);
  });

  test('without tokens is fetched by one asker, while the others wait for it; when it fails, by the next one', () => {
    const { home, ask, ends, send, at, now } = newHome({ leaseMs: 5_000 });
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    const probe = ask('one', { token: false });
    ask('two', { token: false });
    ask('three', { token: false });
    expect(states(ends(probe, { ok: false }))).toEqual(['one fetch']);
    const failed = send({ type: 'hold', from: 'one', source: SOURCE, index: 0, ok: false, now: now() });
    expect(states(failed)).toEqual(['two fetch']);
    at(5_000);
    const late = send({ type: 'tick', now: 5_000 });
    expect(states(late)).toEqual(['fetch by member']);
    expect(states(ends(late, { ok: false }))).toEqual(['three fetch']);
    ask('four', { token: false, now: 5_000, tried: ['three'] });
    const held = send({ type: 'hold', from: 'three', source: SOURCE, index: 0, ok: true, now: 5_000 });
    expect(states(held)).toEqual(['fetch by member']);
    expect(states(ends(held, { ok: true }))).toEqual(['four prove']);
  });

  test('that a holder is too busy to give is asked of it again, and not of the registry', () => {
    const { home, ask, send, ends, key } = newHome();
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    ends(ask('one', { token: false }), { ok: false });
    const held = send({ type: 'hold', from: 'one', source: SOURCE, index: 0, ok: true, now: 0 });
    ask('two', { token: false });
    const flight = held.flatMap((effect) => (effect.type === 'fetch' ? [effect.flight] : []))[0] as number;
    expect(send({ type: 'fetched', flight, key: key(), ok: false, busyMs: 300, now: 0 })).toEqual([]);
    expect(home.nextWake).toBe(300);
    const again = send({ type: 'tick', now: 300 });
    expect(states(again)).toEqual(['fetch by member']);
    expect(states(ends(again, { ok: true }))).toEqual(['two prove']);
  });

  test('that a busy holder was to be asked for again is not, where another fetch of it has begun since', () => {
    const { ask, send, key } = newHome();
    const [fetch] = ask('one');
    const flight = fetch?.type === 'fetch' ? fetch.flight : 0;
    send({ type: 'fetched', flight, key: key(), ok: false, busyMs: 3_000, now: 0 });
    // Its time is over first: the registry is asked, and does not give it to everyone.
    const [origin] = send({ type: 'tick', now: 1_000 });
    const second = origin?.type === 'fetch' ? origin.flight : 0;
    send({ type: 'fetched', flight: second, key: key(), ok: false, now: 1_500 });
    expect(states(ask('two', { now: 2_900 }))).toEqual(['fetch by member', 'two coming']);
    expect(states(send({ type: 'tick', now: 3_000 }))).toEqual([]);
  });

  test('that a holder has who is busy just now is asked of that one, and not of the registry', () => {
    const { home, ask } = newHome();
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    home.sources.add(pieceKey(SOURCE, 0), 'busy');
    const [fetch] = ask('one', { token: false });
    expect(fetch).toMatchObject({ type: 'fetch', by: 'member', member: 'busy' });
  });

  test('is not fetched by the second home, unless the first did not answer', () => {
    const { ask } = newHome({}, 'second');
    expect(states(ask('one'))).toEqual(['one none at home']);
    expect(states(ask('one', { tried: ['home'] }))).toEqual(['fetch by everyone', 'one coming']);
  });

  test("is fetched by a stand-in where no home answered, and no earlier stand-in; it has no home's right to the bytes", () => {
    const { ask } = newHome({}, 'fourth');
    expect(states(ask('one', { tried: ['home'] }))).toEqual(['one none at second']);
    expect(states(ask('one', { tried: ['home', 'second'] }))).toEqual(['one none']);
    expect(states(ask('one', { tried: ['home', 'second', 'third'] }))).toEqual([
      'fetch by everyone',
      'one coming',
    ]);
    const { isPrivate, get } = newHome();
    isPrivate();
    expect(states(get('third', { forHome: true, token: false }))).toEqual(['reply prove']);
  });

  test('does not come while the registry is away: those who wait hear so, and no fetch follows by itself', () => {
    const { ask, ends } = newHome();
    const origin = ends(ask('one'), { ok: false });
    ask('two');
    expect(states(ends(origin, { ok: false }))).toEqual(['one none', 'two none']);
  });
});

describe('a reader that joins what is fetched as prefetch', () => {
  const ahead = { class: 'prefetch' } as const;
  const asked = (effects: HomeEffect[]) =>
    effects.flatMap((effect) => (effect.type === 'fetch' ? [[effect.by, effect.class]] : []));

  test('has the fetch promoted, once; what follows of it is for a reader', () => {
    const { home, ask, send, key } = newHome();
    const [fetch] = ask('one', ahead);
    const flight = fetch?.type === 'fetch' ? fetch.flight : 0;
    expect(states(ask('two', ahead))).toEqual(['two coming']);
    expect(ask('three')[0]).toEqual({ type: 'promote', flight, key: key() });
    expect(states(ask('four'))).toEqual(['four coming']);
    // The other home is busy: it is asked again for a reader.
    send({ type: 'fetched', flight, key: key(), ok: false, busyMs: 300, now: 0 });
    expect(asked(send({ type: 'tick', now: 300 }))).toEqual([['member', 'demand']]);
    expect(home.nextWake).toBe(1_000);
  });

  test('and what no reader waits for stays prefetch, also where a member names another one, or was busy', () => {
    const { ask, send, key } = newHome();
    const [fetch] = ask('one', ahead);
    const flight = fetch?.type === 'fetch' ? fetch.flight : 0;
    send({ type: 'fetched', flight, key: key(), ok: false, busyMs: 300, now: 0 });
    expect(asked(send({ type: 'tick', now: 300 }))).toEqual([['member', 'prefetch']]);
    const next = send({ type: 'fetched', flight, key: key(), ok: false, at: 'holder', now: 300 });
    expect(asked(next)).toEqual([['member', 'prefetch']]);
  });

  test('waits half of its patience for a member that was told to fetch: then it is the reader that is', () => {
    const { home, ask, ends, send } = newHome();
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    expect(states(ends(ask('one', { ...ahead, token: false }), { ok: false }))).toEqual(['one fetch']);
    expect(states(ask('reader', { token: false }))).toEqual(['reader coming']);
    expect(home.nextWake).toBe(5_000);
    const late = send({ type: 'tick', now: 5_000 });
    expect(asked(late)).toEqual([['member', 'demand']]);
    expect(states(ends(late, { ok: false }))).toEqual(['reader fetch']);
  });
});

describe('rights', () => {
  test('spegel#1432: a pod without the secret gets no private image because a peer has it', () => {
    const { isPrivate, ask, get, send, now } = newHome();
    isPrivate();
    expect(states(ask('intruder', { token: false }))).toEqual(['intruder prove']);
    expect(states(get('intruder', { token: false }))).toEqual(['reply prove']);
    expect(states(ask('intruder'))).toEqual(['intruder bring']);
    expect(states(get('intruder', { hasToken: true }))).toEqual(['check']);
    expect(
      states(send({ type: 'checked', from: 'intruder', source: SOURCE, may: false, now: now() })),
    ).toEqual(['reply none']);
    expect(states(get('intruder', { hasToken: true }))).toEqual(['reply none']);
    // Nor by the word that it keeps pieces for others, since it is no home.
    expect(states(get('intruder', { forHome: true }))).toEqual(['reply none']);
  });

  test('spegel#1432: nor does a pod on the home itself', () => {
    const { isPrivate, ask } = newHome();
    isPrivate();
    expect(states(ask('home', { token: false }))).toEqual(['home prove']);
  });

  test('one asker’s right is no other’s, nor one for another repository that names the same blob', () => {
    const { home, isPrivate, ask } = newHome();
    isPrivate();
    home.rights.learned('one', SOURCE, true, 0);
    expect(states(ask('one'))).toEqual(['one have']);
    expect(states(ask('two'))).toEqual(['two bring']);
    const stolen = { ...SOURCE, repository: 'stranger/image' };
    home.rights.learnedOfEveryone(stolen, false, 0);
    expect(states(ask('one', { source: stolen }))).toEqual(['one bring']);
  });

  test('a blob of the same digest at another registry is another one: what that one sent is not given for this one', () => {
    const { home, ask } = newHome();
    home.keep(pieceKey({ ...SOURCE, registry: 'evil.example' }, 0), 'registry');
    home.rights.learned('one', SOURCE, true, 0);
    expect(states(ask('one'))).toContain('fetch by member');
  });

  test('a registry is asked so many questions at once, however many repositories an asker names', () => {
    const { home, ask, send, key } = newHome({ checks: 2 });
    home.keep(key(), 'registry');
    const named = (repository: string) => ask('one', { source: { ...SOURCE, repository } });
    expect(['a', 'b', 'a', 'c'].map((one) => states(named(one)))).toEqual([
      ['check', 'one coming'],
      ['check', 'one coming'],
      ['one coming'],
      ['one busy'],
    ]);
    send({ type: 'checked', source: { ...SOURCE, repository: 'a' }, may: false, now: 0 });
    expect(states(named('c'))).toEqual(['check', 'one coming']);
  });

  test('a right ends, and with it what the registry has said to everyone', () => {
    const { home, ask, at, key } = newHome();
    home.keep(key(), 'registry');
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    expect(states(ask('one'))).toEqual(['one have']);
    at(600_000);
    expect(states(ask('two', { now: 600_000 }))).toEqual(['check', 'two coming']);
  });

  test('a proof serves the one it was asked of, once, and no stale one takes it away', () => {
    const { home } = newHome();
    const challenge = { nonce: 'n1', from: 0, to: 9 };
    home.rights.challenged('one', SOURCE, challenge, 'right', 0);
    expect(home.rights.proved('two', SOURCE, { nonce: 'n1', hash: 'right' }, 1)).toBe(false);
    expect(home.rights.proved('one', SOURCE, { nonce: 'n0', hash: 'right' }, 1)).toBe(false);
    expect(home.rights.proved('one', SOURCE, { nonce: 'n1', hash: 'right' }, 1)).toBe(true);
    expect(home.rights.proved('one', SOURCE, { nonce: 'n1', hash: 'right' }, 1)).toBe(false);
    home.rights.challenged('two', SOURCE, challenge, 'right', 0);
    expect(home.rights.proved('two', SOURCE, { nonce: 'n1', hash: 'wrong' }, 1)).toBe(false);
    expect(home.rights.proved('two', SOURCE, { nonce: 'n1', hash: 'right' }, 1)).toBe(false);
  });

  test('a challenge names bytes that cannot be guessed, inside the piece, or there is none', () => {
    const bytes = Uint8Array.from({ length: PIECE_BYTES }, (_, at) =>
      at < PIECE_BYTES / 2 ? 0 : (at * 7_919) >> 3,
    );
    let chance = 0;
    const found = challengeOf('n', bytes, PIECE_BYTES, () => [0.1, 0.3, 0.9][chance++] ?? 0);
    expect(found).toEqual({
      nonce: 'n',
      from: 2 * PIECE_BYTES - 0.1 * PIECE_BYTES - 0.9 * PROOF_BYTES,
      to: expect.any(Number),
    });
    expect(challengeOf('n', new Uint8Array(PIECE_BYTES), 0, () => 0.5)).toBeUndefined();
  });
});

describe('uploads', () => {
  test('askers beyond the slots wait; each that has got the piece is where the next ones are sent', () => {
    const { home, ask, get, send, now } = newHome({ uploads: 1 });
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(pieceKey(SOURCE, 0), 'registry');
    expect(['one', 'two', 'three', 'four'].map((asker) => states(ask(asker))).flat()).toEqual([
      'one have',
      'two coming',
      'three coming',
      'four coming',
    ]);
    expect(states(get('one'))).toEqual(['send']);
    expect(
      states(send({ type: 'hold', from: 'one', source: SOURCE, index: 0, ok: true, now: now() })),
    ).toEqual(['two have at one', 'three have at one']);
    expect(states(send({ type: 'sent', request: 1, now: now() }))).toEqual(['four have']);
  });

  test('what a reader waits for comes before prefetch that waited longer', () => {
    const { home, ask, get, send, now } = newHome({ uploads: 1 });
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(pieceKey(SOURCE, 0), 'registry');
    ask('one');
    get('one');
    ask('background', { class: 'prefetch' });
    ask('reader');
    expect(states(send({ type: 'sent', request: 1, now: now() }))).toEqual(['reader have']);
  });

  test('prefetch has six of eight slots, and goes on as soon as one of them is free', () => {
    const { home, ask, get, send, key, now } = newHome();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'registry');
    const last = (from: string, more: Asked = {}) => states(ask(from, more)).at(-1);
    const ahead = { class: 'prefetch' } as const;
    const told = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((from) => last(from, ahead));
    expect([told[5], told[6]]).toEqual(['f have', 'g coming']);
    for (const from of ['a', 'b', 'c', 'd', 'e', 'f']) get(from, ahead);
    // Nor may a home that wants a copy as prefetch have more.
    expect(states(get('second', { ...ahead, forHome: true }))).toEqual([]);
    expect(['x', 'y', 'z'].map((from) => last(from))).toEqual(['x have', 'y have', 'z coming']);
    expect(states(send({ type: 'aborted', request: 7, now: now() }))).toEqual([]);
    // A reader waits for the slot that becomes free; then no one does.
    expect(states(send({ type: 'sent', request: 1, now: now() }))).toEqual(['z have']);
    for (const from of ['x', 'y', 'z']) get(from);
    for (const request of [8, 9]) expect(states(send({ type: 'sent', request, now: now() }))).toEqual([]);
    expect(states(send({ type: 'sent', request: 10, now: now() }))).toEqual(['g have']);
  });

  test('prefetch that fills the queue leaves demand its room; what does not fit is told that the home is busy', () => {
    const { ask } = newHome({ waiting: 2 });
    expect(['a', 'b', 'c'].map((asker) => states(ask(asker, { class: 'prefetch' })).at(-1))).toEqual([
      'a coming',
      'b coming',
      'c busy',
    ]);
    expect(['d', 'e', 'f'].map((asker) => states(ask(asker)).at(-1))).toEqual([
      'd coming',
      'e coming',
      'f busy',
    ]);
  });

  test('those that wait for a slot do not wait on for a piece that the disk has lost meanwhile', () => {
    const { home, ask, send, key } = newHome({ uploads: 1 });
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'registry');
    home.keep(key(1), 'registry');
    ask('one', { index: 1 });
    expect(states(ask('two'))).toEqual(['two coming']);
    expect(states(send({ type: 'lost', key: key(), now: 0 }))).toEqual(['fetch by member']);
  });

  test('an asker that does not come gives its slot back', () => {
    const { home, ask, send } = newHome({ uploads: 1, comeMs: 500 });
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(pieceKey(SOURCE, 0), 'registry');
    ask('lost');
    ask('next');
    expect(home.nextWake).toBe(500);
    expect(states(send({ type: 'tick', now: 500 }))).toEqual(['next have']);
  });
});

describe('wrong bytes', () => {
  const wrong = (from: string, member: string, index = 0): HomeEvent => ({
    type: 'wrong',
    from,
    member,
    source: SOURCE,
    index,
    now: 0,
  });
  const blamed = (effects: HomeEffect[]) =>
    effects.flatMap((effect) =>
      effect.type === 'blame' ? [`${effect.member}${effect.isSure ? '' : ' maybe'}`] : [],
    );

  test('that a member gave: the registry is asked, and where it sends others the member is named, and all of it dropped', () => {
    const { home, send, key, ends } = newHome();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'liar');
    home.keep(key(1), 'liar');
    home.keep(key(2), 'honest');
    const said = send(wrong('one', 'home'));
    expect(states(said)).toEqual(['drop', 'fetch by everyone']);
    const after = ends(said, { ok: true, differs: true });
    expect(blamed(after)).toEqual(['liar']);
    expect([0, 1, 2].map((index) => home.has(key(index)))).toEqual([true, false, true]);
  });

  test('that an asker only says to be wrong name no one; and no one asks the registry by saying so again', () => {
    const { home, send, key, ends } = newHome();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'honest');
    expect(blamed(ends(send(wrong('liar', 'home')), { ok: true, differs: false }))).toEqual([]);
    expect(home.has(key())).toBe(true);
    expect(send(wrong('liar', 'home'))).toEqual([]);
    expect(send(wrong('liar', 'home', 3))).toEqual([]);
  });

  test('of a private image are fetched anew for the next one that brings a token, and the liar is named then', () => {
    const { home, send, get, key, ends } = newHome();
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    home.keep(key(), 'liar');
    expect(states(send(wrong('one', 'home')))).toEqual(['drop']);
    expect(blamed(ends(get('two', { hasToken: true }), { ok: true, differs: true }))).toEqual(['liar']);
  });

  test('that this node’s own reader found are proven', () => {
    const { home, send, key } = newHome();
    home.keep(key(), 'liar');
    expect(blamed(send(wrong('home', 'home')))).toEqual(['liar']);
  });

  test('that this node’s own reader found are dropped, also where an asker has called the piece wrong before', () => {
    const { home, send, ends, key } = newHome();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'honest');
    ends(send(wrong('one', 'home')), { ok: true, differs: false });
    expect(states(send(wrong('home', 'home')))).toEqual(['drop']);
    expect(home.has(key())).toBe(false);
    expect(send(wrong('home', 'home'))).toEqual([]);
  });

  test('by the word of a registry that no one here uses: it may be the accuser’s own', () => {
    const { home, send, ends, key } = newHome({}, 'home', []);
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.keep(key(), 'honest');
    expect(blamed(ends(send(wrong('liar', 'home')), { ok: true, differs: true }))).toEqual(['honest maybe']);
  });

  test('of a holder: one asker’s word is not enough, three are', () => {
    const { home, ask, send, key } = newHome();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    home.sources.add(key(), 'liar');
    const said = ['one', 'one', 'two', 'three'].map((from) => states(send(wrong(from, 'liar'))));
    expect(said).toEqual([[], [], [], ['blame']]);
    // Said again it names it no more.
    expect(['one', 'four'].map((from) => states(send(wrong(from, 'liar')))).flat()).toEqual([]);
    home.sources.add(key(), 'liar');
    expect(states(ask('four'))).not.toContain('four have at liar');
  });
});

describe('as home of a cell', () => {
  const near = (limits: Partial<HomeLimits> = {}) => {
    const made = newHome(limits, 'near');
    const ask = (from: string, more: Asked = {}) => made.ask(from, { cell: 3, ...more });
    const held = (from: string, now = 0) =>
      made.send({ type: 'hold', from, source: SOURCE, index: 0, ok: true, cell: 3, now });
    return { ...made, ask, held };
  };

  test('it sends one asker to the home of the zone, has the others wait, and gets the piece from the one', () => {
    const { home, ask, held, ends } = near();
    expect(states(ask('one'))).toEqual(['check', 'one none at home']);
    expect([ask('two'), ask('three')].map(states)).toEqual([['two coming'], ['three coming']]);
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    const copy = held('one');
    expect(states(copy)).toEqual(['two have at one', 'three have at one', 'fetch by member']);
    expect(copy.at(-1)).toMatchObject({ member: 'one', cell: 3 });
    expect(states(ends(copy, { ok: true }))).toEqual([]);
    expect(states(ask('four'))).toEqual(['four have']);
  });

  test('it fetches nothing with a token that comes: who brings one is looked at, and sent on', () => {
    const { home, ask, get, send } = near();
    home.rights.learnedOfEveryone(SOURCE, false, 0);
    expect(states(ask('one'))).toEqual(['one bring']);
    expect(states(get('one', { hasToken: true, cell: 3 }))).toEqual(['check']);
    const checked = send({ type: 'checked', from: 'one', source: SOURCE, may: true, now: 0 });
    expect(checked).toMatchObject([{ type: 'reply', answer: { state: 'none', at: 'home' } }]);
  });

  test('where the one says nothing for a while the next one is sent; where it comes back without the piece, at once', () => {
    const { ask, send } = near({ upMs: 3_000 });
    ask('one');
    ask('two');
    ask('three');
    expect(states(send({ type: 'tick', now: 3_000 }))).toEqual(['two none at home']);
    // The home of the zone is silent.
    expect(states(ask('two', { tried: ['home'], now: 3_500 }))).toEqual(['two none at second']);
    expect(states(ask('two', { tried: ['home', 'second', 'third', 'fourth'], now: 3_600 }))).toEqual([
      'two none',
      'three none at home',
    ]);
  });

  test('where a reader of this very node gets the piece, as one of another cell, those who wait have it at once', () => {
    const { home, ask, send, key } = near();
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    ask('one');
    ask('two');
    expect(states(send({ type: 'kept', key: key(), from: 'else', now: 0 }))).toEqual(['two have']);
    expect(home.status().flights).toBe(0);
  });

  test('a member that comes for a copy as a home goes on waiting as a reader', () => {
    const { home, ask, get, send, key, now } = near({ uploads: 1 });
    home.rights.learnedOfEveryone(SOURCE, true, 0);
    send({ type: 'kept', key: key(), from: 'else', now: 0 });
    expect(states(ask('one'))).toEqual(['one have']);
    expect(states(ask('next'))).toEqual(['next coming']);
    expect(states(get('next', { forHome: true, cell: 3 }))).toEqual(['send']);
    expect(home.status().waiting).toBe(1);
    send({ type: 'hold', from: 'one', source: SOURCE, index: 0, ok: true, cell: 3, now: now() });
    expect(home.status().waiting).toBe(0);
  });

  test('a reader is sent as well where prefetch was sent, and waits behind no one', () => {
    const { ask } = near();
    expect(states(ask('one', { class: 'prefetch' }))).toEqual(['check', 'one none at home']);
    expect(states(ask('two', { class: 'prefetch' }))).toEqual(['two coming']);
    expect(states(ask('three'))).toEqual(['three none at home']);
    expect(states(ask('four'))).toEqual(['four coming']);
  });

  test('one that is a home of the zone, too, fetches as such', () => {
    const { ask } = newHome();
    expect(states(ask('one', { cell: 3 }))).toEqual(['fetch by member', 'one coming']);
    const second = newHome({}, 'second');
    expect(states(second.ask('one', { cell: 3, tried: ['home'] }))).toEqual([
      'fetch by everyone',
      'one coming',
    ]);
  });

  test('the second home of the cell does so as well: it is asked where the first is late. Who is no home of it names the zone', () => {
    const { ask } = newHome({}, 'next');
    expect(states(ask('one', { cell: 3 }))).toEqual(['check', 'one none at home']);
    expect(states(ask('two', { cell: 3 }))).toEqual(['two coming']);
    expect(states(newHome({}, 'else').ask('one', { cell: 3 }))).toEqual(['one none at home']);
  });

  test('homes of the cell get bytes to keep them, without a right; of another cell none do', () => {
    const { isPrivate, get } = newHome({}, 'holder');
    isPrivate();
    expect(states(get('near', { forHome: true, cell: 3 }))).toEqual(['send']);
    expect(states(get('near', { forHome: true }))).toEqual(['reply bring']);
  });
});

test('a request for bytes that others are to give is told so by a message: it gets no address in the place of bytes', () => {
  const { home, get, isPrivate, send } = newHome({ uploads: 1 });
  isPrivate();
  for (const one of ['one', 'two']) home.rights.learned(one, SOURCE, true, 0);
  home.sources.add(pieceKey(SOURCE, 0), 'holder');
  expect(states(get('one'))).toEqual(['send']);
  expect(states(get('two'))).toEqual(['reply coming', 'two have at holder']);
  expect(send({ type: 'tick', now: 0 })).toEqual([]);
});

test('who waits at a member that has the piece no more is told so, and where to ask', () => {
  const { home, ask, send, key } = newHome({ uploads: 1 }, 'holder');
  home.rights.learnedOfEveryone(SOURCE, true, 0);
  send({ type: 'kept', key: key(), from: 'else', now: 0 });
  expect([ask('one'), ask('two')].map(states)).toEqual([['one have'], ['two coming']]);
  const wrong = { type: 'wrong', from: 'three', member: 'holder', source: SOURCE, index: 0, now: 0 } as const;
  expect(states(send(wrong))).toEqual(['drop', 'two none at home', 'fetch by everyone']);
});

test('a member that had a piece has no one wait for the one that it was sent to: it does not hear of it', () => {
  const { home, ask, send, key } = newHome({}, 'holder');
  home.rights.learnedOfEveryone(SOURCE, true, 0);
  send({ type: 'kept', key: key(), from: 'else', now: 0 });
  ask('one');
  send({ type: 'lost', key: key(), now: 0 });
  expect(states(ask('two'))).toEqual(['two none at home']);
});
