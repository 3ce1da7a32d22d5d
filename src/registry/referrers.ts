/**
 * Manifests that refer to another one by `subject` (OCI distribution-spec v1.1, "Listing Referrers"), from the
 * referrers API or, where a registry has none, from the "Referrers Tag Schema": an index under the tag `sha256-<hex>`
 * that clients keep themselves.
 *
 * Two clients that add to the index at the same time can overwrite each other, as registries know no conditional write.
 * So each writer reads the index again and repeats until its entry is in it. It keeps entries of other clients as they
 * are, with fields that cofa does not know.
 */
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import { RequestFailure } from './failure.ts';
import { type FetchedManifest, fetchManifest } from './manifest-reader.ts';
import {
  type Descriptor,
  type ImageIndex,
  type ImageManifest,
  MAX_MANIFEST,
  MEDIA_TYPES,
  parseManifest,
  parseObject,
} from './manifest.ts';
import { nextLink } from './link.ts';
import { putManifest } from './pusher.ts';
import { backoffMs } from './retry.ts';
import { discard, header, readBody, type Reply, resolveLocation } from './transport.ts';

/** Pages of the API that are read; each may be as large as a manifest, all together as four. */
const MAX_PAGES = 50;
const MAX_BYTES = 4 * MAX_MANIFEST;
const MAX_REFERRERS = 10_000;
const MAX_UPDATES = 8;
/** Mirrors whose lists may be of no use before that is an error. */
const MOST_MIRRORS = 8;

/**
 * The referrers of a manifest, in the registry's order, only those of `artifactType` where given. Empty where there
 * are none.
 */
export async function listReferrers(
  api: RegistryApi,
  source: Source,
  digest: string,
  artifactType: string | undefined,
  signal?: AbortSignal,
): Promise<Descriptor[]> {
  // Side by side: saves a round trip where there is no API, and costs one request more where there is one.
  const tagged = fromTag(api, source, digest, signal);
  tagged.catch(() => {});
  const found = (await fromApi(api, source, digest, artifactType, signal)) ?? (await tagged);
  // The registry need not filter, and one that claims to have filtered may be wrong.
  return artifactType === undefined ? found : found.filter((entry) => entry.artifactType === artifactType);
}

/**
 * Adds a manifest to the fallback index of its subject. `replaces` selects entries that it replaces; they are dropped.
 */
export async function addToFallback(
  api: RegistryApi,
  source: Source,
  subject: string,
  added: Descriptor,
  replaces: (entry: Descriptor) => boolean,
  signal?: AbortSignal,
): Promise<void> {
  const tag = fallbackTag(subject);
  const { ambient, retry } = api.settings;
  for (let attempt = 1; attempt <= MAX_UPDATES; attempt++) {
    const next = withEntry(await readFallback(api, source, tag, true, signal), added, replaces);
    if (next === undefined) return;
    await putManifest(api, source, next, MEDIA_TYPES.ociIndex, tag, undefined, signal);
    const now = await readFallback(api, source, tag, true, signal);
    if (now?.index.manifests.some((entry) => entry.digest === added.digest) === true) return;
    await ambient.sleep(backoffMs(retry, attempt, ambient.random()), signal);
  }
  throw new CofaError(
    'busy',
    `the list of referrers ${tag} of ${source.repository} is being overwritten by others`,
    {
      hint: 'try again when they have finished',
    },
  );
}

/** The descriptor of a manifest as a list of referrers shows it (distribution-spec, "Listing Referrers"). */
export function referrerDescriptor(manifest: Descriptor, content: ImageManifest | ImageIndex): Descriptor {
  // Manifests without an artifactType are of the type of their configuration.
  const artifactType = content.artifactType ?? ('config' in content ? content.config.mediaType : undefined);
  return {
    mediaType: manifest.mediaType,
    digest: manifest.digest,
    size: manifest.size,
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(content.annotations === undefined ? {} : { annotations: content.annotations }),
  };
}

