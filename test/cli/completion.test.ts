/** What completes `cofa` in shells, and its manual: both are made from the declarations that `--help` prints. */
import { execFile, spawnSync } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { manPages } from '../../ops/man.ts';
import { completionOf, type Shell } from '../../src/cli/completion.ts';
import { type DescribedCommand, type DescribedProgram, describeProgram } from '../../src/cli/description.ts';
import type { Outcome, Step } from '../replay/in-terminal.ts';
import { debiansFish, debiansZsh } from '../support/shells.ts';
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
  await mkdir(join(folder, 'functions'));
  await writeFile(join(folder, 'functions/_cofa'), await completionOf('zsh'));
  await writeFile(join(folder, 'notes.txt'), '');
});

const has = (name: string): boolean =>
  spawnSync(name, ['--version'], { stdio: 'ignore' }).error === undefined;
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

/**
 * For zsh: Ctrl-G writes what completion offers for the line into $OFFERED, and empties the line. The completion system asks
 * `compadd` with -O, -A or -D what would match, and without them to offer it.
 */
const ZSH_OFFERS = `
autoload -Uz compinit; compinit -u -D
lines=0
_offer() {
  print -r -- '--- of a line' >> $OFFERED
  compadd() {
    local before="\${(j: :)@[1,(i)(-|--)]} "
    if [[ $before == *-[OAD]' '* ]]; then builtin compadd "$@"; return; fi
    local -a words
    builtin compadd -O words "$@"
    print -rl -- $words >> $OFFERED
    builtin compadd "$@"
  }
  _main_complete
  unfunction compadd
  compstate[insert]= compstate[list]=
}
zle -C offer complete-word _offer
_see() { zle offer; BUFFER=; zle -I; print "seen $((++lines))." }
zle -N see _see
bindkey '^G' see
`;

/** A shell in a terminal: what begins it, as a user's own file of settings would, and then the lines that are typed. */
interface Interactive {
  shell: Shell;
  begin: () => Promise<{ command: string[]; env: NodeJS.ProcessEnv; settings: string }>;
  /** What stands between an option and its value, and what behind a folder at the end of a line. */
  between: ' ' | '=';
  behind: '/' | '';
}

const INTERACTIVE: Interactive[] = [
  {
    shell: 'bash',
    between: ' ',
    behind: '/',
    begin: async () => ({
      command: ['bash', '--norc', '--noprofile', '-i'],
      env: process.env,
      settings: `PS1='$'; cd ${folder}; . ./bash; cofa() { echo "got: $*."; }; echo be''gin`,
    }),
  },
  {
    shell: 'zsh',
    between: '=',
    behind: '',
    begin: async () => {
      const { program, env } = await debiansZsh(folder);
      return {
        command: [program, '-f', '-i'],
        env,
        settings: `PS1='$'; cd ${folder}; fpath=(${folder}/functions $fpath); autoload -Uz compinit; compinit -u -D; cofa() { echo "got: $*." }; echo be''gin`,
      };
    },
  },
  {
    shell: 'fish',
    between: ' ',
    behind: '/',
    begin: async () => {
      const { program, env } = await debiansFish(cleanup);
      return {
        command: [program, '-i'],
        env,
        settings: `cd ${folder}; source ./fish; function cofa; echo "got: $argv."; end; echo be''gin`,
      };
    },
  },
];

async function inTerminal(command: string[], env: NodeJS.ProcessEnv, steps: Step[]): Promise<Outcome> {
  const driver = join(import.meta.dirname, '../replay/terminal.py');
  const args = [driver, '120', '24', JSON.stringify(steps), ...command];
  const { stdout } = await run('python3', args, { env, timeout: 115_000, maxBuffer: 2 ** 24 });
  return JSON.parse(stdout) as Outcome;
}

describe.each(INTERACTIVE)('$shell', ({ begin, between, behind }) => {
  it('completes a line in a real terminal', async () => {
    const { command, env, settings } = await begin();
    const { failed, output } = await inTerminal(command, env, [
      ['type', `${settings}\n`],
      ['wait', 'begin'],
      ['type', 'cofa stat\t--lay\t\n'],
      ['wait', 'got: status --layers.'],
      ['type', 'cofa up --trust=ow\t --prepare lo\t --read-dead\t5 --config no\t\n'],
      ['wait', `got: up --trust=own --prepare local --read-deadline${between}5 --config notes.txt.`],
      ['type', 'cofa mount host:5000/app@sha256:0 /et\t\n'],
      ['wait', `got: mount host:5000/app@sha256:0 /etc${behind}.`],
      ['type', 'cofa trust l\t\n'],
      ['wait', 'got: trust ls.'],
      ['type', 'exit\n'],
    ]);
    expect(failed, output).toBeNull();
  });
});

describe('bash', () => {
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

describe('other shells', () => {
  it('fish offers the commands and the options of each', async () => {
    const { program: shell, env } = await debiansFish(cleanup);
    const fish = async (line: string) => {
      const script = `source ${folder}/fish; complete -C ${JSON.stringify(line)}`;
      const { stdout } = await run(shell, ['-c', script], { env });
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
    expect(await fish('cofa --root /x --quiet trust ')).toEqual(['add', 'ls', 'rm']);
  });

  it('zsh offers the commands and the options of each', async () => {
    const { program: shell, env } = await debiansZsh(folder);
    const file = join(folder, 'offered');
    await writeFile(join(folder, 'offers'), ZSH_OFFERS);
    const lines = ['', ...all().map(({ name }) => `${name} --`)];
    const { failed, output } = await inTerminal([shell, '-f', '-i'], env, [
      [
        'type',
        `PS1='$'; fpath=(${folder}/functions $fpath); OFFERED=${file}; . ${folder}/offers; echo be''gin\n`,
      ],
      ['wait', 'begin'],
      ...lines.flatMap((line, at): Step[] => [
        ['type', `cofa ${line}\x07`],
        ['wait', `seen ${at + 1}.`],
      ]),
      ['type', 'exit\n'],
    ]);
    expect(failed, output).toBeNull();
    const offered = (await readFile(file, 'utf8')).split('--- of a line\n').slice(1);
    expect(offered).toHaveLength(lines.length);
    const wanted = [program.commands.map(({ name }) => name), ...all().map(optionsOf)];
    for (const [at, line] of lines.entries()) {
      // zsh has the = of an option with a value among the words.
      const words = (offered[at] ?? '').split('\n').map((word) => word.replace(/=$/, ''));
      expect(new Set(words.filter((word) => word !== '')), line).toEqual(new Set(wanted[at]));
    }
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
