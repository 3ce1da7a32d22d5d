/**
 * The machine's own apt settings, narrowed to one Debian release: images are built from what the machine is configured
 * to trust, mirrors, keys and proxies included.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The images' release. */
export const RELEASE = 'bookworm';

/** Suites that count as the release. */
const SUITES = new Set([RELEASE, `${RELEASE}-updates`, `${RELEASE}-security`, `${RELEASE}/updates`]);

/** The machine's sources of its own release, with the name of another one (such as trixie) put in its place. */
export function sourcesOf(release: string, etc = '/etc/apt'): { list: string; sources: string } {
  const { list, sources } = releaseSources(etc);
  const renamed = (text: string) => text.replaceAll(new RegExp(`\\b${RELEASE}\\b`, 'g'), release);
  // Comments, URIs and keys stay as they are.
  return {
    list: list.replace(
      /^(deb\s+(?:\[[^\]]*\]\s+)?\S+\s+)(\S+)/gm,
      (_, head: string, suite: string) => head + renamed(suite),
    ),
    sources: sources.replace(/^Suites:.*$/gim, renamed),
  };
}

/**
 * The release's part of /etc/apt/sources.list and sources.list.d, as one-line and as deb822 text (sources.list(5)).
 * Throws when the machine has no source for the release.
 */
export function releaseSources(etc = '/etc/apt'): { list: string; sources: string } {
  const files = [join(etc, 'sources.list')];
  const parts = join(etc, 'sources.list.d');
  if (existsSync(parts)) for (const name of readdirSync(parts).toSorted()) files.push(join(parts, name));
  const lines: string[] = [];
  const stanzas: string[] = [];
  for (const file of files) {
    if (!existsSync(file)) continue;
    if (file.endsWith('.list')) lines.push(...oneLineEntries(readFileSync(file, 'utf8')));
    if (file.endsWith('.sources')) stanzas.push(...deb822Entries(readFileSync(file, 'utf8')));
  }
  if (lines.length + stanzas.length === 0)
    throw new Error(
      `apt has no source for Debian ${RELEASE} on this machine: the test images are made of its packages. ` +
        `Add one to ${etc}/sources.list.d`,
    );
  return { list: lines.map((line) => `${line}\n`).join(''), sources: stanzas.join('\n\n') + '\n' };
}

/** How this machine's apt reaches its mirrors (proxies, retries, checks), as lines of apt.conf(5). */
export function acquireSettings(): string[] {
  return execFileSync('apt-config', ['dump'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => /^Acquire::(http|https|ftp|Check-|Retries|Force|AllowInsecure|AllowWeak)/.test(line))
    .filter((line) => !line.endsWith(' "";'));
}

function oneLineEntries(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => {
      const match = /^deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)/.exec(line);
      return match !== null && SUITES.has(match[1] as string);
    });
}

function deb822Entries(text: string): string[] {
  const kept: string[] = [];
  for (const stanza of text.replace(/^#.*\n?/gm, '').split(/\n\s*\n/)) {
    const suites = field(stanza, 'Suites').filter((suite) => SUITES.has(suite));
    if (suites.length === 0 || !field(stanza, 'Types').includes('deb')) continue;
    if (field(stanza, 'Enabled')[0]?.toLowerCase() === 'no') continue;
    kept.push(
      stanza
        .trim()
        .replace(/^Suites:.*$/im, `Suites: ${suites.join(' ')}`)
        .replace(/^Types:.*$/im, 'Types: deb'),
    );
  }
  return kept;
}

function field(stanza: string, name: string): string[] {
  const match = new RegExp(`^${name}:(.*)$`, 'im').exec(stanza);
  return match === null ? [] : (match[1] as string).trim().split(/\s+/);
}
