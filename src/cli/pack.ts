/** `cofa pack ls|push|rm`: startup packs, which the engine learns from starts by itself. */
import type { Command } from 'commander';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { StoredPackInfo } from '../pack/pack-store.ts';
import { type Context, examples } from './context.ts';
import { addRegistryOptions, type RegistryFlags } from './registry-options.ts';
import { registrySettings } from './registry-settings.ts';
import { formatBytes, renderTable, shortDigest } from '../terminal/table.ts';

interface PushOptions extends RegistryFlags {
  platform?: string;
}

export function define(command: Command, context: Context): void {
  command.description(
    'Startup packs: what images read while they start, in one compressed piece. The engine makes them from real starts and shares them with the nodes of its NATS; pushed beside the image, every node finds them.',
  );
  command
    .command('ls')
    .description('List the packs that this NATS has.')
    .action(async () => {
      const { store, close } = await openStore(context);
      try {
        const packs = await store.list();
        context.output.data({ packs }, () => render(packs));
      } finally {
        await close();
      }
    });
  addRegistryOptions(command.command('push'))
    .description('Put the pack of an image’s start beside the image into the registry.')
    .argument('<ref>', 'image as docker writes it')
    .argument('[command...]', 'the command that was started, where it was not the image’s own')
    .passThroughOptions()
    .option('--platform <os/arch>', 'which image of a multi-platform one (default: this machine’s)')
    .action((ref: string, args: string[], options: PushOptions) => push(ref, args, options, context));
  addRegistryOptions(command.command('rm'))
    .description('Forget what was learned about the starts of an image.')
    .argument('<ref>', 'image as docker writes it')
    .option('--platform <os/arch>', 'which image of a multi-platform one (default: this machine’s)')
    .action(async (ref: string, options: PushOptions) => {
      const { store, close } = await openStore(context);
      try {
        const { image, client } = await resolve(ref, options, context);
        await client.close();
        const packs = (await store.list()).filter(({ manifest }) => manifest === image.descriptor.digest);
        for (const { manifest, start } of packs) await store.remove(manifest, start);
        context.output.data({ removed: packs.length }, () => `${packs.length} packs removed`);
      } finally {
        await close();
      }
    });
  examples(command, [
    ['cofa pack ls', ''],
    ['cofa pack push app:1.4', 'the start of its own command'],
    ['cofa pack push app:1.4 python3 /app/worker.py', 'that of another one'],
  ]);
}

async function push(ref: string, args: string[], options: PushOptions, context: Context): Promise<void> {
  const signal = context.signal();
  const { store, close } = await openStore(context);
  try {
    const { image, client } = await resolve(ref, options, context);
    try {
      const [{ startKey }, { pushPack }] = await Promise.all([
        import('../container/options.ts'),
        import('../registry/packs.ts'),
      ]);
      const start = startKey({ args, entrypoint: undefined });
      const manifest = image.descriptor.digest;
      const known = (await store.list()).find((one) => one.manifest === manifest && one.start === start);
      if (known === undefined) {
        throw new CofaError(
          'not-found',
          `no startup pack of ${image.reference.text} is known for this command`,
          {
            hint: `start it once with an empty cache (cofa run ${ref}), and wait some seconds; cofa pack ls shows what there is`,
          },
        );
      }
      const pieces: Uint8Array[] = [];
      for await (const piece of store.read(known.name)) pieces.push(piece);
      const body = Buffer.concat(pieces);
      const descriptor = await pushPack(client, image, start, body, signal);
      context.output.data(
        { ref: image.reference.text, manifest, start, pack: descriptor.digest, bytes: body.length },
        () => `${image.reference.text}: startup pack ${descriptor.digest}, ${formatBytes(body.length)}`,
      );
    } finally {
      await client.close();
    }
  } finally {
    await close();
  }
}

async function openStore(context: Context) {
  const [{ connectBus }, { readEndpoint }, { PackStore }] = await Promise.all([
    import('../bus/connection.ts'),
    import('../client/endpoint.ts'),
    import('../pack/pack-store.ts'),
  ]);
  const { packs } = await readEndpoint(context.root);
  const bus = await connectBus(packs, { name: 'cofa-cli', reconnect: false });
  return { store: new PackStore(async () => bus), close: () => bus.close() };
}

async function resolve(ref: string, { platform, ...reach }: PushOptions, context: Context) {
  const [{ RegistryClient }, { parseReference }] = await Promise.all([
    import('../registry/client.ts'),
    import('../registry/reference.ts'),
  ]);
  const client = new RegistryClient(await registrySettings(reach, context));
  try {
    const signal = context.signal();
    const image = await client.resolve(parseReference(ref), defined({ signal, platform }));
    return { client, image };
  } catch (error) {
    await client.close();
    throw error;
  }
}

export function render(packs: readonly StoredPackInfo[]): string {
  if (packs.length === 0)
    return 'no startup packs yet: the engine makes one after the first cold start of an image';
  return renderTable(
    ['MANIFEST', 'START', 'SIZE', 'MADE'],
    packs.map(({ manifest, start, size, madeAt }) => [
      shortDigest(manifest),
      start,
      formatBytes(size),
      madeAt,
    ]),
    ['SIZE'],
  );
}
