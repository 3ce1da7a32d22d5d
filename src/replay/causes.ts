import type { Faster } from '../../schemas/replay.ts';

/** What made a start slow, for people. */
export const CAUSE_TEXT: Record<Faster['cause'], string> = {
  dns: 'looking up the name of the registry',
  registry: 'the registry, which answers late',
  link: 'the link to the registry',
  processor: 'other programs, which have the processors',
  disk: 'the disk',
  log: 'the log: NATS was away, or slow',
  cache: 'the cache, which is full',
  sidecar: 'indexing the image on this node',
  pack: 'reads one by one, without a startup pack',
};
