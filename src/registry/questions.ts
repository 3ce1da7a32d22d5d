/** Small questions about who may read what; each is one HEAD, beside what a token takes. */
import { CofaError } from '../../schemas/errors.ts';
import type { RegistryApi, Source } from './api.ts';
import { ACCEPT } from './manifest-reader.ts';
import { discard } from './transport.ts';

/**
 * Whether the registry gives a manifest to a client without credentials. A registry that knows the node by its address or
 * by a certificate is public to it. Errors: the registry's, but not its refusal.
 */
export async function isPublic(
  api: RegistryApi,
  source: Source,
  manifest: string,
  signal: AbortSignal,
): Promise<boolean> {
  const target = `/v2/${source.repository}/manifests/${manifest}`;
  return await isGiven(api, source, target, { what: `manifest ${manifest}`, anonymous: true, signal });
}

/** Whether the repository has a blob for us. Errors: the registry's, but not its refusal. */
export async function hasBlob(
  api: RegistryApi,
  source: Source,
  digest: string,
  signal: AbortSignal,
): Promise<boolean> {
  const target = `/v2/${source.repository}/blobs/${digest}`;
  return await isGiven(api, source, target, { what: `blob ${digest}`, anonymous: false, signal });
}

/**
 * Whether the registry itself gives a blob to who has this right: everyone, or who brings the token (as it stands behind `Bearer`).
 * Errors: the registry's, but not its refusal.
 */
export async function isBlobGiven(
  api: RegistryApi,
  source: Source,
  digest: string,
  right: Right,
  signal: AbortSignal,
): Promise<boolean> {
  const target = `/v2/${source.repository}/blobs/${digest}`;
  return await isGiven(api, source, target, { what: `blob ${digest}`, ...asRight(right), signal });
}

/** For whom something is asked: for everyone, or for who has brought a token of the registry. */
export type Right = 'everyone' | { token: string };

export const asRight = (right: Right) =>
  right === 'everyone'
    ? { anonymous: true, asStranger: true }
    : { anonymous: false, authorization: `Bearer ${right.token}` };

async function isGiven(
  api: RegistryApi,
  { registry, repository }: Source,
  target: string,
  options: {
    what: string;
    anonymous: boolean;
    asStranger?: boolean;
    authorization?: string;
    signal: AbortSignal;
  },
): Promise<boolean> {
  try {
    const reply = await api.request({
      registry,
      method: 'HEAD',
      target,
      scope: { repository, push: false },
      headers: { accept: `${ACCEPT}, */*` },
      expect: [200, 404],
      ...options,
    });
    await discard(reply.body);
    return reply.status === 200;
  } catch (error) {
    if (error instanceof CofaError && error.code === 'unauthorized') return false;
    throw error;
  }
}
