/** What `--prefetch` of `cofa mount` and `cofa run` says: whether the rest of the image is fetched, and how fast. */
import { CofaError } from '../../schemas/errors.ts';
import { byteOption } from './byte-option.ts';

/** A number: bytes per second. */
export type Prefetch = boolean | number;

export const PREFETCH_HELP =
  'the rest of the image in the background: on, off, or so many bytes per second (20M)';

/** Error: `invalid-argument`. */
export function prefetchOption(text: string): Prefetch {
  if (text === 'on' || text === 'off') return text === 'on';
  let rate = 0;
  try {
    rate = byteOption('--prefetch')(text.replace(/\/s$/, ''));
  } catch {
    // What is said of sizes would leave out the words.
  }
  if (rate > 0) return rate;
  throw new CofaError(
    'invalid-argument',
    `--prefetch: ${JSON.stringify(text)} is neither on, off nor a number of bytes per second`,
    { hint: 'such as 500k or 20M; for nothing in the background: off' },
  );
}
