/** A document that a view asks for, and asks for again when the log is another one. */
import { effect } from '@preact/signals';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { ApiError, ask, type Query, sentenceOf } from './api.ts';
import { log, type LogNews, opened } from './live.ts';

export interface Asked<T> {
  /** What came last; it stays while the next one is on its way. */
  value: T | undefined;
  /** Why there is none, as a sentence. */
  error: string | undefined;
  /** Whether the answer is on its way. */
  isPending: boolean;
  /** What it answers, or why there is none: the question that came to its end last. */
  of: Query | undefined;
}

const NOTHING = { value: undefined, error: undefined, isPending: false };

interface Options<T> {
  /** Asks again, at most once a second, while events come. */
  grows?: boolean;
  /** How it is asked for; as a document, where it is not said. */
  by?: (path: string, query: Query, stop: AbortSignal) => Promise<T>;
}

/**
 * `query`: undefined asks for nothing, and gives up what was asked. What could not be had is asked for again when the server is
 * back.
 */
export function useAsked<T>(
  path: string,
  query: Query | undefined,
  { grows = false, by = ask }: Options<T> = {},
): Asked<T> {
  const [asked, set] = useState<Omit<Asked<T>, 'of'> & { of: string | undefined }>({
    ...NOTHING,
    of: undefined,
  });
  const key = query === undefined ? undefined : JSON.stringify(query);
  const { generation, count } = useNews();
  const growth = useSlowly(grows ? count : 0, asked.isPending);
  const returns = useReturns(asked.error !== undefined);
  useEffect(() => {
    if (key === undefined) {
      set({ ...NOTHING, of: key });
      return undefined;
    }
    const stop = new AbortController();
    set((before) => ({ ...before, isPending: true }));
    by(path, JSON.parse(key) as Query, stop.signal).then(
      (value) => set({ value, error: undefined, isPending: false, of: key }),
      (error: unknown) => {
        if (stop.signal.aborted) return;
        // Where the server is away or busy, what it said of the same before stays.
        const stays = !(error instanceof ApiError) || error.code === 'busy';
        set(({ value, of }) => ({
          value: stays && of === key ? value : undefined,
          error: sentenceOf(error),
          isPending: false,
          of: key,
        }));
      },
    );
    return () => stop.abort();
  }, [path, key, generation, growth, returns]);
  const isPending = asked.isPending || asked.of !== key;
  const of = useMemo(
    () => (asked.of === undefined ? undefined : (JSON.parse(asked.of) as Query)),
    [asked.of],
  );
  return { ...asked, isPending, of };
}

/** What of the log has changed since the view began. The first that is told is no change: the server knew it when it was asked. */
function useNews(): Pick<LogNews, 'generation' | 'count'> {
  const first = useRef<LogNews | undefined>(undefined);
  const now = log.value;
  first.current ??= now;
  if (now === undefined || first.current === undefined) return { generation: 0, count: 0 };
  const isSame = now.generation === first.current.generation;
  return {
    generation: isSame ? 0 : now.generation,
    count: isSame && now.count === first.current.count ? 0 : now.count,
  };
}

/**
 * What a view shows where its address does not say: the first that there is when the address is opened. It stays when another one
 * becomes the first.
 */
export function useFirst<T>(first: T | undefined, words: URLSearchParams): T | undefined {
  return useMemo(() => first, [words, first !== undefined]);
}

const SLOWLY_MS = 1_000;

/** The value, at most once a second, and not while what was asked with the one before is on its way. */
function useSlowly(value: number, isPending: boolean): number {
  const [slow, set] = useState(value);
  const newest = useRef(value);
  newest.current = value;
  const isDue = slow !== value && !isPending;
  useEffect(() => {
    if (!isDue) return undefined;
    const timer = setTimeout(() => set(newest.current), SLOWLY_MS);
    return () => clearTimeout(timer);
  }, [isDue, slow]);
  return slow;
}

/** Rises when the server is there again and the last answer had failed. */
function useReturns(isFailed: boolean): number {
  const [returns, set] = useState(0);
  const failed = useRef(isFailed);
  failed.current = isFailed;
  useEffect(() => {
    const before = opened.peek();
    return effect(() => {
      if (opened.value !== before && failed.current) set((now) => now + 1);
    });
  }, []);
  return returns;
}
