import { execFile } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { ERROR_KINDS } from '../../schemas/errors.ts';
import { COMMANDS } from '../../src/cli/commands.ts';
import type { Sink } from '../../src/terminal/output.ts';
import { commandNameOf, main } from '../../src/cli/program.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
let root = '';
beforeAll(async () => {
  root = join(await cleanup.tempDir('cli'), 'root');
});
afterAll(() => cleanup.run());

let out = '';
let err = '';
const sink: Sink = { out: (text) => (out += text), err: (text) => (err += text), errIsTerminal: false };
beforeEach(() => {
  out = '';
  err = '';
});
const cofa = (...argv: string[]) => main(argv, sink);

describe('help', () => {
  it.each(COMMANDS.map((entry) => entry.name))(
    'of %s: usage, options, global options, examples that name it',
    async (name) => {
      expect(await cofa(name, '--help')).toBe(0);
      expect(out).toMatch(new RegExp(`^Usage: cofa ${name} `));
      expect(out).toMatch(/Global options:\n +--root <dir>/);
      expect(out).toMatch(new RegExp(`\nExamples:\n  cofa ${name}\\b`));
      expect(out.split('\n').filter((line) => line.length > 120)).toEqual([]);
      const direct = out;
      out = '';
      expect(await cofa('help', name)).toBe(0);
      expect(out).toBe(direct);
      expect(err).toBe('');
    },
  );

  it.each(['up', 'fetcher', 'scrub', 'prune'])('of %s says sizes as people write them', async (name) => {
    expect(await cofa(name, '--help')).toBe(0);
    expect(out).not.toMatch(/default: \d{5,}|<bytes>/);
  });

  it('lists every command with its summary, also without arguments', async () => {
    expect(await cofa()).toBe(0);
    for (const { name, summary } of COMMANDS)
      expect(out).toMatch(new RegExp(`^  ${name} .*${summary}$`, 'm'));
    const plain = out;
    out = '';
    expect(await cofa('--help')).toBe(0);
    expect(out).toBe(plain);
    out = '';
    expect(await cofa('help')).toBe(0);
    expect(out).toBe(plain);
  });

  it('about exit codes names every kind of error with its code', async () => {
    expect(await cofa('help', 'exit-codes')).toBe(0);
    for (const [code, { exit }] of Object.entries(ERROR_KINDS)) {
      const section = out.slice(out.search(new RegExp(`^ +${exit}  `, 'm')));
      expect(section).toContain(`${code}: `);
    }
    for (const special of ['125', '126', '127', '130'])
      expect(out).toMatch(new RegExp(`^ ${special}  `, 'm'));
  });

  it('prints the version of the package', async () => {
    expect(await cofa('--version')).toBe(0);
    expect(out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});

describe('a wrong command line', () => {
  it.each([
    [
      'an unknown command, with a guess',
      ['runn', 'x'],
      2,
      /unknown command 'runn'\n {2}hint: did you mean run\?/,
    ],
    [
      'an unknown option',
      ['status', '--bogus'],
      2,
      /unknown option '--bogus'\n {2}hint: see: cofa status --help/,
    ],
    ['a missing argument', ['mount', 'debian:12'], 2, /missing required argument 'dir'/],
    ['too many arguments', ['unmount', '/a', '/b'], 2, /too many arguments/],
    ['options and no command', ['--quiet'], 2, /no command\n {2}hint: cofa --help lists them/],
    ['a group and no command', ['pack'], 2, /no command of cofa pack\n {2}hint: cofa pack --help lists them/],
    [
      'a command of a group without its argument',
      ['pack', 'push'],
      2,
      /missing required argument 'ref'\n {2}hint: see: cofa pack push --help/,
    ],
    [
      'an unknown command of a group',
      ['pack', 'pusj'],
      2,
      /unknown command 'pusj'\n {2}hint: did you mean push\? see: cofa pack --help/,
    ],
    [
      'a command of a group without the group',
      ['why'],
      2,
      /unknown command 'why'\n {2}hint: did you mean replay why\? see: cofa --help/,
    ],
    [
      'a key pair in a folder that is not there',
      ['key', 'create', '--out', '/nosuch/release'],
      3,
      /\/nosuch\/release.key cannot be made: its folder does not exist\n {2}hint: mkdir -p \/nosuch/,
    ],
    [
      'an archive for support in a folder that is not there',
      ['support', '--out', '/nosuch/x.tar.gz'],
      3,
      /\/nosuch\/x.tar.gz cannot be made: its folder does not exist\n {2}hint: mkdir -p \/nosuch/,
    ],
    [
      'ports of a container, which docker has',
      ['run', '-p', '80:80', 'debian:12'],
      125,
      /unknown option '-p'\n {2}hint: a container has the network of the host, so no port is published; see: cofa run --help/,
    ],
    [
      'a container in the background, which docker has',
      ['run', '--detach', 'debian:12'],
      125,
      /unknown option '--detach'\n {2}hint: cofa run stays with its container: start it by your shell \(&\) or a service; see: cofa run --help/,
    ],
    ['key pairs of a folder that is not there', ['key', 'ls', '/nosuch'], 3, /there is no folder \/nosuch\n/],
    ['an option without its value', ['--root'], 2, /argument missing/],
    [
      'two roots',
      ['--root', '/a', 'up', '--root', '/b'],
      2,
      /--root is said twice: \/a and \/b\n {2}hint: each root has an engine of its own/,
    ],
    [
      'two roots of a container',
      ['--root', '/a', 'run', '--root', '/b', 'debian:12'],
      125,
      /--root is said twice: \/a and \/b\n/,
    ],
    [
      'two roots of a command of a group',
      ['--root', '/a', 'pack', 'ls', '--root', '/b'],
      2,
      /--root is said twice: \/a and \/b\n/,
    ],
    [
      'a folder that the file system does not take',
      ['nats-config', '--dir', '/proc/nosuch/x', 'node-1'],
      8,
      /no folder can be made in \/proc \(ENOENT\)\n {2}hint: name another one/,
    ],
    [
      'a folder below a file',
      ['nats-config', '--dir', '/proc/version/x', 'node-1'],
      2,
      /\/proc\/version\/x cannot be a folder: a part of it is a file/,
    ],
    ['run without an image', ['run'], 125, /missing required argument 'ref'/],
    [
      'a number out of range',
      ['up', '--workers', '0'],
      2,
      /--workers: "0" is not a whole number from 1 to 256/,
    ],
    [
      'a number that is none',
      ['up', '--read-deadline', 'soon'],
      2,
      /--read-deadline: "soon" is not a number/,
    ],
    [
      'a log that is too short',
      ['up', '--log-limit', '100k'],
      2,
      /--log-limit: "100k" is not a size from 1M/,
    ],
    [
      'a pace that is none',
      ['mount', '--prefetch', 'fast', 'a', '/b'],
      2,
      /--prefetch: "fast" is neither on/,
    ],
    ['a transport that is none', ['up', '--transport', 'nfs'], 2, /not one of kernel, fuse-native/],
    [
      'a level of the log that is none, of a fetcher',
      ['fetcher', '--log-level', 'loud'],
      2,
      /not one of trace, debug/,
    ],
    [
      'a fleet NATS cannot name, of a fetcher',
      ['fetcher', '--fleet', 'a.b'],
      2,
      /--fleet: "a.b" is not allowed/,
    ],
    [
      'a fetcher without a NATS',
      ['fetcher'],
      2,
      /a fetcher meets its fleet on a NATS\n {2}hint: cofa fetcher --nats/,
    ],
    ['a node name NATS cannot take', ['up', '--node', 'a.b'], 2, /--node: "a.b" is not allowed/],
    ['the root of all', ['--root', '/', 'status'], 2, /the cofa root cannot be \//],
    ['two starts of the log', ['events', '--since-start', '--from', '5'], 2, /exclude each other/],
    ['keep and throw away', ['run', '--rm', '--keep', 'a'], 125, /exclude each other/],
    ['a relative folder to start in', ['run', '-w', 'x', 'a'], 125, /--workdir: "x" is not an absolute path/],
    ['a volume without a target', ['run', '-v', '/x', 'a'], 125, /volume "\/x"/],
    [
      'an environment file that is not there',
      ['run', '--env-file', '/nosuch/file', 'a'],
      125,
      /--env-file: ENOENT/,
    ],
    ['a name with a slash', ['run', '--name', '../x', 'a'], 125, /container name "..\/x" is not allowed/],
    ['an unknown help topic', ['help', 'nosuch'], 2, /there is no help about "nosuch"/],
  ])('%s', async (_, argv, exit, message) => {
    expect(await cofa(...argv)).toBe(exit);
    expect(err).toMatch(/^cofa: .+\n {2}hint: .+\n$/);
    expect(err).toMatch(message);
    expect(out).toBe('');
  });

  it('shows control characters from outside as escapes', async () => {
    expect(await cofa('rm', '--root', root, 'a\x1b[2Jb\nc')).toBe(3);
    expect(err).toContain('a\\u{1b}[2Jb\\nc');
  });
});

it('a key pair is not written beside the folder that is named for it', async () => {
  const folder = await cleanup.tempDir('keys');
  expect(await cofa('key', 'create', '--out', `${folder}/`)).toBe(2);
  expect(err).toBe(
    `cofa: --out: ${folder}/ is a folder\n  hint: name the files in it: --out ${folder}/release\n`,
  );
});

describe('without an engine', () => {
  it.each([
    ['status', []],
    ['upgrade', []],
    ['mount', ['debian:12', '/nowhere']],
    ['unmount', ['/nowhere']],
    ['events', []],
  ])('%s ends with 9 and says how to start one', async (name, args) => {
    expect(await cofa(name, '--root', root, ...args)).toBe(9);
    expect(err).toBe(
      `cofa: no engine runs with its state in ${root}\n  hint: start it: cofa up --root ${root}\n`,
    );
  });

  it('down ends with 9 as well, and says how another engine is stopped instead', async () => {
    expect(await cofa('down', '--root', root)).toBe(9);
    expect(err).toBe(
      `cofa: no engine runs with its state in ${root}\n  hint: there is nothing to stop; of an engine with another root: cofa down --root DIR\n`,
    );
  });

  it('says when an incident is kept, where none is', async () => {
    expect(await cofa('incidents', 'show', '--root', root)).toBe(3);
    expect(err).toBe(
      'cofa: no incident is kept\n  hint: an engine keeps one some seconds after the failure has ended\n',
    );
  });

  it('run ends with 125', async () => {
    expect(await cofa('--root', root, 'run', 'debian:12', 'status', '--json')).toBe(125);
    expect(err).toMatch(/^cofa: no engine runs/);
  });

  it('an error is an object on standard output with --json, before or after the command', async () => {
    for (const argv of [
      ['--json', '--root', root, 'status'],
      ['status', '--root', root, '--json'],
    ]) {
      out = '';
      expect(await cofa(...argv)).toBe(9);
      expect(JSON.parse(out)).toEqual({
        error: { code: 'not-running', message: expect.stringContaining(root), hint: expect.any(String) },
      });
    }
    expect(err).toBe('');
    expect(await cofa('--json', 'nosuch')).toBe(2);
  });

  it('ps shows what there is', async () => {
    expect(await cofa('ps', '--root', root)).toBe(0);
    expect(out).toBe('no containers, no mounts\n');
    expect(err).toBe(`cofa: the engine of ${root} does not run\n`);
    out = '';
    expect(await cofa('ps', '--json', '--root', root)).toBe(0);
    expect(JSON.parse(out)).toEqual({ running: false, containers: [], mounts: [] });
  });

  it('the root comes from $COFA_ROOT, --root wins', async () => {
    vi.stubEnv('COFA_ROOT', join(root, 'env'));
    await cofa('status');
    expect(err).toContain(`in ${join(root, 'env')}\n`);
    err = '';
    await cofa('status', '--root', join(root, 'flag', '..', 'flag'));
    expect(err).toContain(`in ${join(root, 'flag')}\n`);
    vi.unstubAllEnvs();
  });
});

it('the command is the first word that is neither an option nor its value', () => {
  expect(commandNameOf(['--root', 'run', '--json', 'status', 'x'])).toBe('status');
  expect(commandNameOf(['--root=/x', 'ps'])).toBe('ps');
  expect(commandNameOf(['--json'])).toBeUndefined();
});

const launcher = join(import.meta.dirname, '../../ops/cofa');
const start = (file: string, args: string[]) =>
  new Promise<{ code: number | null; stdout: string; stderr: string }>((resolve) => {
    const child = execFile(file, args, { timeout: 30_000 }, (_, stdout, stderr) =>
      resolve({ code: child.exitCode, stdout, stderr }),
    );
  });

describe('the launcher ops/cofa', () => {
  it('starts through links, also relative ones, from a folder with a blank', async () => {
    const directory = join(await cleanup.tempDir('bin'), 'my programs');
    await mkdir(directory);
    await symlink(launcher, join(directory, 'first'));
    await symlink('first', join(directory, 'second'));
    const result = await start(join(directory, 'second'), ['--version']);
    expect(result).toEqual({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/), stderr: '' });
  });

  it('passes arguments and exit code on', async () => {
    const result = await start(launcher, ['status', '--root', `${root}/a  b`]);
    expect(result.code).toBe(9);
    expect(result.stderr).toContain('a  b');
  });

  it('keeps the environment file of a container from Node, which has an option of that name', async () => {
    const file = join(await cleanup.tempDir('env'), 'env');
    await writeFile(file, 'NODE_OPTIONS=--no-such-option\n');
    const result = await start(launcher, ['run', '--root', root, '--env-file', file, 'debian:12']);
    expect(result.stderr).toMatch(/^cofa: no engine runs/);
    expect(result.code).toBe(125);
    const missing = await start(launcher, ['run', '--root', root, '--env-file', `${file}.not`, 'debian:12']);
    expect(missing.stderr).toMatch(/^cofa: --env-file: ENOENT/);
    expect(missing.code).toBe(125);
  });

  it('says what is missing where the dependencies are not installed', async () => {
    const checkout = join(await cleanup.tempDir('bare'), 'cofa');
    await mkdir(join(checkout, 'ops'), { recursive: true });
    const { readFile } = await import('node:fs/promises');
    await writeFile(join(checkout, 'ops/cofa'), await readFile(launcher), { mode: 0o755 });
    const result = await start(join(checkout, 'ops/cofa'), ['--version']);
    expect(result.code).toBe(8);
    expect(result.stderr).toMatch(
      /^cofa: its dependencies are not installed: there is no Node below .*\/cofa\/node_modules\n {2}hint: .*npm ci.*ops\/demo\n$/,
    );
  });

  it('ends quietly when its reader has gone', async () => {
    const result = await start('sh', ['-c', `'${launcher}' help exit-codes | head -n 1`]);
    expect(result).toEqual({ code: 0, stdout: 'Exit codes of cofa\n', stderr: '' });
  });
});
