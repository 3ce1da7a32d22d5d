/** Conditions of a start in words, for the terminal and the page. */
import type { WhatIf } from '../../../schemas/replay.ts';
import { formatBytes } from '../../terminal/table.ts';

export type Conditions = WhatIf['predicted']['conditions'];

/** Link and policy. */
export function sentenceOf(conditions: Conditions): string {
  const { rate, rttMs } = conditions;
  const link = rate === null ? 'a link without limit' : `${formatRate(rate)}`;
  return `${link}, ${rttMs} ms round trip; ${policyOf(conditions)}`;
}

/** What the engine was to do, in words. */
export function policyOf({ ahead, prefetch, prefetchLimit, fetchers, block }: Conditions): string {
  const limit = prefetchLimit === undefined ? '' : `, at most ${formatBytes(prefetchLimit)}/s of it`;
  const rest = prefetch ? `with prefetch${limit}` : 'without prefetch';
  const size = block === undefined ? '' : `, blocks of ${formatBytes(block)}`;
  return `${AHEAD_TEXT[ahead]}, ${rest}, ${fetchers} ${fetchers === 1 ? 'fetcher' : 'fetchers'}${size}`;
}

const AHEAD_TEXT: Record<Conditions['ahead'], string> = {
  pack: 'a startup pack',
  files: 'the start of an earlier build',
  hints: 'hints',
  nothing: 'nothing foretold',
};

/** Bits a second as `94 Mbit/s`. */
export function formatRate(rate: number): string {
  if (rate >= 1e9) return `${Number((rate / 1e9).toPrecision(3))} Gbit/s`;
  if (rate >= 1e6) return `${Number((rate / 1e6).toPrecision(3))} Mbit/s`;
  return `${Number((rate / 1e3).toPrecision(3))} kbit/s`;
}

/** Bits a second of `100M`, `1.5G`, `64000`, or `max`; undefined: it is no rate from 1k on. */
export function rateOf(text: string): number | undefined {
  if (text === 'max') return Number.POSITIVE_INFINITY;
  const match = /^(\d{1,15}(?:\.\d{1,9})?)([kMG]?)$/.exec(text);
  const rate = match === null ? 0 : Number(match[1]) * { '': 1, k: 1e3, M: 1e6, G: 1e9 }[match[2] as 'k'];
  return rate >= LEAST_RATE ? rate : undefined;
}

const LEAST_RATE = 1_000;
export const RATE_HINT = 'such as 100M or 1G; at least 1k; without limit: max';
