/** Stand-in for src/fetch/start-jobs.ts: no start is recorded. */
import { CofaError } from '../../../../schemas/errors.ts';

export * from '../../../../src/fetch/start-jobs.ts';

export const recordStart = (): Promise<void> => Promise.resolve();
export const bringPack = (): Promise<never> =>
  Promise.reject(new CofaError('not-found', 'there are no packs'));
