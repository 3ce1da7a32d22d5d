/** What changes while one looks: how the node is, and how long its log is. From the server's live stream. */
import { signal } from '@preact/signals';
import type { NodeDocument } from '../../replay/documents.ts';
import { addressOfAnswer, away, sentenceOf } from './api.ts';

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

/** Between two tries to reach a server that was away, ms. */
const AGAIN_MS = 2_000;

export function openLive(): void {
  const source = new EventSource(addressOfAnswer('stream'));
  const take = <T>(name: string, set: (news: T) => void) =>
    source.addEventListener(name, (event: MessageEvent<string>) => {
      away.value = undefined;
      try {
        set(JSON.parse(event.data) as T);
      } catch (error) {
        away.value = `The live stream cannot be read: ${sentenceOf(error)}`;
      }
    });
  take<NodeDocument>('node', (news) => (node.value = news));
  take<LogNews>('log', (news) => (log.value = news));
  source.addEventListener('error', () => {
    away.value = 'The console does not answer: has cofa console ended?';
    // The browser tries again by itself, but not after an answer that was no stream.
    if (source.readyState === EventSource.CLOSED) setTimeout(openLive, AGAIN_MS);
  });
}
