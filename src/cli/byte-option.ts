/** Sizes as people write them. */
import { CofaError } from '../../schemas/errors.ts';

const UNITS: Record<string, number> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  t: 1e12,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

/** Bytes of `20G`, `500 MB`, `1.5GiB`, `4096`: units of 1000, with an i of 1024. Error: `invalid-argument` naming the option. */
export function byteOption(name: string): (text: string) => number {
  return (text) => {
    const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*$/i.exec(text);
    const bytes =
      match === null ? Number.NaN : Number(match[1]) * (UNITS[(match[2] ?? '').toLowerCase()] ?? 1);
    if (!Number.isFinite(bytes) || bytes > Number.MAX_SAFE_INTEGER) {
      throw new CofaError('invalid-argument', `${name}: ${JSON.stringify(text)} is not a size`, {
        hint: 'such as 500M, 20G or 1.5GiB',
      });
    }
    return Math.floor(bytes);
  };
}
