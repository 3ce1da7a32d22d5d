/**
 * Fetches manifests, checked by digest, and finds the one image that a reference means on a platform.
 */
import { isDigest } from '../../schemas/digest.ts';
import { digestOf } from '../digest/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { ApiReply, RegistryApi, Source } from './api.ts';
import type { BlobReader } from './blob-reader.ts';
import { RequestFailure } from './failure.ts';
import {
  checkIsImage,
  type Descriptor,
  type ImageIndex,
  type ImageManifest,
  MAX_CONFIG,
  MAX_MANIFEST,
  MEDIA_TYPES,
  parseConfig,
  parseManifest,
  parseObject,
  type ResolvedImage,
} from './manifest.ts';
import { isModel, MODEL_TYPES, modelLayers } from './model.ts';
import { choosePlatform, formatPlatform, hostPlatform, type Platform, parsePlatform } from './platform.ts';
import { printable } from './printable.ts';
import type { Reference } from './reference.ts';
import { header, readBody } from './transport.ts';

export interface FetchedManifest {
  descriptor: Descriptor;
  bytes: Buffer;
  parsed: { kind: 'manifest'; manifest: ImageManifest } | { kind: 'index'; index: ImageIndex };
  /** The registry gave it to a request without credentials. */
  isPublic: boolean;
}

/** Indexes within indexes; real ones have one level, build tools at times two. */
const MAX_DEPTH = 3;
/** Entries without a platform whose configuration is fetched to find it. */
const MAX_UNTYPED = 8;

/** Types of manifests and indexes, for the header. */
export const ACCEPT = [
  MEDIA_TYPES.ociIndex,
  MEDIA_TYPES.dockerList,
  MEDIA_TYPES.ociManifest,
  MEDIA_TYPES.dockerManifest,
].join(', ');

/** Mirrors whose answers may be of no use before that is an error. */
const MOST_MIRRORS = 8;

/**
 * Fetches the manifest or index under a tag or digest. A digest is checked against the bytes; for a tag it is computed
 * from them. A header of the registry that names another digest is an `integrity` error, since then a proxy in between
 * changed the bytes. A mirror whose answer is no manifest, such as the page of a proxy that wants a login, is left out for a
 * while, and the next host is asked. (containerd goes on to the next host after a status of 400 or more and after a manifest
 * of more than 4 MiB; it takes a page for the manifest: `Resolve` in core/remotes/docker/resolver.go.)
 */
export async function fetchManifest(
  api: RegistryApi,
  source: Source,
  tagOrDigest: string,
  signal?: AbortSignal,
  options: { push?: boolean } = {},
): Promise<FetchedManifest> {
  const { registry, repository } = source;
  const name = isDigest(tagOrDigest) ? `${repository}@${tagOrDigest}` : `${repository}:${tagOrDigest}`;
  const what = `manifest ${name}`;
  const isDirect = options.push === true || source.direct === true;
  const ask = () =>
    api.request({
      registry,
      method: 'GET',
      target: `/v2/${repository}/manifests/${tagOrDigest}`,
      scope: { repository, push: options.push ?? false },
      headers: { accept: ACCEPT },
      // A mirror may say what a tag means only where hosts.toml lets it; what a digest means is proven.
      need: isDirect ? undefined : isDigest(tagOrDigest) ? ['pull'] : ['pull', 'resolve'],
      expect: [200],
      what,
      signal,
    });
  return await api.retry(what, signal, async () => {
    for (let answers = 1; ; answers++) {
      const reply = await ask();
      const { mirror, isAnonymous: isPublic } = reply;
      // What has the digest that was asked for is right, and so it is for each host.
      let isProven = false;
      try {
        const { bytes, digest } = await checkedBytes(reply, { registry, tagOrDigest, what, signal });
        isProven = isDigest(tagOrDigest);
        const parsed = parseManifest(bytes, header(reply, 'content-type'), `${registry}/${name}`);
        const { mediaType } = parsed.kind === 'index' ? parsed.index : parsed.manifest;
        return {
          descriptor: { mediaType, digest, size: bytes.length },
          bytes,
          parsed,
          isPublic,
        };
      } catch (error) {
        // An artifact that is no image is an answer, too.
        const isAnswer = isProven || (error instanceof CofaError && error.code === 'unsupported');
        if (mirror === undefined || isAnswer || signal?.aborted === true || answers > MOST_MIRRORS)
          throw error;
        api.blame(mirror, error instanceof OtherBytes ? 'wrong' : 'broken');
      }
    }
  });
}

/** The bytes are not those of the digest. */
class OtherBytes extends CofaError {}

