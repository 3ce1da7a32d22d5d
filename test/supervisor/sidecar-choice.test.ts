/** What it takes to use a sidecar, in its order. */
import { afterAll, expect, it } from 'vitest';
import { type FleetWord, fleetWord, Ledger } from '../../actors/fleet-ledger.ts';
import { digestOf } from '../../src/digest/digest.ts';
import { serveRehearsalImage } from '../../src/process/rehearsal/image.ts';
import { type ChoiceOptions, chooseSidecar } from '../../src/supervisor/images/sidecar-choice.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { SIDECAR_REVISION } from '../../src/registry/sidecars.ts';
import { LaterSync } from '../../src/store/later-sync.ts';
import { Layout } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** Notes when each blob has come. */
class Watched extends RegistryClient {
  readonly seen: string[];

  constructor(seen: string[]) {
    super({ dockerConfig: '/nonexistent', certDirs: [], environment: {} });
    this.seen = seen;
  }

  override async blob(...call: Parameters<RegistryClient['blob']>): Promise<Buffer> {
    this.seen.push('asked');
    const bytes = await super.blob(...call);
    this.seen.push('came');
    return bytes;
  }
}

const layout = new Layout(await cleanup.tempDir('sidecar-choice'));
await layout.prepare();
const image = await serveRehearsalImage(layout);
cleanup.defer(() => image.close());

async function choose(refuted?: string, change: Partial<ChoiceOptions> = {}) {
  const seen: string[] = [];
  const passed: string[] = [];
  const registry = new Watched(seen);
  cleanup.defer(() => registry.close());
  const { prepared, plan } = await chooseSidecar({
    layout,
    files: new LaterSync(),
    registry,
    manifest: image.manifest,
    image: await registry.resolve(parseReference(image.ref)),
    policy: 'registry',
    known: undefined,
    roots: new Map(),
    signers: undefined,
    refuted: { flat: refuted, sidecars: new Set() },
    onFetched: () => seen.push('fetched'),
    onPassed: (sentence) => passed.push(sentence),
    ...change,
  });
  return { seen, prepared, passed, plan };
}

it('all of its parts are asked for at once, and who waits for them hears when the last has come', async () => {
  const { seen, prepared } = await choose();
  expect(seen).toEqual(['asked', 'asked', 'came', 'came', 'fetched']);
  expect(prepared?.devices).toHaveLength(1);
});

it('one whose flat metadata were refuted is passed over, whatever becomes of its other parts', async () => {
  const { prepared } = await choose();
  const again = await choose(prepared?.flat);
  expect(again.prepared).toBeUndefined();
  expect(again.passed).toEqual([expect.stringContaining('its flat metadata were refuted')]);
});

it('one that no one vouches for is passed over before it is fetched, and is a plan unless it was refuted', async () => {
  const { seen, prepared, plan } = await choose(undefined, { policy: 'signed' });
  expect([seen, prepared]).toEqual([[], undefined]);
  const digest = plan?.descriptor.digest ?? '';
  expect(digest).toMatch(/^sha256:/);
  const refuted = { flat: undefined, sidecars: new Set([digest]) };
  expect((await choose(undefined, { policy: 'signed', refuted })).plan).toBeUndefined();
});

it('layers are told of before the flat metadata are looked at, of a sidecar that someone vouches for alone', async () => {
  const told: unknown[] = [];
  const onTable = (device: unknown) => told.push(device);
  const { prepared } = await choose(undefined, { onTable });
  expect(told).toEqual(prepared?.devices);
  // Passed over for its metadata: by then they were told.
  await choose(prepared?.flat, { onTable });
  expect(told).toHaveLength(2);
  await choose(undefined, { onTable, policy: 'signed' });
  // This node knows another block root of the layer.
  const [{ diffId = '' } = {}] = prepared?.devices ?? [];
  const roots: ChoiceOptions['roots'] = new Map([[diffId, { proven: 'another', refuted: [], at: 0 }]]);
  expect((await choose(undefined, { onTable, roots })).prepared).toBeUndefined();
  expect(told).toHaveLength(2);
});

it('one that members of the fleet vouch for is taken on their word, and another one is not', async () => {
  const { prepared: honest } = await choose();
  const flat = honest?.flat ?? '';
  const [device] = honest?.devices ?? [];
  const { diffId = '', root = '' } = device ?? {};
  const wordOf = (said: { flat: string; root: string }) => async (): Promise<FleetWord> => {
    const subject = { layers: digestOf('layers'), diffIds: [diffId] };
    const ledger = new Ledger({ self: 'self', witnesses: 1, disbelieved: new Set(), subject });
    const entry = { v: 1, verdict: 'proven' } as const;
    const { layers } = subject;
    ledger.heard('one', { ...entry, kind: 'root', diffId, root: said.root });
    ledger.heard('one', { ...entry, kind: 'flat', layers, revision: SIDECAR_REVISION, flat: said.flat });
    return fleetWord(ledger, { nodes: 1, answered: 1 });
  };
  const told: unknown[] = [];
  const onTable = (one: unknown) => told.push(one);
  const ask = (fleet?: ChoiceOptions['fleet']) => choose(undefined, { policy: 'fleet', fleet, onTable });
  const taken = await ask(wordOf({ flat, root }));
  expect(taken.prepared).toMatchObject({ flat, vouched: 'fleet:one' });
  // Its layers may be attached while the metadata are looked at: their roots are proven.
  expect(told).toEqual(honest?.devices);
  for (const other of [
    { flat: digestOf('forged'), root },
    { flat, root: digestOf('forged') },
  ]) {
    const { prepared, passed, plan } = await ask(wordOf(other));
    expect(prepared).toBeUndefined();
    expect(passed).toEqual([expect.stringContaining('no member of the fleet has proven what it holds')]);
    expect(plan).toBeDefined();
  }
  // Of a layer whose root no member has proven none is told.
  expect(told).toHaveLength(2);
  const alone = await ask();
  expect([alone.seen, alone.prepared]).toEqual([[], undefined]);
  expect(alone.passed).toEqual([expect.stringContaining('this node is of no fleet')]);
});
