/** What a start needs of an image's referrers: it is fetched while other things are waited for. */
import type { FollowedReferrers } from './client.ts';
import { PACK_TYPES } from './packs.ts';
import { SIDECAR_TYPES } from './sidecars.ts';

/** A pack comes as a stream, in a fetcher; its tables of contents no start needs. */
export const START_REFERRERS: FollowedReferrers['blobs'] = {
  [SIDECAR_TYPES.artifact]: [SIDECAR_TYPES.flat, SIDECAR_TYPES.spans, SIDECAR_TYPES.hints],
  [PACK_TYPES.artifact]: [],
};