/** The body of an answer, and its digest. Errors: `integrity` for other bytes than the digest's and for too many; those of the connection. */
async function checkedBytes(
  reply: ApiReply,
  of: { registry: string; tagOrDigest: string; what: string; signal: AbortSignal | undefined },
): Promise<{ bytes: Buffer; digest: string }> {
  const { registry, tagOrDigest, what, signal } = of;
  const bytes = await readBody(reply, MAX_MANIFEST, what, signal);
  const digest = digestOf(bytes);
  const promised = isDigest(tagOrDigest) ? tagOrDigest : header(reply, 'docker-content-digest');
  if (!isDigest(promised) || promised === digest) return { bytes, digest };
  throw new OtherBytes(
    'integrity',
    `${reply.mirror ?? registry} sends a ${what} whose digest is ${digest}, not ${promised}`,
    { hint: 'it was changed on the way or in the registry' },
  );
}

/** Finds and checks the image of a reference; see RegistryClient.resolve. */
export async function resolveImage(
  api: RegistryApi,
  blobs: BlobReader,
  reference: Reference,
  platform: string | undefined,
  signal: AbortSignal | undefined,
  onManifest: (descriptor: Descriptor, manifest: ImageManifest) => void = () => {},
  knownConfig: (digest: string) => Buffer | undefined = () => undefined,
): Promise<ResolvedImage> {
  const wanted = platform === undefined ? hostPlatform() : parsePlatform(platform);
  const context: Context = { api, blobs, reference, wanted, signal, onManifest, knownConfig };
  const tagOrDigest = reference.digest ?? reference.tag ?? 'latest';
  const first = await fetchManifest(api, reference, tagOrDigest, signal).catch(async (error: unknown) => {
    throw await explainMissing(context, tagOrDigest, error);
  });
  if (first.parsed.kind === 'manifest') {
    const image = await loadImage(context, first);
    // A reference that names one manifest by its digest means that manifest, whatever this machine is.
    const isMeant = platform === undefined && reference.digest !== undefined;
    if (isMeant || image.platform === undefined || choosePlatform(wanted, [{ platform: image.platform }])) {
      return image.resolved;
    }
    throw noPlatform(reference.text, wanted, [image.platform]);
  }
  const offered: Platform[] = [];
  const found = await fromIndex(context, first.parsed.index, 1, offered);
  if (found === undefined) throw noPlatform(reference.text, wanted, offered);
  return found;
}

interface Context {
  api: RegistryApi;
  blobs: BlobReader;
  reference: Reference;
  wanted: Platform;
  signal: AbortSignal | undefined;
  /** Gets an image's manifest before its configuration is fetched. */
  onManifest: (descriptor: Descriptor, manifest: ImageManifest) => void;
  /** A configuration, by its digest, that need not be fetched. */
  knownConfig: (digest: string) => Buffer | undefined;
}

async function fromIndex(
  context: Context,
  index: ImageIndex,
  depth: number,
  offered: Platform[],
): Promise<ResolvedImage | undefined> {
  const entries = index.manifests.filter(isImageEntry);
  const withPlatform = entries.flatMap((entry) =>
    entry.platform === undefined ? [] : [{ ...entry, platform: entry.platform }],
  );
  offered.push(...withPlatform.map(({ platform }) => platform));
  const best = choosePlatform(context.wanted, withPlatform);
  if (best !== undefined) return await fromEntry(context, best, depth, offered, false);
  // Entries without a platform: their configuration names it.
  for (const entry of entries.filter(({ platform }) => platform === undefined).slice(0, MAX_UNTYPED)) {
    const found = await fromEntry(context, entry, depth, offered, true);
    if (found !== undefined) return found;
  }
  return undefined;
}

async function fromEntry(
  context: Context,
  entry: Descriptor,
  depth: number,
  offered: Platform[],
  checkPlatform: boolean,
): Promise<ResolvedImage | undefined> {
  const { api, reference, signal, wanted } = context;
  const fetched = await fetchManifest(api, reference, entry.digest, signal);
  const where = `${reference.registry}/${reference.repository}@${entry.digest}`;
  if (fetched.bytes.length !== entry.size) {
    throw new CofaError(
      'integrity',
      `${where}: it has ${fetched.bytes.length} bytes, its index says ${entry.size}`,
    );
  }
  if (fetched.parsed.kind === 'index') {
    if (depth === MAX_DEPTH) {
      throw new CofaError('unsupported', `${where}: indexes are nested more than ${MAX_DEPTH} deep`);
    }
    return await fromIndex(context, fetched.parsed.index, depth + 1, offered);
  }
  const { resolved, platform } = await loadImage(context, fetched);
  if (checkPlatform && platform !== undefined) {
    offered.push(platform);
    if (choosePlatform(wanted, [{ platform }]) === undefined) return undefined;
  }
  if (entry.platform !== undefined) resolved.descriptor.platform = entry.platform;
  return resolved;
}

