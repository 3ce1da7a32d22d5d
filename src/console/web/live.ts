/** What changes while one looks: how the node is, and how long its log is. From the server's live stream. */
import { signal } from '@preact/signals';
import type { NodeDocument } from '../../replay/documents.ts';
import { addressOfAnswer, away, get, NO_ANSWER, sentenceOf } from './api.ts';

export interface LogNews {
  /** Rises when the log is another one. */
  generation: number;
  count: number;
  /** ms since the epoch */
  lastAt: number;
  /** Whether its engine runs. */
  isLive: boolean;
}

export const node = signal<NodeDocument | undefined>(undefined);
export const log = signal<LogNews | undefined>(undefined);
/** Why the live stream is not heard; undefined while it is. */
export const silent = signal<string | undefined>(undefined);
/** Rises when the stream is there, at first and again: what could not be had meanwhile is asked for once more. */
export const opened = signal(0);

/** Between two tries to reach a server that was away, ms. */
const AGAIN_MS = 2_000;

/**
 * Hears the stream while the page is seen. A browser has six connections to a server, for all of its pages: those in the
 * background would leave none for the others.
 */
export function openLive(): void {
  let end = hear();
  document.addEventListener('visibilitychange', () => {
    end();
    end = hear();
  });
}

/** Returns what ends it. */
function hear(): () => void {
  if (document.hidden) return () => {};
  const source = new EventSource(addressOfAnswer('stream'));
  const stop = new AbortController();
  let end = () => {
    stop.abort();
    source.close();
  };
  const take = <T>(name: string, set: (news: T) => void) =>
    source.addEventListener(name, (event: MessageEvent<string>) => {
      away.value = undefined;
      silent.value = undefined;
      try {
        set(JSON.parse(event.data) as T);
      } catch (error) {
        silent.value = `The live stream cannot be read: ${sentenceOf(error)}`;
      }
    });
  take<NodeDocument>('node', (news) => (node.value = news));
  take<LogNews>('log', (news) => (log.value = news));
  source.addEventListener('open', () => (opened.value += 1));
  source.addEventListener('error', () => {
    // The browser tries again by itself, but not after an answer that was no stream.
    if (source.readyState !== EventSource.CLOSED) {
      silent.value = NO_ANSWER;
      return;
    }
    void sayWhy(stop.signal);
    const timer = setTimeout(() => (end = hear()), AGAIN_MS);
    end = () => {
      stop.abort();
      clearTimeout(timer);
    };
  });
  return () => end();
}

/** A stream that is refused does not say why to scripts; asked as a document it does. */
async function sayWhy(stop: AbortSignal): Promise<void> {
  try {
    const answer = await get('stream', {}, stop);
    await answer.body?.cancel();
  } catch (error) {
    if (!stop.aborted) silent.value = sentenceOf(error);
  }
}
