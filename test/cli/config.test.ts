/** The file of settings: what `cofa up` makes of it, and what it refuses. */
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command } from 'commander';
import { parse } from 'smol-toml';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { CONFIG_KEYS, fillFromFile, parseConfig, readConfig } from '../../src/cli/config-file.ts';
import { sampleConfig } from '../../src/cli/config-sample.ts';
import { addOptions, Context } from '../../src/cli/context.ts';
import { takeNatsUrl } from '../../src/cli/nats-options.ts';
import { main } from '../../src/cli/program.ts';
import { registrySettings } from '../../src/cli/registry-settings.ts';
import { attributeOf, keyOf, UP_OPTIONS, type UpOptions, upArguments } from '../../src/cli/up-options.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let folder = '';
beforeAll(async () => {
  folder = await cleanup.tempDir('config');
});

let made = 0;
async function fileOf(text: string, mode = 0o644): Promise<string> {
  const file = join(folder, `${made++}.toml`);
  await writeFile(file, text);
  await chmod(file, mode);
  return file;
}

/** What `cofa up` would start with. */
async function upWith(text: string, ...argv: string[]): Promise<UpOptions> {
  const command = new Command();
  addOptions(command, UP_OPTIONS);
  command.parse([...argv, '--config', await fileOf(text)], { from: 'user' });
  const options = command.opts<UpOptions>();
  takeNatsUrl(options);
  await fillFromFile(command, options);
  return options;
}

async function cofa(...argv: string[]): Promise<{ exit: number; out: string; err: string }> {
  const said = { out: '', err: '' };
  const sink = {
    out: (text: string) => (said.out += text),
    err: (text: string) => (said.err += text),
    errIsTerminal: false,
  };
  return { exit: await main(argv, sink), ...said };
}

describe('what the file says', () => {
  it('counts as if the options had said it; options that are given win', async () => {
    const text = `
      workers = 3
      read-deadline = 12.5
      cache-limit = "20G"
      log-limit = 2097152
      insecure-registry = ["a.example:5000", "b.example"]
      certs-dir = ["/srv/certs"]
      trust = "own"
      keys = "/srv/keys"
      snapshotter = "/run/x.sock"
      image-service = true
      defer = false
      rehearsal = false
      nats = "tls://file:4222"`;
    expect(await upWith(text)).toMatchObject({
      workers: 3,
      readDeadline: 12.5,
      cacheLimit: 20e9,
      logLimit: 2 << 20,
      insecureRegistry: ['a.example:5000', 'b.example'],
      certsDir: ['/srv/certs'],
      trust: 'own',
      keys: '/srv/keys',
      snapshotter: '/run/x.sock',
      imageService: true,
      defer: false,
      rehearsal: false,
      nats: 'tls://file:4222',
      hangDeadline: 10,
    });
    const flags = ['--workers', '1', '--trust', 'never', '--read-deadline', '30', '--rehearsal', '--defer'];
    flags.push('--insecure-registry', 'c.example', '--no-snapshotter', '--nats', 'tls://flag:4222');
    expect(await upWith(text, ...flags)).toMatchObject({
      workers: 1,
      trust: 'never',
      // Also where it is the default.
      readDeadline: 30,
      rehearsal: true,
      defer: true,
      insecureRegistry: ['c.example'],
      snapshotter: false,
      nats: 'tls://flag:4222',
      keys: '/srv/keys',
    });
    // A service asks for the snapshotter; the file says where.
    expect((await upWith(text, '--snapshotter')).snapshotter).toBe('/run/x.sock');
    expect((await upWith('snapshotter = false', '--snapshotter')).snapshotter).toBe(true);
  });

  it.each([
    ['64M', 64e6],
    ['64MiB', 64 << 20],
    ['1.5G', 1.5e9],
    ['1TiB', 2 ** 40],
  ])('has sizes in units of 1000, and of 1024 with an i, whichever they are of: %s', async (size, bytes) => {
    for (const [key, attribute] of [
      ['log-limit', 'logLimit'],
      ['cache-limit', 'cacheLimit'],
    ] as const)
      expect((await upWith(`${key} = "${size}"`))[attribute]).toBe(bytes);
  });

  it('is weaker than the environment', async () => {
    process.env.COFA_NATS = 'tls://environment:4222';
    expect((await upWith('nats = "tls://file:4222"')).nats).toBe('tls://environment:4222');
    expect(process.env.COFA_NATS).toBeUndefined();
  });

  it('reaches an engine in the background whole, and without a second reading', async () => {
    const options = await upWith(
      'workers = 3\ndefer = false\nimage-service = false\ncerts-dir = ["/a", "/b"]\nsnapshotter = "/s"\nnats = "tls://u:secret@h"\n',
      '--no-rehearsal',
    ).catch((error: unknown) => String(error));
    expect(options).toMatch(/password/);
    const fine = await upWith(
      'workers = 3\ndefer = false\nimage-service = false\ncerts-dir = ["/a", "/b"]\nsnapshotter = "/s"\n',
      '--no-rehearsal',
    );
    const args = upArguments(fine);
    const command = new Command();
    addOptions(command, UP_OPTIONS);
    command.parse(args, { from: 'user' });
    const { config: _, imageService: off, ...expected } = fine;
    expect(off).toBe(false);
    expect(command.opts()).toEqual({ ...expected, config: false });
  });
});

