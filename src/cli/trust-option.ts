/** `--trust`: a policy by its name (schemas/trust.ts). `always`, its older word, is `registry`. */
import {
  policyNamed,
  TRUST_POLICIES,
  TRUST_WORDS,
  type TrustPolicy,
  type TrustWord,
} from '../../schemas/trust.ts';
import { CofaError } from '../../schemas/errors.ts';
import { oneOf } from './context.ts';

export const TRUST_HELP = `who may vouch for a sidecar before it is proven here: ${TRUST_POLICIES.join(', ')}`;

const oneOfThem = oneOf('--trust', TRUST_POLICIES);

/** Error `invalid-argument` for another word. */
export const trustOption = Object.assign(
  (text: string): TrustPolicy => {
    const known = (TRUST_WORDS as readonly string[]).includes(text);
    return known ? policyNamed(text as TrustWord) : (oneOfThem(text) as TrustPolicy);
  },
  { choices: TRUST_POLICIES },
);

/** Error `invalid-argument` where the policy asks a fleet and the engine is to be of none. */
export function checkFleetTrust({ trust, fleet }: { trust?: TrustPolicy; fleet?: string | boolean }): void {
  if (trust !== 'fleet' || (fleet !== undefined && fleet !== false)) return;
  throw new CofaError('invalid-argument', '--trust fleet takes --fleet', {
    hint: 'members of the fleet say what they have proven: cofa up --nats tls://HOST:4222 --fleet --trust fleet',
  });
}
