/**
 * Which folder may import which: the one table. A row names only rows above it, so no arrow goes up and there is no circle.
 * test/house/arrows.test.ts compares every import with the table; oxlint enforces it in the editor, from overrides that
 * `node test/house/arrows.ts` writes into .oxlintrc.json.
 *
 * A new folder below src/ gets a row; without one the test fails. A program starts another by the path of its file, never
 * by an import.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export type Kind = 'words' | 'decisions' | 'library' | 'shared' | 'program';

export interface Row {
  /** Below the top of the repository. */
  folder: string;
  kind: Kind;
  /** What the folder is, in a few words. */
  is: string;
  /** Folders that its files may import; its own always. */
  imports: readonly string[];
  /** Packages and modules of Node that it may import; without it: any. */
  packages?: readonly string[];
}

export const ROWS: readonly Row[] = [
  {
    folder: 'schemas',
    kind: 'words',
    is: 'what others may rely on, and what processes say to each other',
    imports: [],
    packages: ['zod'],
  },
  {
    folder: 'actors',
    kind: 'decisions',
    is: 'what to do, without doing it: time and chance come in with the event',
    imports: ['schemas'],
    packages: ['xstate'],
  },
  {
    folder: 'src/digest',
    kind: 'library',
    is: 'SHA-256, ChainIDs',
    imports: [],
  },
  { folder: 'src/terminal', kind: 'library', is: 'what people read, and how they interrupt', imports: [] },
  {
    folder: 'src/install',
    kind: 'library',
    is: 'what cofa writes into other configurations',
    imports: ['schemas'],
  },
  {
    folder: 'src/metrics',
    kind: 'library',
    is: 'the door for Prometheus, and the text that it reads',
    imports: ['schemas'],
  },
  { folder: 'src/kernel', kind: 'library', is: 'system calls and /proc', imports: ['schemas', 'actors'] },
  { folder: 'src/bus', kind: 'library', is: 'NATS and local sockets', imports: ['schemas'] },
  {
    folder: 'src/image',
    kind: 'library',
    is: 'tar, gzip, EROFS, span tables',
    imports: ['schemas', 'actors', 'src/digest'],
  },
  { folder: 'src/fuse', kind: 'library', is: 'the FUSE protocol', imports: ['schemas', 'src/kernel'] },
  {
    folder: 'src/store',
    kind: 'library',
    is: 'ROOT and the event log',
    imports: ['schemas', 'actors', 'src/bus', 'src/digest'],
  },
  {
    folder: 'src/client',
    kind: 'library',
    is: "the engine's API, from the caller's side",
    // The log is read without the engine, from NATS.
    imports: ['schemas', 'src/bus', 'src/store'],
  },
  {
    folder: 'src/registry',
    kind: 'library',
    is: 'the distribution protocol, credentials, sidecars',
    // The credential desk keeps secrets in sealed memory and answers on a local socket; sidecars carry hints.
    imports: ['schemas', 'src/bus', 'src/digest', 'src/image', 'src/kernel'],
  },
  {
    folder: 'src/traces',
    kind: 'library',
    is: "spans for OpenTelemetry's collectors: settings, OTLP, sending",
    // For the parts of undici.
    imports: ['schemas', 'actors', 'src/registry'],
  },
  {
    folder: 'src/signature',
    kind: 'library',
    is: "signatures of sidecars, in cosign's formats, and the keys that operators trust",
    imports: ['schemas', 'src/digest', 'src/kernel', 'src/registry'],
  },
  {
    folder: 'src/pack',
    kind: 'library',
    is: 'startup packs',
    imports: ['schemas', 'actors', 'src/bus', 'src/digest', 'src/image'],
  },
  {
    folder: 'src/index',
    kind: 'library',
    is: 'layers become tables, flat image and hints',
    imports: ['schemas', 'actors', 'src/digest', 'src/image', 'src/kernel', 'src/registry', 'src/store'],
  },
  {
    folder: 'src/fetch',
    kind: 'library',
    is: 'one job of a fetcher: range, decode, verify, write',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/image',
      'src/kernel',
      'src/pack',
      'src/registry',
      'src/store',
    ],
  },
  {
    folder: 'src/container',
    kind: 'library',
    is: 'a container from a mounted image',
    imports: ['schemas', 'src/client', 'src/kernel', 'src/terminal'],
  },
  {
    folder: 'src/containerd',
    kind: 'library',
    is: "containerd's API",
    imports: ['schemas', 'src/digest', 'src/registry'],
  },
  {
    folder: 'src/replay',
    kind: 'library',
    is: 'the event log as it was at any moment',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/client',
      'src/digest',
      'src/image',
      'src/store',
      'src/terminal',
    ],
  },
  {
    folder: 'src/incidents',
    kind: 'library',
    is: 'stretches of the event log around what went wrong',
    imports: ['schemas', 'actors', 'src/image', 'src/replay', 'src/store', 'src/terminal'],
  },
  {
    folder: 'src/console',
    kind: 'library',
    is: 'the page that shows a node and its log, and the server of it',
    imports: ['schemas', 'src/incidents', 'src/metrics', 'src/replay', 'src/terminal'],
  },
  {
    folder: 'src/process',
    kind: 'shared',
    is: 'what all programs share: parent link, settings, log, heap, rehearsal',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/digest',
      'src/image',
      'src/kernel',
      'src/pack',
      'src/registry',
      'src/store',
    ],
  },
  {
    folder: 'src/fetcher',
    kind: 'program',
    is: 'fetches blocks for the front end',
    imports: ['schemas', 'src/bus', 'src/fetch', 'src/process', 'src/registry', 'src/store'],
  },
  {
    folder: 'src/fleet',
    kind: 'program',
    is: 'a member of a fleet: asks other nodes for pieces of blobs, and gives them',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/client',
      'src/digest',
      'src/kernel',
      'src/process',
      'src/registry',
      'src/store',
    ],
  },
  {
    folder: 'src/front-end',
    kind: 'program',
    is: 'serves reads',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      // It fetches what a start waits for in a thread of its own.
      'src/fetch',
      'src/fuse',
      'src/image',
      'src/kernel',
      'src/process',
      'src/registry',
      'src/store',
    ],
  },
  {
    folder: 'src/indexer',
    kind: 'program',
    is: 'indexes an image on the node, and rebuilds flat images',
    imports: ['schemas', 'src/digest', 'src/image', 'src/index', 'src/process', 'src/registry', 'src/store'],
  },
  {
    folder: 'src/black-box',
    kind: 'program',
    is: 'keeps incidents, when there are some',
    imports: ['src/client', 'src/image', 'src/incidents', 'src/process', 'src/replay', 'src/store'],
  },
  {
    folder: 'src/snapshotter',
    kind: 'program',
    is: "containerd's snapshotter and the kubelet's image service",
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/client',
      'src/containerd',
      'src/digest',
      // Blobs that are read as files.
      'src/fuse',
      'src/kernel',
      'src/process',
      'src/registry',
      'src/store',
    ],
  },
  {
    folder: 'src/supervisor',
    kind: 'program',
    is: 'owns the node: images, mounts, processes, the log, the API',
    imports: [
      'schemas',
      'actors',
      'src/bus',
      'src/client',
      // It mounts overlays and takes away what containers left.
      'src/container',
      'src/digest',
      'src/fuse',
      'src/image',
      'src/incidents',
      'src/index',
      'src/kernel',
      'src/metrics',
      'src/pack',
      'src/process',
      'src/registry',
      'src/signature',
      'src/store',
      'src/traces',
    ],
  },
  {
    folder: 'src/cli',
    kind: 'program',
    is: 'one file a command',
    imports: [
      'schemas',
      'src/bus',
      'src/client',
      'src/console',
      'src/container',
      'src/containerd',
      // `cofa upgrade --engine` holds the mount while there is no engine.
      'src/fuse',
      'src/image',
      'src/incidents',
      'src/index',
      'src/install',
      'src/kernel',
      'src/metrics',
      'src/pack',
      'src/process',
      'src/registry',
      'src/replay',
      'src/signature',
      'src/store',
      'src/traces',
      // `cofa up` becomes the supervisor: the only import of a program by another.
      'src/supervisor',
      'src/terminal',
    ],
  },
];

