/** The documents of an image that podman wants: manifest, configuration, index. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { CofaError } from '../../../schemas/errors.ts';
import { digestOf } from '../../digest/digest.ts';
import type { RegistryClient } from '../../registry/client.ts';
import { parseReference, type Reference } from '../../registry/reference.ts';
import type { Layout } from '../../store/layout.ts';
import type { Image } from '../images/image.ts';
import { type BigItem, itemsOf } from './documents.ts';
import type { StoreFiles } from './files.ts';

const Config = z.object({ created: z.iso.datetime({ offset: true }).optional() });

/**
 * `index`: digest of the index that the reference names, where it names one. Errors: `integrity` where the engine's files are not
 * what their names say, those of the registry.
 */
export async function itemsOfImage(
  image: Image,
  reference: Reference,
  { layout, registry }: { layout: Layout; registry: RegistryClient },
): Promise<{ list: Array<BigItem & { bytes: Buffer }>; index: string | undefined }> {
  const [manifest, config] = await documentsOf(image, { layout, registry });
  if (digestOf(manifest) !== image.manifest || digestOf(config) !== image.resolved.config)
    throw new CofaError('integrity', `the documents of ${image.resolved.ref} are not what their digests say`);
  const named = reference.digest ?? reference.tag ?? 'latest';
  const found = named === image.manifest ? undefined : await registry.manifest(reference, named);
  const index = found?.parsed.kind === 'index' ? found.bytes : undefined;
  return { list: itemsOf({ config, manifest, index }), index: index && digestOf(index) };
}

/** A mount has had them written. An image all of whose layers others have mounted was never mounted itself. */
async function documentsOf(
  { manifest, resolved }: Image,
  { layout, registry }: { layout: Layout; registry: RegistryClient },
): Promise<[Buffer, Buffer]> {
  try {
    return await Promise.all([readFile(layout.manifest(manifest)), readFile(layout.config(manifest))]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    const named = parseReference(`${resolved.ref.split('@')[0]}@${manifest}`);
    const { manifestBytes, config } = await registry.resolve(named);
    return [manifestBytes, config];
  }
}

/** The documents as the store has them; undefined where one is missing or damaged. */
export async function storedItems(
  id: string,
  { manifest, config, index }: { manifest: string; config: string; index: string | undefined },
  files: StoreFiles,
): Promise<{ list: BigItem[]; created: Date } | undefined> {
  const [manifestBytes, configBytes, indexBytes] = await Promise.all([
    files.item(id, 'manifest', manifest),
    files.item(id, config, config),
    index === undefined ? undefined : files.item(id, `manifest-${index}`, index),
  ]);
  if (manifestBytes === undefined || configBytes === undefined) return undefined;
  if (index !== undefined && indexBytes === undefined) return undefined;
  const list = itemsOf({ config: configBytes, manifest: manifestBytes, index: indexBytes });
  return { list: list.map(({ bytes: _bytes, ...item }) => item), created: createdOf(configBytes) };
}

/** podman shows images without a date as ones of the year 1. */
function createdOf(config: Buffer): Date {
  try {
    const { created } = Config.parse(JSON.parse(config.toString('utf8')));
    return created === undefined ? NEVER : new Date(created);
  } catch {
    return NEVER;
  }
}

const NEVER = new Date('0001-01-01T00:00:00Z');
