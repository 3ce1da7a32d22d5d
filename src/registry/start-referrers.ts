/** What a start needs of an image's referrers: it is fetched while other things are waited for. */
import type { FollowedReferrers } from './client.ts';
import { PACK_TYPES, packIn } from './packs.ts';
import { SIDECAR_TYPES } from './sidecars.ts';

/** Tables of contents no start needs. */
const OF_SIDECAR: readonly string[] = [SIDECAR_TYPES.flat, SIDECAR_TYPES.spans, SIDECAR_TYPES.hints];

/** A pack comes as a stream, in a fetcher; where it lies the list mostly says. */
export const startReferrers: FollowedReferrers['blobsOf'] = (referrer) => {
  if (referrer.artifactType === SIDECAR_TYPES.artifact) return OF_SIDECAR;
  if (referrer.artifactType !== PACK_TYPES.artifact || packIn(referrer) !== undefined) return undefined;
  return [];
};
