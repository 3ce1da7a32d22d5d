/** Writes the manual, cofa.1 and cofa-config.toml.5, into a folder: `node ops/man.ts FOLDER`. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describeProgram } from '../src/cli/description.ts';
import { commandsPage, configPage, type Edition } from '../src/cli/man-page.ts';
import { version } from '../src/client/version.ts';

/** The version, and the date that CHANGELOG.md has for it; a checkout between versions has that of the last one. */
export function edition(): Edition {
  const text = readFileSync(new URL('../CHANGELOG.md', import.meta.url), 'utf8');
  const date = /^## \[?\d+\.\d+\.\d+\]?.*?(\d{4}-\d{2}-\d{2})/m.exec(text)?.[1] ?? '2026-11-24';
  return { version: version(), date };
}

/** The pages by file name. */
export async function manPages(of: Edition = edition()): Promise<Map<string, string>> {
  return new Map([
    ['cofa.1', commandsPage(await describeProgram(), of)],
    ['cofa-config.toml.5', configPage(of)],
  ]);
}

if (import.meta.main) {
  const [folder = '.'] = process.argv.slice(2);
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of await manPages()) writeFileSync(join(folder, name), text);
}
