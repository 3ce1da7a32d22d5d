/** Stand-in for src/registry/client.ts: a registry that is slow, silent, failing or lying as the plan says. */
import { CofaError } from '../../../../schemas/errors.ts';
import type { ResolvedImage } from '../../../../src/registry/client.ts';
import type { Reference } from '../../../../src/registry/reference.ts';
import { machine } from '../machine.ts';
import { digest, world } from '../world.ts';

export * from '../../../../src/registry/client.ts';

/** The engine gives a silent connection up after a third of the readers' deadline, ms at the least. */
const LEAST_SILENCE_MS = 1_000;

/** One request: takes its time, and may fail as requests do. */
export async function request(what: string, signal?: AbortSignal): Promise<void> {
  const { plan } = world();
  const { random } = machine();
  const silent = random.chance(plan.registrySilent);
  await machine().sleep(
    silent ? Math.max(LEAST_SILENCE_MS, plan.readDeadlineMs / 3) : plan.latencyMs * (0.5 + random.next()),
  );
  signal?.throwIfAborted();
  if (silent) {
    machine().meet('registry silent');
    throw new CofaError('timeout', `${what}: no answer`);
  }
  if (random.chance(plan.registryFails)) {
    machine().meet('registry fails');
    throw new CofaError('unavailable', `${what}: 500`);
  }
}

export class RegistryClient {
  /** It has no mirrors. */
  leftOut(): string[] {
    return [];
  }

  async resolve(reference: Reference): Promise<ResolvedImage> {
    await request('manifest');
    const image = world().images.find(
      ({ ref, manifest }) => ref === reference.text || manifest === reference.digest,
    );
    if (image === undefined) throw new CofaError('not-found', `no image ${reference.text}`);
    return {
      reference,
      descriptor: { mediaType: 'manifest', digest: image.manifest, size: 1 },
      manifest: {} as never,
      manifestBytes: Buffer.from(image.manifest),
      config: Buffer.from('{}'),
      configDescriptor: { mediaType: 'config', digest: digest(`config ${image.ref}`), size: 2 },
      isPublic: true,
      layers: image.layers.map(({ diffId, blob, size }) => ({
        diffId,
        blob: { mediaType: 'layer', digest: blob, size },
      })),
    };
  }

  async isPublic(): Promise<boolean> {
    await request('manifest');
    return true;
  }

  async hasBlob(): Promise<boolean> {
    await request('blob');
    return true;
  }

  /** There are no mirrors. */
  doubt(): boolean {
    return false;
  }

  /** And no members of a fleet. */
  settle(): void {}

  right(): void {}

  close(): Promise<void> {
    return Promise.resolve();
  }
}
