/** A document that a view asks for, and asks for again when the log is another one. */
import { useEffect, useState } from 'preact/hooks';
import { ask, type Query, sentenceOf } from './api.ts';
import { log } from './live.ts';

export interface Asked<T> {
  /** What came last; it stays while the next one is on its way. */
  value: T | undefined;
  /** Why there is none, as a sentence. */
  error: string | undefined;
  /** Whether the answer is on its way. */
  isPending: boolean;
}

const NOTHING = { value: undefined, error: undefined, isPending: false };

/**
 * `query`: undefined asks for nothing, and gives up what was asked. `grows`: asks again, at most once a second, while events
 * come.
 */
export function useAsked<T>(path: string, query: Query | undefined, { grows = false } = {}): Asked<T> {
  const [asked, set] = useState<Asked<T>>(NOTHING);
  const key = query === undefined ? undefined : JSON.stringify(query);
  const { generation, count } = log.value ?? { generation: 0, count: 0 };
  const news = grows ? `${generation} ${useSlowly(count)}` : String(generation);
  useEffect(() => {
    if (key === undefined) {
      set(NOTHING);
      return undefined;
    }
    const stop = new AbortController();
    set((before) => ({ ...before, isPending: true }));
    ask<T>(path, JSON.parse(key) as Query, stop.signal).then(
      (value) => set({ value, error: undefined, isPending: false }),
      (error: unknown) => {
        if (!stop.signal.aborted) set({ ...NOTHING, error: sentenceOf(error) });
      },
    );
    return () => stop.abort();
  }, [path, key, news]);
  return asked;
}

const SLOWLY_MS = 1_000;

/** The value, at most once a second. */
function useSlowly(value: number): number {
  const [slow, set] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), SLOWLY_MS);
    return () => clearTimeout(timer);
  }, [value]);
  return slow;
}