export const TOP = join(import.meta.dirname, '../..');

/** What is wrong with the table itself, one sentence each. */
export function problemsOf(rows: readonly Row[]): string[] {
  const above = new Map<string, Kind>();
  const problems: string[] = [];
  for (const { folder, kind, imports } of rows) {
    for (const other of imports) {
      const otherKind = above.get(other);
      if (otherKind === undefined) problems.push(`${folder} may import ${other}, which has no row above it`);
      else if (kind === 'library' && (otherKind === 'shared' || otherKind === 'program'))
        problems.push(`${folder} is a library and may import ${other}, which lies above libraries`);
      else if (otherKind === 'program' && !(folder === 'src/cli' && other === 'src/supervisor'))
        problems.push(`${folder} may import the program ${other}`);
    }
    if (above.has(folder)) problems.push(`${folder} has two rows`);
    above.set(folder, kind);
  }
  return problems;
}

/** One override of oxlint: the folders that the files of a row may not import, by what a relative import begins with. */
export interface Override {
  files: string[];
  rules: { 'no-restricted-imports': ['error', { patterns: Array<Record<string, unknown>> }] };
}

/** oxlint's overrides that enforce the rows. */
export function overridesOf(rows: readonly Row[]): Override[] {
  return rows.map(({ folder, imports, packages }) => {
    const forbidden = rows
      .map((row) => row.folder)
      .filter((other) => other !== folder && !imports.includes(other));
    const patterns: Array<Record<string, unknown>> = [
      {
        regex: `^(\\.\\./)+(${forbidden.map((other) => other.replace(/^src\//, '(src/)?')).join('|')})/`,
        message: `${folder} may not import it: test/house/arrows.ts`,
      },
    ];
    if (packages !== undefined)
      patterns.push({
        group: ['node:*'],
        message: `${folder} is pure: effects, time and I/O come in from outside`,
      });
    return {
      files: [`${folder}/**/*.ts`, ...(folder === 'src/console' ? [`${folder}/**/*.tsx`] : [])],
      rules: { 'no-restricted-imports': ['error', { patterns }] },
    };
  });
}

export interface LintFile {
  overrides: Array<{ files: string[]; rules: Record<string, unknown> }>;
}

/** The linter's configuration with these overrides of imports, after the overrides of other rules. */
export function withOverrides(file: LintFile, rows: readonly Row[]): LintFile {
  const others = file.overrides.filter(({ rules }) => !('no-restricted-imports' in rules));
  return { ...file, overrides: [...others, ...overridesOf(rows)] };
}

export const LINT_FILE = join(TOP, '.oxlintrc.json');

if (import.meta.main) {
  const file = JSON.parse(readFileSync(LINT_FILE, 'utf8')) as LintFile;
  writeFileSync(LINT_FILE, `${JSON.stringify(withOverrides(file, ROWS), null, 2)}\n`);
}
