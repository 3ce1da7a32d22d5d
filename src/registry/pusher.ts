/**
 * Pushes blobs and manifests (OCI distribution-spec v1.1, "Pushing blobs": POST for an upload, then PUT with the whole
 * content and its digest; every registry takes that). It does not send a blob that the registry has.
 */
import { isDigest } from '../../schemas/digest.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import { CookieJar } from './cookies.ts';
import { digestOf } from '../digest/digest.ts';
import { type Descriptor, MAX_MANIFEST } from './manifest.ts';
import { discard, header, resolveLocation } from './transport.ts';

/** The slowest link for which an upload's time limit is long enough, bytes per ms: 64 KB/s. */
const SLOWEST_UPLOAD = 64;

/** Pushes a blob; resolves when the registry has it. */
export async function pushBlob(
  api: RegistryApi,
  source: Source,
  bytes: Buffer,
  mediaType: string,
  signal?: AbortSignal,
): Promise<Descriptor> {
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
  const { registry, repository } = source;
  const what = `blob ${descriptor.digest} in ${repository}`;
  const scope = { repository, push: true };
  const common = { registry, scope, what, signal };
  await api.retry(`pushing ${what}`, signal, async () => {
    const head = await api.request({
      ...common,
      method: 'HEAD',
      target: `/v2/${repository}/blobs/${descriptor.digest}`,
      expect: [200, 404],
    });
    await discard(head.body);
    if (head.status === 200) return;

    // An attempt that failed half-way leaves an upload behind, which registries drop after a while.
    const cookies = new CookieJar();
    const started = await api.request({
      ...common,
      method: 'POST',
      target: `/v2/${repository}/blobs/uploads/`,
      cookies,
      expect: [202],
      what: `an upload to ${repository}`,
    });
    await discard(started.body);
    const location = header(started, 'location');
    if (location === undefined)
      throw new CofaError('unsupported', `${registry} starts an upload without a Location`);
    const ended = await api.request({
      ...common,
      method: 'PUT',
      target: withDigest(resolveLocation(location, started.url), descriptor.digest),
      headers: { 'content-type': 'application/octet-stream' },
      body: bytes,
      cookies,
      headersTimeoutMs: api.settings.transport.headersTimeoutMs + bytes.length / SLOWEST_UPLOAD,
      // 201 by the spec; some answer 200 or 204.
      expect: [200, 201, 204],
    });
    await discard(ended.body);
  });
  return descriptor;
}

/**
 * Pushes a manifest under a tag, or under its digest alone. `subject` in the result is true when the registry says
 * that it keeps the list of referrers itself (distribution-spec, "Pushing Manifests with Subject").
 */
export async function putManifest(
  api: RegistryApi,
  source: Source,
  bytes: Buffer,
  mediaType: string,
  tag: string | undefined,
  subject: string | undefined,
  signal?: AbortSignal,
): Promise<{ descriptor: Descriptor; subject: boolean }> {
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
  if (bytes.length > MAX_MANIFEST) {
    throw new CofaError(
      'unsupported',
      `a manifest of ${bytes.length} bytes is more than registries take (${MAX_MANIFEST})`,
    );
  }
  if (tag !== undefined && !/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(tag)) {
    throw new CofaError('invalid-argument', `"${tag}" is not a tag`);
  }
  const { registry, repository } = source;
  const what = `manifest ${tag ?? descriptor.digest} of ${repository}`;
  const maintained = await api.retry(`pushing ${what}`, signal, async () => {
    const reply = await api.request({
      registry,
      method: 'PUT',
      target: `/v2/${repository}/manifests/${tag ?? descriptor.digest}`,
      scope: { repository, push: true },
      headers: { 'content-type': mediaType },
      body: bytes,
      expect: [200, 201, 202],
      what,
      signal,
    });
    await discard(reply.body);
    const said = header(reply, 'oci-subject');
    return isDigest(said) && said === subject;
  });
  return { descriptor, subject: maintained };
}

/** Adds the digest to an upload's address; its existing query is opaque and stays as it is. */
function withDigest(location: URL, digest: string): URL {
  const url = new URL(location);
  const parameter = `digest=${encodeURIComponent(digest)}`;
  url.search = url.search === '' ? `?${parameter}` : `${url.search}&${parameter}`;
  return url;
}
