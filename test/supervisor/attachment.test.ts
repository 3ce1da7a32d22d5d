/** The loop devices of an image, on the kernel's own. */
import { type FileHandle, mkdir, open, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import pino from 'pino';
import { afterAll, expect, it, vi } from 'vitest';
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
      const loop = await vi.waitUntil(async () => (await listLoops()).find((one) => one.label === label));
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
