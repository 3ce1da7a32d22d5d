/** Mistakes that can be built into the engine, to see that the rules notice them. */
export const SABOTAGES = [
  'drop-waiter',
  'event-before-sync',
  'double-fetch',
  'lost-unmount',
  'stale-owner',
  'forget-loop',
  'answer-unread',
  'forget-log-sync',
  'blind-scrub',
  'blind-proof',
  'shared-device',
] as const;

export type Sabotage = (typeof SABOTAGES)[number];