describe('what is refused, with line, key and way out', () => {
  it.each([
    ['an unknown key', '\n\nbogus = 1', 3, /unknown key "bogus"/, /cofa config default/],
    ['an underscore', 'read_deadline = 1', 1, /unknown key "read_deadline"/, /did you mean read-deadline/],
    ['what every command must know', 'root = "/srv"', 1, /unknown key "root"/, /COFA_ROOT/],
    ['what is about one call', 'foreground = true', 1, /unknown key/, /one call/],
    ['a table', '[nats]\nurl = "x"', 1, /nats: a table, where a text in quotes belongs/, /tls:/],
    ['an unknown table', 'workers = 1\n[engine]\nworkers = 1', 2, /unknown key "engine"/, /./],
    ['a number in quotes', 'workers = "8"', 1, /workers: a text, where a number belongs/, /workers = 4/],
    ['a word for a list', 'certs-dir = "/a"', 1, /a text, where a list of paths/, /certs-dir = \["/],
    ['a list of other things', 'certs-dir = [1]', 1, /a list, where a list of paths/, /./],
    ['a date', 'wait = 2026-01-01', 1, /wait: a date, where a number belongs/, /wait = 60/],
    [
      'a number out of range',
      'workers = 0',
      1,
      /^workers: "0" is not a whole number from 1 to 256/,
      /workers = 4/,
    ],
    ['infinity', 'read-deadline = inf', 1, /read-deadline: "Infinity"/, /./],
    ['a word that is none', 'trust = "all"', 1, /^trust: "all" is not one of registry, /, /who may vouch/],
    ['a size that is none', 'log-limit = "100k"', 1, /log-limit: "100k" is not a size/, /256M/],
    ['a relative path', 'keys = "keys.d"', 1, /"keys.d" is not an absolute path/, /keys = "\//],
    ['a relative socket', 'snapshotter = "s"', 1, /"s" is not an absolute path/, /sock/],
    ['a host that is none', 'insecure-registry = ["a b"]', 1, /is not HOST/, /registry.example/],
    ['a node name that is none', 'node = "a.b"', 1, /^node: "a.b" is not allowed/, /node = "node-1"/],
    ['no TOML', 'workers = 3\nkeys = /etc\n', 2, /^not TOML: /, /KEY = VALUE/],
    ['a key twice', 'wait = 1\nwait = 2\n', 2, /^not TOML: /, /./],
  ])('%s', (_, text, line, message, hint) => {
    const { problems } = parseConfig(text);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatchObject({ line });
    expect(problems[0]?.message).toMatch(message);
    expect(problems[0]?.hint).toMatch(hint);
  });

  it('a file that others may change, or with a password that others may read', async () => {
    const of = async (text: string, mode: number) =>
      (await readConfig(await fileOf(text, mode))).problems.map(({ message }) => message);
    expect(await of('workers = 1', 0o644)).toEqual([]);
    expect(await of('workers = 1', 0o664)).toEqual([expect.stringMatching(/may change it/)]);
    expect(await of('workers = 1', 0o646)).toEqual([expect.stringMatching(/may change it/)]);
    expect(await of('nats = "tls://u:p@h:4222"', 0o644)).toEqual([expect.stringMatching(/password/)]);
    expect(await of('nats = "tls://u:p@h:4222"', 0o600)).toEqual([]);
  });

  it('stops cofa up before anything starts, and says how many problems there are', async () => {
    const file = await fileOf('workers = 0\nbogus = 1\n');
    const { exit, err } = await cofa('up', '--config', file, '--root', join(folder, 'root'));
    expect(exit).toBe(process.getuid?.() === 0 ? 2 : 8);
    if (exit === 2)
      expect(err).toBe(
        `cofa: ${file}:1: workers: "0" is not a whole number from 1 to 256 (and 1 more: cofa config check)\n` +
          '  hint: fetcher processes (default: one a core); such as: workers = 4\n',
      );
  });
});

describe('commands that talk to a registry by themselves', () => {
  const context = new Context({ out: () => {}, err: () => {}, errIsTerminal: false });
  const settings = async (text: string, flags = {}) => {
    vi.stubEnv('COFA_CONFIG', await fileOf(text));
    return await registrySettings(flags, context);
  };
  afterEach(() => vi.unstubAllEnvs());

  it('read in the file how registries are reached; options win, and nothing else counts', async () => {
    const text = 'insecure-registry = ["a.example"]\nhosts-dir = ["/srv/hosts"]\nworkers = 0\n';
    expect(await settings(text)).toEqual({
      insecure: ['a.example'],
      hostDirs: ['/srv/hosts', '/etc/containerd/certs.d'],
    });
    expect(await settings(text, { insecureRegistry: ['b.example'] })).toMatchObject({
      insecure: ['b.example'],
    });
    expect(await settings('workers = 2')).toEqual({});
    vi.stubEnv('COFA_CONFIG', '/dev/null');
    expect(await registrySettings({}, context)).toEqual({});
  });

  it('take the engine’s credentials only as root, and where the environment names none', async () => {
    const text = 'docker-config = "/srv/docker"';
    vi.stubEnv('DOCKER_CONFIG', '');
    const getuid = vi.spyOn(process, 'getuid');
    getuid.mockReturnValue(0);
    expect(await settings(text)).toEqual({ dockerConfig: '/srv/docker' });
    getuid.mockReturnValue(1000);
    expect(await settings(text)).toEqual({});
    getuid.mockReturnValue(0);
    vi.stubEnv('DOCKER_CONFIG', '/mine');
    expect(await settings(text)).toEqual({});
    getuid.mockRestore();
  });

  it.each([
    ['index', ['--dry-run']],
    ['inspect', []],
    ['pull', ['--address', '/nosuch.sock']],
  ])('%s refuses a file whose registries are wrong', async (command, flags) => {
    const file = await fileOf('insecure-registry = ["a b"]');
    vi.stubEnv('COFA_CONFIG', file);
    const { exit, err } = await cofa(command, ...flags, '127.0.0.1:1/app');
    expect({ exit, err }).toEqual({
      exit: 2,
      err: expect.stringContaining(`${file}:1: insecure-registry: `),
    });
  });
});

describe('cofa config', () => {
  it('default: every option that is about the engine, each as it would be taken', async () => {
    const { exit, out } = await cofa('config', 'default');
    expect(exit).toBe(0);
    const active = out.replaceAll(/^#([a-z-]+ = )/gm, '$1');
    expect(Object.keys(parse(active))).toEqual([...CONFIG_KEYS.keys()]);
    expect(parseConfig(active).problems).toEqual([]);
    expect(Object.keys(parse(out))).toEqual([]);
    // Which have no place in it, said here so that a new option is decided about.
    const without = UP_OPTIONS.filter((words) => !CONFIG_KEYS.has(keyOf(words))).map(attributeOf);
    expect(new Set(without)).toEqual(new Set(['foreground', 'takeOver', 'config']));
  });

  it('default is what docs/config.toml shows', async () => {
    await expect(sampleConfig()).toMatchFileSnapshot('../../docs/config.toml');
  });

  it('check lists every problem and ends with 2; a right file ends with 0', async () => {
    const wrong = await fileOf('workers = 0\nbogus = 1\n');
    const { exit, out } = await cofa('config', 'check', wrong, '--json');
    expect(exit).toBe(2);
    expect(JSON.parse(out)).toMatchObject({
      file: wrong,
      problems: [
        { line: 1, key: 'workers' },
        { line: 2, key: 'bogus' },
      ],
    });
    expect(await cofa('config', 'check', await fileOf(sampleConfig()))).toMatchObject({ exit: 0 });
    expect(await cofa('config', 'check', join(folder, 'nosuch'))).toMatchObject({ exit: 3 });
  });

  it('show says each setting and where it comes from, and no password', async () => {
    const file = await fileOf('workers = 2\nnats = "tls://user:secret@host:4222"\n', 0o600);
    const { out } = await cofa('config', 'show', file, '--json');
    const { settings } = JSON.parse(out) as { settings: unknown[] };
    expect(settings).toHaveLength(CONFIG_KEYS.size);
    expect(settings).toContainEqual({ key: 'workers', value: 2, from: 'file', line: 1 });
    expect(settings).toContainEqual({ key: 'hang-deadline', value: 10, from: 'default', line: null });
    expect(out).not.toContain('secret');
    expect((await cofa('config', 'show', file)).out).toMatch(/^workers +2 +\/.*:1$/m);
  });
});
