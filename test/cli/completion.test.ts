/** What completes `cofa` in shells, and its manual: both are made from the declarations that `--help` prints. */
import { execFile, spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { manPages } from '../../ops/man.ts';
import { completionOf, type Shell } from '../../src/cli/completion.ts';
import { type DescribedCommand, type DescribedProgram, describeProgram } from '../../src/cli/description.ts';
import type { Outcome, Step } from '../replay/in-terminal.ts';
import { Cleanup } from '../support/temp.ts';

const run = promisify(execFile);
const cleanup = new Cleanup();
afterAll(() => cleanup.run());
let folder = '';
let program: DescribedProgram;
beforeAll(async () => {
  folder = await cleanup.tempDir('completion');
  program = await describeProgram();
  for (const shell of ['bash', 'zsh', 'fish'] as const)
    await writeFile(join(folder, shell), await completionOf(shell));
  await writeFile(join(folder, 'notes.txt'), '');
});

const has = (name: string): boolean =>
  spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;
/** Also with its own functions. */
const isFish = (): boolean =>
  spawnSync('fish', ['-c', 'type -q __fish_seen_subcommand_from'], { stdio: 'ignore' }).status === 0;
const all = (): DescribedCommand[] => program.commands.flatMap((one) => [one, ...one.commands]);
const optionsOf = (one: DescribedCommand): string[] =>
  [...one.options, ...program.globals].map(({ long }) => long);

/** What bash offers for the last word, as readline would have split the line. */
async function bash(...words: string[]): Promise<string[]> {
  const script = `compopt() { :; }; . ${folder}/bash; cd ${folder}
    COMP_WORDS=("$@") COMP_CWORD=$(( $# - 1 )); _cofa; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await run('bash', ['-c', script, 'bash', ...words]);
  return stdout.split('\n').filter((one) => one !== '');
}

describe('bash', () => {
  it('completes a line in a real terminal', async () => {
    const steps: Step[] = [
      ['type', `PS1='$'; cd ${folder}; . ./bash; cofa() { echo "got: $*."; }; echo be''gin\n`],
      ['wait', 'begin'],
      ['type', 'cofa stat\t'],
      ['wait', 'us '],
      ['type', '--lay\t\n'],
      ['wait', 'got: status --layers.'],
      ['type', 'cofa up --trust=ow\t --prepare lo\t --read-dead\t5 --config no\t\n'],
      ['wait', 'got: up --trust=own --prepare local --read-deadline 5 --config notes.txt.'],
      ['type', 'cofa mount host:5000/app@sha256:0 /et\t\n'],
      ['wait', 'got: mount host:5000/app@sha256:0 /etc/.'],
      ['type', 'exit\n'],
    ];
    const driver = join(import.meta.dirname, '../replay/terminal.py');
    const args = [driver, '120', '24', JSON.stringify(steps), 'bash', '--norc', '--noprofile', '-i'];
    const { stdout } = await run('python3', args, { timeout: 90_000 });
    const outcome = JSON.parse(stdout) as Outcome;
    expect(outcome.failed, outcome.output).toBeNull();
  });

  it('knows every command, and of each every option', async () => {
    expect(await bash('cofa', '')).toEqual(program.commands.map(({ name }) => name));
    for (const one of all()) {
      const offered = await bash('cofa', ...one.name.split(' '), '--');
      expect(offered, one.name).toEqual(optionsOf(one));
    }
  });

  it.each([
    ['words of a value', ['cofa', 'up', '--log-level', 'd'], ['debug']],
    ['words behind =', ['cofa', 'up', '--transport', '=', 'f'], ['fuse-native']],
    ['words behind = and nothing', ['cofa', 'run', '--network', '='], ['host', 'none']],
    ['files', ['cofa', 'config', 'check', 'no'], ['notes.txt']],
    ['no file where a folder belongs', ['cofa', 'unmount', 'no'], []],
    ['no value that may be missing', ['cofa', 'up', '--snapshotter', '--wa'], ['--wait']],
    ['arguments', ['cofa', 'install', 'd'], ['docker']],
    ['a command behind global options', ['cofa', '--root', '/x', '-q', 'stat'], ['status']],
    ['commands in a command', ['cofa', '--json', 'trust', ''], ['add', 'ls', 'rm']],
    ['a file or a command', ['cofa', 'replay', 'no'], ['notes.txt']],
    ['topics of help', ['cofa', 'help', 'ex'], ['exit-codes']],
    ['nothing behind the last argument', ['cofa', 'config', 'check', 'a', ''], []],
    ['what repeats', ['cofa', 'uninstall', 'docker', 'k'], ['k8s']],
    ['nothing of ours behind the image of run', ['cofa', 'run', 'app', '--'], []],
  ])('%s', async (_, words, offered) => {
    expect(await bash(...words)).toEqual(offered);
  });
});

describe('other shells, where they are', () => {
  it.skipIf(!isFish())('fish offers the commands and the options of each', async () => {
    const fish = async (line: string) => {
      const script = `source ${folder}/fish; complete -C ${JSON.stringify(line)}`;
      const { stdout } = await run('fish', ['-c', script], { env: { ...process.env, HOME: folder } });
      return stdout
        .split('\n')
        .map((one) => one.split('\t')[0] ?? '')
        .filter((one) => one !== '');
    };
    expect(new Set(await fish('cofa '))).toEqual(new Set(program.commands.map(({ name }) => name)));
    for (const one of all()) {
      const offered = await fish(`cofa ${one.name} --`);
      expect(new Set(offered), one.name).toEqual(new Set(optionsOf(one)));
    }
    expect(await fish('cofa up --trust ow')).toEqual(['own']);
  });

  it.skipIf(!has('zsh'))('zsh reads the script', async () => {
    await run('zsh', ['-f', '-n', join(folder, 'zsh')]);
  });

  it.each(['zsh', 'fish'] satisfies Shell[])(
    '%s: every option of every command is in the script',
    async (shell) => {
      const text = await completionOf(shell);
      for (const { long } of all().flatMap(({ options }) => options))
        expect(text).toContain(shell === 'fish' ? `-l ${long.slice(2)} ` : long);
    },
  );
});

describe('the manual', () => {
  it('has every command with every option, and every setting', async () => {
    const pages = await manPages();
    const text = (name: string) => (pages.get(name) ?? '').replaceAll('\\-', '-');
    for (const one of all()) {
      expect(text('cofa.1')).toContain(`.SS cofa ${one.name}`);
      for (const { long } of one.options) expect(text('cofa.1')).toContain(`\\fB${long}\\fR`);
    }
    expect(text('cofa-config.toml.5')).toContain('\n.B read-deadline\n');
  });

  it('has each variable of the environment that a help names', async () => {
    const page = (await manPages()).get('cofa.1') ?? '';
    const [, environment = ''] = /^\.SH ENVIRONMENT$([^]*?)^\.SH /m.exec(page) ?? [];
    const words = all().flatMap((one) => [one.description, ...one.options.map(({ about }) => about)]);
    const named = new Set(words.flatMap((text) => text.match(/(?<=\$)[A-Z_]+/g) ?? []));
    expect(named.size).toBeGreaterThan(4);
    expect([...named].filter((name) => !environment.includes(name))).toEqual([]);
  });

  it.each([
    ['man', (file: string) => ['--warnings', '-E', 'UTF-8', '-l', '-Tutf8', '-Z', file]],
    ['mandoc', (file: string) => ['-T', 'lint', '-W', 'style', file]],
  ])('%s has nothing to say against it', async (judge, args) => {
    if (!has(judge) && judge === 'mandoc') return;
    if (!has('groff')) return;
    for (const [name, text] of await manPages()) {
      const file = join(folder, name);
      await writeFile(file, text);
      const { status, stdout, stderr } = spawnSync(judge, args(file), { encoding: 'utf8' });
      expect({ status, said: judge === 'mandoc' ? stdout + stderr : stderr }).toEqual({
        status: 0,
        said: '',
      });
    }
  });
});
