/**
 * Blobs of layers that stay in the registry, as containerd's content store has them: an entry of its database, and, where
 * the file would be, a link to one that is fetched when it is read (src/snapshotter/blob-files.ts).
 *
 *     CONTENT/blobs/sha256/<hex> ──▶ ROOT/blobs/<hex>
 *
 * To containerd, and to all that ask it, the blob is there: it looks for the file by stat(2), and reads it by open(2) and
 * read(2) (plugins/content/local/store.go). Its garbage collection removes the link as it would the file. The entry is made
 * without data, as for a blob that another namespace has (core/metadata/content.go, `shared`). The label LAZY_LABEL tells
 * such entries from others, and whence their bytes come.
 */
import { randomBytes } from 'node:crypto';
import { lstat, open, readlink, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { hexOf, isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryClient } from '../registry/client.ts';
import { MAX_MANIFEST, parseManifest } from '../registry/manifest.ts';
import { parseReference, type Reference } from '../registry/reference.ts';
import { type ContainerdClient, isCode } from './client.ts';
import {
  WriteAction,
  WriteContentRequestSchema,
} from './generated/containerd/services/content/v1/content_pb.ts';
import { sourceLabel } from './labels.ts';
import { read } from './pulled-image.ts';

/** On entries without a file of their own; its value: DOMAIN/REPOSITORY. */
export const LAZY_LABEL = 'io.cofa.lazy';

export interface BlobName {
  digest: string;
  /** Bytes. */
  size: number;
}

export interface LazyBlob extends BlobName {
  source: Reference;
}

/** The content store's folder. Errors: containerd's (ConnectError); `unsupported` where that store is another one. */
export async function contentFolder({ introspection }: ContainerdClient): Promise<string> {
  const { plugins } = await introspection.plugins({ filters: ['type==io.containerd.content.v1'] });
  const [only, second] = plugins;
  const folder = only?.exports.root;
  if (only?.id === 'content' && second === undefined && folder !== undefined && folder.startsWith('/'))
    return folder;
  throw new CofaError('unsupported', 'the content store of this containerd is not its own folder of files');
}

/** The layers of a manifest that containerd has. Errors: containerd's (ConnectError), those of a bad manifest. */
export async function layersOf(containerd: ContainerdClient, manifest: string): Promise<BlobName[]> {
  const parsed = parseManifest(await read(containerd, manifest, MAX_MANIFEST), undefined, manifest);
  if (parsed.kind === 'index') throw new CofaError('unsupported', `${manifest} is an index`);
  return parsed.manifest.layers;
}

/** Digests of all blobs of the client's namespace, and the lazy ones; of these, what cannot be understood is left out. */
export async function knownContent({
  content,
}: ContainerdClient): Promise<{ all: Set<string>; lazy: LazyBlob[] }> {
  const all = new Set<string>();
  const lazy: LazyBlob[] = [];
  for await (const { info } of content.list({})) {
    for (const { digest, size, labels } of info) {
      all.add(digest);
      const source = referenceOf(labels[LAZY_LABEL] ?? '');
      if (source !== undefined && isDigest(digest)) lazy.push({ digest, size: Number(size), source });
    }
  }
  return { all, lazy };
}

function referenceOf(text: string): Reference | undefined {
  try {
    if (text === '') return undefined;
    return parseReference(text);
  } catch {
    return undefined;
  }
}

/** A link was removed before its entry was there: garbage collection may come in between. */
const TRIES = 3;

/**
 * Makes the blob one of the client's namespace. `file`: what gives its bytes; it must be there. A blob that containerd has
 * as a file is used as it is. Errors: containerd's (ConnectError), those of the file system.
 */
export async function addLazy(
  containerd: ContainerdClient,
  folder: string,
  { digest, size, source }: LazyBlob,
  file: string,
): Promise<void> {
  if (await isKnown(containerd, digest)) return;
  const { domain, repository } = source;
  for (let attempt = 1; ; attempt += 1) {
    const isLink = await linkBlob(folder, digest, file);
    const labels = {
      [sourceLabel(domain)]: repository,
      ...(isLink ? { [LAZY_LABEL]: `${domain}/${repository}` } : {}),
    };
    const ref = `cofa-${randomBytes(6).toString('hex')}-${digest}`;
    const [action, total] = [WriteAction.COMMIT, BigInt(size)];
    const request = { action, ref, total, expected: digest, offset: total, labels };
    async function* requests() {
      yield create(WriteContentRequestSchema, request);
    }
    try {
      for await (const _ of containerd.content.write(requests()));
      return;
    } catch (error) {
      if (isCode(error, Code.AlreadyExists)) return;
      await containerd.content.abort({ ref }).catch(() => {});
      if (!isCode(error, Code.OutOfRange) || attempt === TRIES) throw error;
    }
  }
}

async function isKnown({ content }: ContainerdClient, digest: string): Promise<boolean> {
  try {
    await content.info({ digest });
    return true;
  } catch (error) {
    if (isCode(error, Code.NotFound)) return false;
    throw error;
  }
}

/** Where containerd looks for the blob's file. */
const blobPath = (folder: string, digest: string): string => join(folder, 'blobs/sha256', hexOf(digest));

/** True when the blob's place has the link now; false when it has a file. A link to elsewhere is exchanged. */
export async function linkBlob(folder: string, digest: string, file: string): Promise<boolean> {
  const path = blobPath(folder, digest);
  try {
    await symlink(file, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  if (!(await isLink(path))) return false;
  if ((await readlink(path)) === file) return true;
  const draft = draftPath(folder);
  await symlink(file, draft);
  await rename(draft, path);
  return true;
}

/** containerd looks into the folders `blobs` and `ingest` only. */
const draftPath = (folder: string): string => join(folder, `cofa-${randomBytes(6).toString('hex')}`);

const isLink = async (path: string): Promise<boolean> => (await lstat(path)).isSymbolicLink();

/**
 * Gives a lazy blob of the client's namespace a file of its own, from the registry. Undefined where it is not a lazy one.
 * Errors: the registry's, those of the file system, containerd's (ConnectError).
 */
export async function keepLazy(
  containerd: ContainerdClient,
  registry: RegistryClient,
  { digest, size, source }: LazyBlob,
  options: { onBytes: (count: number) => void; signal: AbortSignal },
): Promise<void> {
  const folder = await contentFolder(containerd);
  const path = blobPath(folder, digest);
  if (await isLink(path).catch(() => true)) {
    const draft = draftPath(folder);
    const file = await open(draft, 'wx', 0o444);
    try {
      // Throws at its end where the digest is wrong.
      for await (const piece of registry.blobStream(source, { digest, size }, options.signal)) {
        await file.writeFile(piece);
        options.onBytes(piece.length);
      }
      await file.sync();
      await rename(draft, path);
    } finally {
      await file.close();
      await rm(draft, { force: true });
    }
  }
  const updateMask = { paths: [`labels.${LAZY_LABEL}`] };
  await containerd.content.update({ info: { digest, labels: { [LAZY_LABEL]: '' } }, updateMask });
}

/** Takes the lazy blobs out of the client's namespace, so that a pull fetches them; returns how many there were. */
export async function forgetLazy(containerd: ContainerdClient): Promise<number> {
  const { lazy: blobs } = await knownContent(containerd);
  if (blobs.length === 0) return 0;
  const folder = await contentFolder(containerd);
  for (const { digest } of blobs) {
    await containerd.content.delete({ digest }).catch((error: unknown) => {
      if (!isCode(error, Code.NotFound)) throw error;
    });
    const path = blobPath(folder, digest);
    if (await isLink(path).catch(() => false)) await rm(path, { force: true });
  }
  return blobs.length;
}
