/** The loop devices of an image, on the kernel's own. */
import { type FileHandle, mkdir, open, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import pino from 'pino';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { CofaError } from '../../schemas/errors.ts';
import { listLoops } from '../../src/kernel/loop.ts';
import { Layout } from '../../src/store/layout.ts';
import { Attachment, type AttachOrder } from '../../src/supervisor/images/attachment.ts';
import type { Devices } from '../../src/supervisor/layers/devices.ts';
import { flatLabel, Leftovers } from '../../src/supervisor/mounts/leftovers.ts';
import { digest } from '../signature/support.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

it('a layer that cannot be attached is what the mount fails for, also where the flat loop is still in use', async () => {
  const manifest = digest('a');
  const engine = `cofa-test-${process.pid}`;
  const label = flatLabel(engine, manifest);
  const layout = new Layout(await cleanup.tempDir('attachment'));
  await layout.prepare();
  await mkdir(dirname(layout.flat(manifest)), { recursive: true });
  await writeFile(layout.flat(manifest), Buffer.alloc(4096));
  let user: FileHandle | undefined;
  // With its last user the kernel detaches the loop.
  cleanup.defer(() => user?.close());
  const devices = {
    isLost: () => false,
    release: async () => {},
    // A program, such as blkid, opens the flat loop; then the layer fails.
    acquire: async () => {
      const loop = await vi.waitUntil(
        async () => (await listLoops()).find((one) => one.label === label),
        60_000,
      );
      user = await open(loop.path);
      throw new CofaError('no-space', 'the layer has no room');
    },
  } as unknown as Devices;
  const log = pino({ level: 'silent' });
  const attachment = new Attachment(
    { layout, log, devices, label: engine, leftovers: await Leftovers.find(layout, engine) },
    'image',
  );
  const order = {
    manifest,
    resolved: { ref: 'registry.example/app:1', layers: [] },
    prepared: { devices: [{ diffId: digest('b'), size: 512, spans: digest('c') }] },
    isBuilt: false,
  } as unknown as AttachOrder;
  await expect(attachment.attach(order)).rejects.toMatchObject({ message: 'the layer has no room' });
});

describe('layers that are acquired while their flat image is looked at', () => {
  const manifest = digest('d');
  const device = (name: string, table: string) => ({
    diffId: digest(name),
    size: 1 << 20,
    spans: digest('c'),
    table: digest(table),
  });
  const resolved = { ref: 'registry.example/app:1', layers: [] } as never;

  /** `held`: by layer, in whose names it is acquired. */
  async function attachmentOf(engine: string, failures = 0) {
    const held = new Map<string, string[]>();
    const layout = new Layout(await cleanup.tempDir('ahead'));
    await layout.prepare();
    await mkdir(dirname(layout.flat(manifest)), { recursive: true });
    await writeFile(layout.flat(manifest), Buffer.alloc(4096));
    let left = failures;
    const acquire = vi.fn(async ({ diffId }: { diffId: string }, user: string) => {
      if (left-- > 0) throw new CofaError('unavailable', 'no front end');
      held.set(diffId, [...(held.get(diffId) ?? []), user]);
      return { number: -1, path: '/dev/null', label: '' };
    });
    const release = async (diffId: string, user: string) => {
      expect(held.get(diffId)).toContain(user);
      held.set(diffId, held.get(diffId)?.filter((one) => one !== user) ?? []);
    };
    const devices = { isLost: () => false, setRate: () => {}, acquire, release } as unknown as Devices;
    const leftovers = await Leftovers.find(layout, engine);
    const log = pino({ level: 'silent' });
    const attachment = new Attachment({ layout, log, devices, label: engine, leftovers }, 'image');
    cleanup.defer(() => attachment.detach('app'));
    const attach = async (...of: Array<ReturnType<typeof device>>) =>
      await attachment.attach({ manifest, resolved, prepared: { devices: of } as never, isBuilt: false });
    const holders = () => [...held].map(([id, users]) => [id, users.length]);
    return { attachment, acquire, attach, holders };
  }

  it('are taken as they are, and those that it has no use for are let go', async () => {
    const { attachment, acquire, attach, holders } = await attachmentOf(`cofa-ahead-${process.pid}-1`);
    for (const name of ['a', 'b']) attachment.ahead(resolved, device(name, 'e'));
    // A layer with next to nothing in it may be none of the flat image's.
    attachment.ahead(resolved, { ...device('c', 'e'), size: 1024 });
    await attach(device('a', 'e'));
    await attachment.dropAhead('app');
    expect(acquire).toHaveBeenCalledTimes(2);
    expect(holders()).toEqual([
      [digest('a'), 1],
      [digest('b'), 0],
    ]);
    await attachment.detach('app');
    expect(holders()).toContainEqual([digest('a'), 0]);
  });

  it('are acquired anew where the sidecar that named them was passed over, or the front end did not answer', async () => {
    const { attachment, acquire, attach, holders } = await attachmentOf(`cofa-ahead-${process.pid}-2`, 1);
    // The first of them fails.
    for (const name of ['a', 'b']) attachment.ahead(resolved, device(name, 'e'));
    await attach(device('a', 'e'), device('b', 'f'));
    expect(acquire).toHaveBeenCalledTimes(4);
    expect(holders()).toEqual([
      [digest('b'), 1],
      [digest('a'), 1],
    ]);
  });

  it('are let go where nothing comes of the image, whatever is acquired meanwhile', async () => {
    const { attachment, attach, holders } = await attachmentOf(`cofa-ahead-${process.pid}-3`);
    attachment.ahead(resolved, device('a', 'e'));
    const dropped = attachment.dropAhead('app');
    attachment.ahead(resolved, device('a', 'e'));
    await attach(device('a', 'e'));
    await dropped;
    expect(holders()).toEqual([[digest('a'), 1]]);
  });
});
