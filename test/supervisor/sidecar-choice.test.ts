/** What it takes to use a sidecar, in its order. */
import { afterAll, expect, it } from 'vitest';
import { serveRehearsalImage } from '../../src/process/rehearsal/image.ts';
import { type ChoiceOptions, chooseSidecar } from '../../src/supervisor/images/sidecar-choice.ts';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
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
