/** `--trust`: a policy by its name (schemas/trust.ts). `always`, its older word, is `registry`. */
import {
  policyNamed,
  TRUST_POLICIES,
  TRUST_WORDS,
  type TrustPolicy,
  type TrustWord,
} from '../../schemas/trust.ts';
import { oneOf } from './context.ts';

export const TRUST_HELP = `who may vouch for a sidecar before this node has proven it: ${TRUST_POLICIES.join(', ')}`;

const oneOfThem = oneOf('--trust', TRUST_POLICIES);

/** Error `invalid-argument` for another word. */
export const trustOption = Object.assign(
  (text: string): TrustPolicy => {
    const known = (TRUST_WORDS as readonly string[]).includes(text);
    return known ? policyNamed(text as TrustWord) : (oneOfThem(text) as TrustPolicy);
  },
  { choices: TRUST_POLICIES },
);