async function loadImage(
  context: Context,
  fetched: FetchedManifest,
): Promise<{ resolved: ResolvedImage; platform: Platform | undefined }> {
  const { blobs, reference, signal } = context;
  const { descriptor, bytes, parsed, isPublic } = fetched;
  const where = `${reference.registry}/${reference.repository}@${descriptor.digest}`;
  if (parsed.kind !== 'manifest')
    throw new CofaError('internal', `${where}: an index where an image was expected`);
  const { manifest } = parsed;
  const isFiles = isModel(manifest);
  if (!isFiles) checkIsImage(manifest, where);
  context.onManifest(descriptor, manifest);
  const config =
    context.knownConfig(manifest.config.digest) ??
    (await blobs.whole(reference, manifest.config, MAX_CONFIG, signal));
  const { platform, layers } = isFiles
    ? { platform: undefined, layers: modelLayers(manifest, config, where) }
    : imageLayers(manifest, config, where);
  return {
    platform,
    resolved: {
      reference,
      descriptor,
      manifest,
      manifestBytes: bytes,
      config,
      configDescriptor: manifest.config,
      isPublic,
      layers,
    },
  };
}

function imageLayers({ layers }: ImageManifest, config: Buffer, where: string) {
  const { platform, diffIds } = parseConfig(config, layers.length, `the configuration of ${where}`);
  return { platform, layers: layers.map((blob, i) => ({ blob, diffId: diffIds[i] as string })) };
}

/** Attestations and other artifacts stand in indexes beside the images; they are for no platform. */
function isImageEntry(entry: Descriptor): boolean {
  const { platform, annotations, mediaType, artifactType } = entry;
  if (platform?.os === 'unknown' || platform?.architecture === 'unknown') return false;
  if (annotations?.['vnd.docker.reference.type'] !== undefined) return false;
  if (artifactType !== undefined && !MODEL_TYPES.has(artifactType)) return false;
  const types: string[] = [
    MEDIA_TYPES.ociManifest,
    MEDIA_TYPES.dockerManifest,
    MEDIA_TYPES.ociIndex,
    MEDIA_TYPES.dockerList,
  ];
  return types.includes(mediaType);
}

function noPlatform(name: string, wanted: Platform, offered: readonly Platform[]): CofaError {
  const list = [...new Set(offered.map((platform) => printable(formatPlatform(platform))))];
  const has = list.length === 0 ? 'no image at all' : list.slice(0, 40).join(', ');
  const message = `${name} has no image for ${formatPlatform(wanted)}; it has ${has}`;
  return new CofaError(
    'not-found',
    message,
    list.length === 0 ? {} : { hint: 'choose one of them with --platform' },
  );
}

/** Finds out whether the repository or only the tag is missing: registries give the same answer to both. */
async function explainMissing(context: Context, tagOrDigest: string, error: unknown): Promise<unknown> {
  if (!(error instanceof RequestFailure) || error.status !== 404) return error;
  const { api, reference, signal } = context;
  const { registry, domain, repository } = reference;
  const fail = (message: string, hint: string) => new CofaError('not-found', message, { cause: error, hint });
  const noRepository = () =>
    fail(
      `${registry} has no repository ${repository}`,
      `check the name, and that ${domain} is the registry you mean`,
    );
  if (error.serverCode === 'NAME_UNKNOWN') return noRepository();
  let tags: string[];
  try {
    tags = await listTags(api, reference, signal);
  } catch (cause) {
    signal?.throwIfAborted();
    return cause instanceof RequestFailure && cause.status === 404 ? noRepository() : error;
  }
  if (isDigest(tagOrDigest)) {
    return fail(
      `${registry}/${repository} has no manifest ${tagOrDigest}`,
      'it may have been deleted; use a tag',
    );
  }
  const known = tags.slice(0, 20).map(printable).join(', ');
  return fail(
    `${registry}/${repository} has no tag "${tagOrDigest}"`,
    known === '' ? 'it has no tags at all' : `it has ${known}${tags.length > 20 ? ', …' : ''}`,
  );
}

/** Some tags of a repository, as many as the registry sends at once. One attempt, for messages only. */
async function listTags(
  api: RegistryApi,
  source: Source,
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const { registry, repository } = source;
  const reply = await api.request({
    registry,
    method: 'GET',
    target: `/v2/${repository}/tags/list?n=100`,
    scope: { repository, push: false },
    expect: [200],
    what: `the tags of ${repository}`,
    signal,
  });
  const body = await readBody(reply, MAX_MANIFEST, 'the list of tags', signal);
  const { tags } = parseObject(body, 'the list of tags');
  // The fallback tags of referrers are no images.
  return Array.isArray(tags)
    ? tags.filter((tag) => typeof tag === 'string').filter((tag) => !/^sha256-[0-9a-f]{64}/.test(tag))
    : [];
}
