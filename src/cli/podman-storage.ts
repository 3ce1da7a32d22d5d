/** What podman's own storage says: where it is, which stores it looks at beside it, and what stands on an image of cofa. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { imageStoresOf, SYSTEM_STORAGE_CONF } from '../install/podman.ts';
import { tableValue } from '../install/toml-edit.ts';

const GRAPHROOT = '/var/lib/containers/storage';

/** podman takes the first of both files as a whole. */
async function confText(path: string): Promise<string> {
  const read = (file: string) => readFile(file, 'utf8').catch(() => undefined);
  return (await read(path)) ?? (await read(SYSTEM_STORAGE_CONF)) ?? '';
}

export async function knowsStore(path: string, root: string): Promise<boolean> {
  return imageStoresOf(await confText(path)).includes(join(root, 'podman'));
}

/** Where podman keeps what is its own. */
export async function storageOf(path: string): Promise<{ graphroot: string }> {
  const literal = tableValue(await confText(path), ['storage'], 'graphroot');
  return { graphroot: /^["'](.+)["']$/.exec(literal ?? '')?.[1] ?? GRAPHROOT };
}

const Layers = z.array(z.object({ id: z.string(), parent: z.string().optional() }));
const Images = z.array(
  z.object({ id: z.string(), names: z.array(z.string()).optional(), layer: z.string().optional() }),
);
const Containers = z.array(
  z.object({ id: z.string(), names: z.array(z.string()).optional(), layer: z.string().optional() }),
);

/**
 * Containers and images of podman, in words, that could not start without the image. Empty where it would keep a name, where
 * podman does not see it, or has no storage. Error `unsupported` where its files are not understood.
 */
export async function usersOf(order: { ref: string; store: string; graphroot: string }): Promise<string[]> {
  const { ref, store, graphroot } = order;
  const ours = await list(Images, store, 'overlay-images/images.json');
  const isNamed = (names: readonly string[]) =>
    names.some((name) => name === ref || name.endsWith(`/${ref}`));
  const image = ours.find(
    ({ id, names = [] }) => isNamed(names) || (ref.length >= 6 && id.startsWith(ref.replace('sha256:', ''))),
  );
  if (image === undefined) return [];
  if (isNamed(image.names ?? []) && (image.names ?? []).length > 1) return [];
  const parents = new Map(
    (await list(Layers, store, 'overlay-layers/layers.json')).map(({ id, parent }) => [id, parent]),
  );
  const gone = below(image.layer, parents);
  for (const other of ours)
    if (other !== image) for (const id of below(other.layer, parents)) gone.delete(id);

  const own = [
    ...(await list(Layers, graphroot, 'overlay-layers/layers.json')),
    ...(await list(Layers, graphroot, 'overlay-layers/volatile-layers.json')),
  ];
  const all = new Map([...parents, ...own.map(({ id, parent }) => [id, parent] as const)]);
  const stands = (layer: string | undefined) => [...below(layer, all)].some((id) => gone.has(id));
  const containers = [
    ...(await list(Containers, graphroot, 'overlay-containers/containers.json')),
    ...(await list(Containers, graphroot, 'overlay-containers/volatile-containers.json')),
  ];
  const images = await list(Images, graphroot, 'overlay-images/images.json');
  return [
    ...containers.filter(({ layer }) => stands(layer)).map((one) => `the container ${called(one)}`),
    ...images.filter(({ layer }) => stands(layer)).map((one) => `the image ${called(one)}`),
  ];
}

/** The layer and all below it. */
function below(layer: string | undefined, parents: ReadonlyMap<string, string | undefined>): Set<string> {
  const ids = new Set<string>();
  for (let id = layer; id !== undefined && id !== '' && !ids.has(id); id = parents.get(id)) ids.add(id);
  return ids;
}

const called = ({ id, names }: { id: string; names?: string[] | undefined }): string =>
  names?.[0] ?? id.slice(0, 12);

async function list<Schema extends z.ZodArray>(
  schema: Schema,
  ...path: string[]
): Promise<z.output<Schema> | []> {
  const file = join(...path);
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '[]';
    throw new CofaError('environment', `${file} cannot be read (${error.code})`, { hint: 'sudo' });
  });
  try {
    return schema.parse(JSON.parse(text === '' ? '[]' : text));
  } catch (cause) {
    throw new CofaError('unsupported', `${file} is not understood: what stands on the image is not known`, {
      hint: '--force removes it without a look',
      cause,
    });
  }
}