/** Undefined where the registry has no referrers API. */
async function fromApi(
  api: RegistryApi,
  source: Source,
  digest: string,
  artifactType: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Descriptor[] | undefined> {
  for (let lists = 1; ; lists++) {
    let mirror: string | undefined;
    const onMirror = (one: string | undefined) => (mirror = one);
    try {
      return await pagesOf(api, source, digest, artifactType, onMirror, signal);
    } catch (error) {
      if (mirror === undefined || signal?.aborted === true || lists > MOST_MIRRORS) throw error;
      // A list that is none, or ends before its last page: the next host has one of its own.
      api.blame(mirror, 'broken');
    }
  }
}

/** The list of one host; `onMirror` is told whose it is. */
async function pagesOf(
  api: RegistryApi,
  source: Source,
  digest: string,
  artifactType: string | undefined,
  onMirror: (mirror: string | undefined) => void,
  signal: AbortSignal | undefined,
): Promise<Descriptor[] | undefined> {
  const { registry, repository } = source;
  const what = `the referrers of ${repository}@${digest}`;
  const query = artifactType === undefined ? '' : `?artifactType=${encodeURIComponent(artifactType)}`;
  const first = `/v2/${repository}/referrers/${digest}${query}`;
  let target: string | URL | undefined = first;
  const found: Descriptor[] = [];
  let bytes = 0;
  for (let page = 0; target !== undefined; page++) {
    if (page === MAX_PAGES || found.length > MAX_REFERRERS || bytes > MAX_BYTES) {
      throw new CofaError('unsupported', `${registry} lists too many referrers of ${repository}@${digest}`);
    }
    const asked: string | URL = target;
    const answer: { reply: Reply; body: Buffer | undefined } = await api.retry(what, signal, async () => {
      const reply = await api.request({
        registry,
        method: 'GET',
        target: asked,
        scope: { repository, push: false },
        headers: { accept: MEDIA_TYPES.ociIndex },
        need: source.direct === true ? undefined : ['referrers'],
        // Registries without the API give the same answer as to any path that they do not know; some deny the path to a
        // token that is valid for everything else.
        expect: page === 0 ? [200, 400, 401, 403, 404, 405, 406, 501] : [200],
        what,
        signal,
      });
      const { mirror } = reply;
      if (asked === first) onMirror(mirror);
      if (reply.status !== 200) {
        await discard(reply.body);
        return { reply, body: undefined };
      }
      const body = await readBody(reply, MAX_MANIFEST, what, signal).catch((error: unknown) => {
        if (mirror !== undefined && signal?.aborted !== true) api.blame(mirror, 'broken');
        throw error;
      });
      return { reply, body };
    });
    const { reply, body } = answer;
    const type = header(reply, 'content-type')?.split(';')[0]?.trim();
    // A web page that says "welcome" to every path is no API either.
    if (body === undefined || (page === 0 && type !== MEDIA_TYPES.ociIndex && type !== 'application/json')) {
      return undefined;
    }
    bytes += body.length;
    const parsed = parseManifest(body, MEDIA_TYPES.ociIndex, what);
    if (parsed.kind !== 'index')
      throw new CofaError('integrity', `${what}: ${registry} answers without an index`);
    found.push(...parsed.index.manifests);
    target = nextPage(reply);
  }
  return found;
}

async function fromTag(
  api: RegistryApi,
  source: Source,
  digest: string,
  signal: AbortSignal | undefined,
): Promise<Descriptor[]> {
  const fallback = await readFallback(api, source, fallbackTag(digest), false, signal);
  return fallback?.index.manifests ?? [];
}

function fallbackTag(digest: string): string {
  return digest.replace(':', '-');
}

async function readFallback(
  api: RegistryApi,
  source: Source,
  tag: string,
  push: boolean,
  signal: AbortSignal | undefined,
): Promise<{ bytes: Buffer; index: { manifests: Descriptor[] } } | undefined> {
  let fetched: FetchedManifest;
  try {
    fetched = await fetchManifest(api, source, tag, signal, { push });
  } catch (error) {
    if (error instanceof RequestFailure && error.status === 404) return undefined;
    throw error;
  }
  if (fetched.parsed.kind !== 'index') {
    throw new CofaError(
      'conflict',
      `the tag ${tag} of ${source.repository} is an image, not a list of referrers`,
      {
        hint: 'the tag belongs to the OCI referrers fallback; remove or rename what stands there',
      },
    );
  }
  return { bytes: fetched.bytes, index: fetched.parsed.index };
}

/** The index with the entry added, as bytes; undefined where it would not change. */
function withEntry(
  current: { bytes: Buffer; index: { manifests: Descriptor[] } } | undefined,
  added: Descriptor,
  replaces: (entry: Descriptor) => boolean,
): Buffer | undefined {
  const entries = current?.index.manifests ?? [];
  const drop = entries.map((entry) => entry.digest !== added.digest && replaces(entry));
  const isThere = entries.some((entry) => entry.digest === added.digest);
  if (isThere && !drop.includes(true)) return undefined;
  // Based on the document as it is, so that fields that this version does not know survive.
  const document = current === undefined ? {} : parseObject(current.bytes, 'the list of referrers');
  const raw = Array.isArray(document['manifests']) ? document['manifests'] : [];
  const kept = raw.filter((_, i) => drop[i] !== true);
  const next = {
    ...document,
    schemaVersion: 2,
    mediaType: MEDIA_TYPES.ociIndex,
    manifests: isThere ? kept : [...kept, added],
  };
  return Buffer.from(JSON.stringify(next));
}

/** The next page by the Link header (RFC 8288), which must lie on the same registry. */
function nextPage(reply: Reply): URL | undefined {
  const target = nextLink(header(reply, 'link'));
  if (target === undefined) return undefined;
  const url = resolveLocation(target, reply.url);
  if (url.origin !== reply.url.origin) {
    throw new CofaError(
      'unsupported',
      `${reply.url.host} continues its list of referrers on ${url.host}: refused`,
    );
  }
  return url;
}
