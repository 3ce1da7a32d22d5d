/**
 * Where packages of a release of Debian or Ubuntu come from: the machine's own apt settings as far as they go, mirrors, keys
 * and proxies included, and none of them is changed. In this order:
 *
 *     the machine's sources of that release
 *     its sources of its own release of the same distribution, with the other name in place of its own
 *     the distribution's mirror, where its keys are at hand: each has those of the other in a package
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The images' release: the same on every machine, so that figures and tests speak of the same images. */
export const RELEASE = 'bookworm';

export interface AptSources {
  /** One-line entries and deb822 stanzas (sources.list(5)). */
  list: string;
  sources: string;
}

/** Files of a machine that are looked at. */
export interface AptMachine {
  /** `/etc/apt` */
  etc?: string;
  osRelease?: string;
  /** Keys of the release's distribution. */
  keyring?: string;
}

interface Distribution {
  /** `ID` of os-release(5). */
  id: string;
  name: string;
  /** Where the package `brings` puts the keys. */
  keyring: string;
  brings: string;
  components: string;
  /** Addresses of its mirror, with the suites of a release there. */
  mirror: (release: string) => Array<[string, string]>;
}

const DEBIAN: Distribution = {
  id: 'debian',
  name: 'Debian',
  keyring: '/usr/share/keyrings/debian-archive-keyring.gpg',
  brings: 'debian-archive-keyring',
  components: 'main',
  mirror: (release) => [
    ['http://deb.debian.org/debian', `${release} ${release}-updates`],
    ['http://deb.debian.org/debian-security', `${release}-security`],
  ],
};

const UBUNTU: Distribution = {
  id: 'ubuntu',
  name: 'Ubuntu',
  keyring: '/usr/share/keyrings/ubuntu-archive-keyring.gpg',
  brings: 'ubuntu-keyring',
  // Most of what cofa stands on is in universe.
  components: 'main universe',
  mirror: (release) => [
    [
      process.arch === 'x64' ? 'http://archive.ubuntu.com/ubuntu' : 'http://ports.ubuntu.com/ubuntu-ports',
      `${release} ${release}-updates ${release}-security`,
    ],
  ],
};

/** Ubuntu 24.04. Other names are those of Debian. */
const UBUNTU_RELEASES: ReadonlySet<string> = new Set(['noble']);

const distributionOf = (release: string): Distribution => (UBUNTU_RELEASES.has(release) ? UBUNTU : DEBIAN);

/** Where the keys of a release's distribution are on a machine of it. */
export const keyringOf = (release: string): string => distributionOf(release).keyring;

/** `Debian bookworm`, `Ubuntu noble`. */
export const titleOf = (release: string): string => `${distributionOf(release).name} ${release}`;

/** The machine's own release, `bookworm`, where it is a Debian; undefined elsewhere. */
export function ownRelease(osRelease?: string): string | undefined {
  const own = ownSystem(osRelease);
  return own?.id === DEBIAN.id ? own.release : undefined;
}

function ownSystem(osRelease = '/etc/os-release'): { id: string; release: string } | undefined {
  const text = existsSync(osRelease) ? readFileSync(osRelease, 'utf8') : '';
  const field = (name: string) => new RegExp(`^${name}="?([a-z0-9.-]+)"?$`, 'm').exec(text)?.[1];
  const [id, release] = [field('ID'), field('VERSION_CODENAME')];
  return id === undefined || release === undefined ? undefined : { id, release };
}

/** The sources of a release (see above). Throws where there is no way to it; the message says what to do. */
export function sourcesOf(release: string, machine: AptMachine = {}): AptSources {
  const distribution = distributionOf(release);
  const { etc = '/etc/apt', osRelease, keyring = distribution.keyring } = machine;
  const own = entriesOf(release, etc);
  if (own !== undefined) return own;
  const here = ownSystem(osRelease);
  const others = here?.id === distribution.id ? entriesOf(here.release, etc) : undefined;
  if (here !== undefined && others !== undefined) return renamed(others, here.release, release);
  if (existsSync(keyring)) return { list: '', sources: stanzasOf(distribution, release, keyring) };
  throw new Error(
    `packages of ${titleOf(release)} cannot be had: apt has no source of them on this machine, and there is no ${keyring} to ` +
      `check ${distribution.name}’s mirror with. The package ${distribution.brings} brings it`,
  );
}

const stanzasOf = ({ mirror, components }: Distribution, release: string, keyring: string): string =>
  mirror(release)
    .map(([uri, suites]) =>
      [
        'Types: deb',
        `URIs: ${uri}`,
        `Suites: ${suites}`,
        `Components: ${components}`,
        `Signed-By: ${keyring}`,
        '',
      ].join('\n'),
    )
    .join('\n');

/** Another release's name in the place of one; comments, URIs and keys stay as they are. */
function renamed({ list, sources }: AptSources, from: string, to: string): AptSources {
  const rename = (text: string) => text.replaceAll(new RegExp(`\\b${from}\\b`, 'g'), to);
  return {
    list: list.replace(
      /^(deb\s+(?:\[[^\]]*\]\s+)?\S+\s+)(\S+)/gm,
      (_, head: string, suite: string) => head + rename(suite),
    ),
    sources: sources.replace(/^Suites:.*$/gim, rename),
  };
}

/** The release's part of /etc/apt/sources.list and sources.list.d; undefined where there is none. */
function entriesOf(release: string, etc: string): AptSources | undefined {
  const suites = new Set([release, `${release}-updates`, `${release}-security`, `${release}/updates`]);
  const files = [join(etc, 'sources.list')];
  const parts = join(etc, 'sources.list.d');
  if (existsSync(parts)) for (const name of readdirSync(parts).toSorted()) files.push(join(parts, name));
  const lines: string[] = [];
  const stanzas: string[] = [];
  for (const file of files) {
    if (!existsSync(file)) continue;
    if (file.endsWith('.list')) lines.push(...oneLineEntries(readFileSync(file, 'utf8'), suites));
    if (file.endsWith('.sources')) stanzas.push(...deb822Entries(readFileSync(file, 'utf8'), suites));
  }
  // Updates alone have no packages to begin with.
  const main = [...lines, ...stanzas].some((entry) => new RegExp(`(^|\\s)${release}(\\s|$)`).test(entry));
  return main
    ? { list: lines.map((line) => `${line}\n`).join(''), sources: `${stanzas.join('\n\n')}\n` }
    : undefined;
}

/** How this machine's apt reaches its mirrors (proxies, retries, checks), as lines of apt.conf(5). */
export function acquireSettings(): string[] {
  return execFileSync('apt-config', ['dump'], { encoding: 'utf8' })
    .split('\n')
    .filter((line) => /^Acquire::(http|https|ftp|Check-|Retries|Force|AllowInsecure|AllowWeak)/.test(line))
    .filter((line) => !line.endsWith(' "";'));
}

function oneLineEntries(text: string, wanted: ReadonlySet<string>): string[] {
  return text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => {
      const match = /^deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)/.exec(line);
      return match !== null && wanted.has(match[1] as string);
    });
}

function deb822Entries(text: string, wanted: ReadonlySet<string>): string[] {
  const kept: string[] = [];
  for (const stanza of text.replace(/^#.*\n?/gm, '').split(/\n\s*\n/)) {
    const suites = field(stanza, 'Suites').filter((suite) => wanted.has(suite));
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
