/** Whether the operator's keys and identities can be used, as `cofa doctor` tells it. */
import { DEFAULT_KEYS, type KeySet, readKeys } from '../signature/key-directory.ts';
import type { Check } from './doctor-checks.ts';

export async function checkDefaultKeys(): Promise<Check> {
  return checkKeys(await readKeys(DEFAULT_KEYS));
}

export function checkKeys({ keys, identities, problems }: KeySet): Check {
  const names = [...keys, ...identities].map(({ name }) => name).join(', ');
  const found = names === '' ? `no trusted keys in ${DEFAULT_KEYS}: cofa trust add` : `trusted: ${names}`;
  const [first] = problems;
  if (first === undefined) return { name: 'keys', state: 'ok', found };
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more: cofa trust ls)` : '';
  return {
    name: 'keys',
    state: 'warn',
    found: `${found}; ${first.message}${more}`,
    means: 'what such a key or identity has signed is as good as unsigned here',
    fix: 'take the file away, or put it right: cofa trust rm, cofa trust add',
  };
}
