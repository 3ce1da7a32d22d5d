/** The image's referrers that a start needs: the client fetches them while the start waits for other things. */
import type { FollowedReferrers } from './client.ts';
import { PACK_TYPES, packIn } from './packs.ts';
import { SIDECAR_TYPES } from './sidecars.ts';

/** No start needs tables of contents. */
const OF_SIDECAR: readonly string[] = [SIDECAR_TYPES.flat, SIDECAR_TYPES.spans, SIDECAR_TYPES.hints];

/** A fetcher reads a pack as a stream; the list mostly says where it lies. */
export const startReferrers: FollowedReferrers['blobsOf'] = (referrer) => {
  if (referrer.artifactType === SIDECAR_TYPES.artifact) return OF_SIDECAR;
  if (referrer.artifactType !== PACK_TYPES.artifact || packIn(referrer) !== undefined) return undefined;
  return [];
};
