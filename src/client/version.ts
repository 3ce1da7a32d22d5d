/** The version of the program, as package.json has it. */
import { readFileSync } from 'node:fs';

let known: string | undefined;

/** Reads the file when it is first asked: most commands do without. */
export function version(): string {
  const text = () => readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  known ??= (JSON.parse(text()) as { version: string }).version;
  return known;
}
