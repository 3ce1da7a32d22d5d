/** Where one is: `#/view?words`. An address names all that one sees, so that it can be given to others. */
import { signal } from '@preact/signals';

export interface Place {
  view: string;
  words: URLSearchParams;
}

function read(): Place {
  const [path = '', words = ''] = location.hash.replace(/^#\/?/, '').split('?', 2);
  return { view: path.split('/')[0] ?? '', words: new URLSearchParams(words) };
}

export const place = signal<Place>(read());
addEventListener('hashchange', () => (place.value = read()));

/** `#/view?words`; words without a value are left out. */
export function addressOf(view: string, words: Record<string, string | number | undefined> = {}): string {
  const given = Object.entries(words).filter(([, value]) => value !== undefined && value !== '');
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${view}${text === '' ? '' : `?${text}`}`;
}

/** The address follows where one is, ms behind: browsers take a hundred changes within half a minute. */
const NOTE_MS = 250;

/** Says in the address where one is, a moment later and without a step in the history. Returns what gives it up. */
export function noteAddress(addressNow: () => string): () => void {
  const timer = setTimeout(() => {
    const address = addressNow();
    if (location.hash !== address) history.replaceState(null, '', address);
  }, NOTE_MS);
  return () => clearTimeout(timer);
}
