/** What the pages say of commands, options, defaults, exit codes and operations is what the program declares. Needs no root. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { OPERATIONS } from '../../schemas/api.ts';
import { ERROR_KINDS } from '../../schemas/errors.ts';
import { RIGHTS } from '../../schemas/rights.ts';
import type { EventKind } from '../../schemas/subjects.ts';
import {
  type DescribedCommand,
  type DescribedOption,
  type DescribedProgram,
  describeProgram,
} from '../../src/cli/description.ts';

const TOP = resolve(import.meta.dirname, '../..');
const text = (path: string): string => readFileSync(join(TOP, path), 'utf8');
const pagesOf = (folder: string): string[] =>
  readdirSync(join(TOP, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name));
const PAGES = [...pagesOf('.'), ...pagesOf('docs')];
const CLI = text('docs/cli.md');

/** Said where the file of settings says the contrary; no help shows them. */
const HIDDEN = ['--rehearsal', '--defer', '--incidents'];

let program: DescribedProgram;
let all: DescribedCommand[];
beforeAll(async () => {
  program = await describeProgram();
  all = program.commands.flatMap((one) => [one, ...one.commands]);
});
const names = (): string[] => program.commands.map(({ name }) => name).filter((name) => name !== 'help');

/** `cofa …` in the code of a page: what stands between backquotes, and indented lines. */
function callsIn(page: string): Array<{ words: string[]; place: string }> {
  return page.split('\n').flatMap((line, index) => {
    const codes = Array.from(line.matchAll(/`([^`]+)`/g), ([, code = '']) => code);
    if (/^ {4}|^cofa /.test(line)) codes.push(line);
    return codes.flatMap((code) =>
      Array.from(
        code.matchAll(/(?:^|[\s;&(])(?:\.\/ops\/)?cofa ((?:[^#;&|)]|\|(?! ))*)/g),
        ([, call = '']) => ({
          words: call.trim().split(/\s+/),
          place: `${index + 1}: cofa ${call.trim()}`,
        }),
      ),
    );
  });
}

/** The commands that a call names: `trust add|rm` names two. None: it is no call, as `docker exec cofa cofa` is. */
function commandsOf(words: readonly string[]): DescribedCommand[] {
  const [first = '', second = ''] = words;
  const named = first.split('|').map((name) => all.find((one) => one.name === name));
  if (named.some((one) => one === undefined)) return [];
  const inner = second.split('|').map((name) => all.find((one) => one.name === `${first} ${name}`));
  return (inner.some((one) => one === undefined) ? named : inner) as DescribedCommand[];
}

const optionIn = (word: string): string | undefined => /^\[?(--?[a-z][\w-]*)/.exec(word)?.[1];

test.each(PAGES)('calls in %s have options that their commands take', (page) => {
  const globals = program.globals.flatMap(({ long, short }) => [long, short]);
  const wrong = callsIn(text(page)).flatMap(({ words, place }) => {
    const options = words.map(optionIn).filter((one) => one !== undefined);
    return commandsOf(words).flatMap((command) =>
      options
        .filter((one) => ![...globals, ...HIDDEN].includes(one))
        .filter((one) => !command.options.some(({ long, short }) => long === one || short === one))
        // `-o name` in `$(kubectl …)`.
        .filter(() => !place.includes('$('))
        .map((one) => `${place}: ${command.name} takes no ${one}`),
    );
  });
  expect(wrong).toEqual([]);
});

test('the examples of a help have options that their commands take', () => {
  const wrong = all.flatMap(({ name, after }) =>
    callsIn(after.replaceAll(/^ {2}(?=cofa )/gm, '')).flatMap(({ words, place }) =>
      commandsOf(words).flatMap((command) =>
        words
          .map(optionIn)
          .filter((one) => one !== undefined && one.startsWith('--'))
          .filter((one) => ![...program.globals, ...command.options].some(({ long }) => long === one))
          .map((one) => `${name} --help, ${place}: no ${one}`),
      ),
    ),
  );
  expect(wrong).toEqual([]);
});

test('calls that trust an identity give it a name, as the command wants it', () => {
  const help = all.find(({ name }) => name === 'trust')?.after.replaceAll(/^ {2}(?=cofa )/gm, '') ?? '';
  const calls = [help, ...PAGES.map(text)].flatMap(callsIn);
  const identities = calls.filter(({ words }) => words[0] === 'trust' && words.includes('--issuer'));
  expect(identities.length).toBeGreaterThan(1);
  expect(identities.filter(({ words }) => !words.includes('--name')).map(({ place }) => place)).toEqual([]);
});

test('commands that ask a registry by themselves can be told how to reach it', () => {
  const own = ['index', 'inspect', 'pull', 'pack push', 'pack rm'];
  const reach = ['--insecure-registry', '--certs-dir', '--hosts-dir', '--docker-config'];
  const missing = all
    .filter(({ name }) => own.includes(name))
    .flatMap(({ name, options }) =>
      reach.filter((one) => !options.some(({ long }) => long === one)).map((one) => `${name}: ${one}`),
    );
  expect(missing).toEqual([]);
});

describe('docs/cli.md', () => {
  test('has a row for each command', () => {
    expect(names().filter((name) => !new RegExp(`^\\| \`cofa ${name}\\b`, 'm').test(CLI))).toEqual([]);
  });

  test('has a row for each option of cofa up, with its default, and no other', () => {
    const [, part = ''] = CLI.split(/^## cofa up.*$/m);
    const [section = ''] = part.split(/^### /m);
    const rows = section
      .split('\n')
      .filter((line) => line.startsWith('| `--'))
      .map((line) => line.split(' | ').map((cell) => cell.replace(/^\| | \|$/g, '')));
    const written = rows.flatMap(([names = '', holds = '']) =>
      Array.from(names.matchAll(/`(--[a-z-]+)/g), ([, long = '']) => ({ long, holds })),
    );
    const up = all.find(({ name }) => name === 'up')?.options ?? [];
    expect(written.map(({ long }) => long).toSorted()).toEqual(up.map(({ long }) => long).toSorted());
    const saysDefault = ({ long, fallback }: DescribedOption): boolean =>
      fallback === undefined || written.some((row) => row.long === long && row.holds.includes(fallback));
    expect(up.filter((one) => !saysDefault(one)).map(({ long, fallback }) => `${long}: ${fallback}`)).toEqual(
      [],
    );
  });

  test('has the exit code of each kind of error', () => {
    const rows = Array.from(CLI.matchAll(/^\| (\d+) \| (`.*?`) \|/gm), ([, exit, codes = '']) =>
      Array.from(codes.matchAll(/`([a-z-]+)`/g), ([, code]) => `${code}: ${exit}`),
    );
    const kinds = Object.entries(ERROR_KINDS).map(([code, { exit }]) => `${code}: ${exit}`);
    expect(rows.flat().toSorted()).toEqual(kinds.toSorted());
  });
});

test('README.md has a row for each command', () => {
  const [, table = ''] = text('README.md').split(/^## Commands$/m);
  const rows = table.split('\n').filter((line) => line.startsWith('| `'));
  const named = rows.map((line) => line.split(' | ')[0]).join(' ');
  expect(names().filter((name) => !new RegExp(`\`${name}\\b`).test(named))).toEqual([]);
});

describe('docs/api.md', () => {
  const page = text('docs/api.md');

  test('has a row for each operation', () => {
    const rows = Array.from(page.matchAll(/^\| `([a-z-]+)` \| `\{/gm), ([, name]) => name);
    expect(rows.toSorted()).toEqual(Object.keys(OPERATIONS).toSorted());
  });

  test('names the operations that no user with rights has', () => {
    const [row = ''] = /^\| `operations` \|.*$/m.exec(page) ?? [];
    const named = Array.from(row.matchAll(/`([a-z-]+)`/g), ([, name]) => name as string);
    const reserved = Object.keys(OPERATIONS).filter((name) => !(RIGHTS as readonly string[]).includes(name));
    expect(named.filter((name) => Object.hasOwn(OPERATIONS, name)).toSorted()).toEqual(reserved.toSorted());
  });

  test('names each kind of subject of the log', () => {
    const kinds: Record<EventKind, true> = {
      engine: true,
      image: true,
      layer: true,
      root: true,
      mount: true,
      snapshot: true,
      podman: true,
    };
    const [, part = ''] = page.split(/^## The event log$/m);
    expect(Object.keys(kinds).filter((kind) => !part.includes(`\`${kind}\``))).toEqual([]);
  });
});

test('files that docs/install.md names have the version of the package', () => {
  const { version } = JSON.parse(text('package.json')) as { version: string };
  const named = text('docs/install.md').match(/(?<=\bcofa[-_:])\d+\.\d+\.\d+/g) ?? [];
  expect(named.length).toBeGreaterThan(5);
  expect(named.filter((one) => one !== version)).toEqual([]);
});

test('docs/README.md lists each page', () => {
  const list = text('docs/README.md');
  const pages = readdirSync(join(TOP, 'docs')).filter((name) => name.endsWith('.md') && name !== 'README.md');
  expect(pages.filter((name) => !list.includes(`](${name})`))).toEqual([]);
});

test('the times of README.md are those of docs/benchmarks.md', () => {
  const readme = text('README.md');
  const [, starts = ''] = text('docs/benchmarks.md').split(/^## Starts$/m);
  const demo = (way: string): string | undefined =>
    starts
      .split('\n')
      .find((line) => line.startsWith(`| ${way} | `))
      ?.split(' | ')[1]
      ?.split(' ')[0];
  const row = /^\| added delay, 125 MB \| (.*) \|$/m.exec(readme)?.[1]?.split(' | ') ?? [];
  expect(row.slice(0, 3)).toEqual(
    ['cofa, pack', 'eStargz, optimized', 'Nydus, list'].map((way) => `${demo(way)} s`),
  );
  expect(readme).toMatch(new RegExp(`containerd's\\s+is ${demo('containerd')} s`));
});
