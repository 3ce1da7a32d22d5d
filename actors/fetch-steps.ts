/** What a fetch spent its time on, step by step, from what its fetcher and its front end have measured. Times in µs. */

export const FETCH_STEPS = ['queue', 'lookup', 'first-byte', 'transfer', 'verify', 'write', 'other'] as const;
export type FetchStep = (typeof FETCH_STEPS)[number];

export interface FetchMeasures {
  /** Queued → sent to a fetcher. */
  sentUs: number;
  /** Of the wait for the first byte: its name was looked up. */
  lookupUs: number;
  /** Sent → first byte of the registry's answer, the lookup included. */
  firstByteUs: number;
  /** All of the fetch, the wait for the first byte included. */
  fetchUs: number;
  /** Decode and verify. */
  decodeUs: number;
  writeUs: number;
  /** Queued → done. */
  totalUs: number;
}

/** In the order of a fetch; steps that took nothing are 0. `other`: messages, and turns on a processor. */
export function fetchSteps(job: FetchMeasures): Array<readonly [step: FetchStep, us: number]> {
  const { sentUs, lookupUs, firstByteUs, fetchUs, decodeUs, writeUs, totalUs } = job;
  const firstByte = Math.min(firstByteUs, fetchUs);
  const lookup = Math.min(lookupUs, firstByte);
  return [
    ['queue', sentUs],
    ['lookup', lookup],
    ['first-byte', firstByte - lookup],
    ['transfer', fetchUs - firstByte],
    ['verify', decodeUs],
    ['write', writeUs],
    ['other', Math.max(0, totalUs - sentUs - fetchUs - decodeUs - writeUs)],
  ];
}
