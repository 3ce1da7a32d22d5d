/** The command line as commander reads it: every command with its options and help. */
import { resolve } from 'node:path';
import { Command, CommanderError } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { version } from '../client/version.ts';
import { COMMANDS, type CommandEntry } from './commands.ts';
import { addOptions, type Context, examples, GLOBAL_OPTIONS, type GlobalOptions } from './context.ts';
import { exitCodesHelp } from './failure.ts';
import { commandIndexOf } from './words.ts';

/** Reads the command line and runs what it names, or shows help. Errors: `invalid-argument` for a wrong line; the command's. */
export async function runCommandLine(argv: readonly string[], context: Context): Promise<void> {
  const program = await buildProgram(argv, context);
  try {
    if (argv.length === 0) program.outputHelp();
    else await program.parseAsync([...argv], { from: 'user' });
  } catch (thrown) {
    const error = await asUsageError(thrown, program, argv, context);
    if (error !== undefined) throw error;
  }
}

/**
 * The program with the options of the one command that `argv` names; the others are known by name only, since their
 * code is not needed.
 */
export async function buildProgram(argv: readonly string[], context: Context): Promise<Command> {
  const wanted = new Set(helpTopicOf(argv));
  return await programOf(entriesFor(argv), (name) => wanted.has(name), context);
}

/** The program with the options of every command: for what describes them all. */
export async function buildWholeProgram(context: Context): Promise<Command> {
  return await programOf(COMMANDS, () => true, context);
}

async function programOf(
  entries: readonly CommandEntry[],
  loads: (name: string) => boolean,
  context: Context,
): Promise<Command> {
  const program = new Command('cofa');
  program
    .description('Copy On First Access: starts containers before their image has arrived.')
    .usage('[options] <command>')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: context.sink.out,
      // Errors are shown by `main`, all in the same way.
      writeErr: () => {},
      outputError: () => {},
      getOutHelpWidth: () => 100,
      getOutHasColors: () => false,
    })
    .option('-V, --version', 'print the version')
    .on('option:version', () => {
      context.sink.out(`${version()}\n`);
      throw new CommanderError(0, 'commander.version', '');
    })
    .helpOption('-h, --help', 'show help')
    .helpCommand(false);
  addGlobalOptions(program);
  examples(program, [
    ['cofa up', 'once, as root'],
    ['cofa run debian:12 cat /etc/os-release', 'any image; prepared ones start faster'],
    ['cofa index registry.example/app:1.4', 'prepare one, from anywhere that may push'],
    ['cofa status', ''],
  ]);
  program.addHelpText('after', 'More: cofa help COMMAND, cofa help exit-codes, cofa COMMAND --help');
  program.hook('preAction', (_, command) => {
    checkOneRoot(command);
    context.configure(command.optsWithGlobals<GlobalOptions>());
  });

  for (const entry of entries) await addCommand(program, entry, loads(entry.name), context);
  program
    .command('help [topic]')
    .helpGroup('Engine:')
    .summary('show help for a command, or: exit-codes')
    .helpOption(false)
    .action((topic?: string) => showHelp(program, topic, context));
  return program;
}

/** A command that is named at once needs no other; help and guesses are about all. */
function entriesFor(argv: readonly string[]): readonly CommandEntry[] {
  const index = commandIndexOf(argv);
  const named = COMMANDS.filter((entry) => entry.name === argv[index]);
  const isAtOnce = argv.slice(0, index).every((word) => !/^(-h|--help)$/.test(word));
  return named.length > 0 && isAtOnce ? named : COMMANDS;
}

async function addCommand(
  program: Command,
  entry: CommandEntry,
  load: boolean,
  context: Context,
): Promise<void> {
  // A loaded command says itself, in more words, what its arguments are.
  const command = program.command(load ? entry.name : `${entry.name} ${entry.args}`.trim());
  command.helpGroup(entry.group).summary(entry.summary).description(sentence(entry.summary));
  if (!load) return;
  const { define } = await entry.load();
  command.helpOption('-h, --help', 'show help');
  define(command, context);
  for (const one of [command, ...command.commands]) {
    addGlobalOptions(one);
    one.helpOption('-h, --help', 'show help');
  }
}

/** Before the command's name and behind it: commander would take the first one, and who types expects the last. */
function checkOneRoot(command: Command): void {
  const said: string[] = [];
  for (let one: Command | null = command; one !== null; one = one.parent) {
    const { root } = one.opts<GlobalOptions>();
    if (root !== undefined) said.unshift(root);
  }
  if (new Set(said.map((root) => resolve(root))).size > 1)
    throw new CofaError('invalid-argument', `--root is said twice: ${said.join(' and ')}`, {
      hint: 'each root has an engine of its own: say one of them',
    });
}

function addGlobalOptions(command: Command): void {
  addOptions(command.optionsGroup('Global options:'), GLOBAL_OPTIONS);
}

function showHelp(program: Command, topic: string | undefined, context: Context): void {
  if (topic === 'exit-codes') {
    context.sink.out(exitCodesHelp());
    return;
  }
  const command = topic === undefined ? program : program.commands.find((one) => one.name() === topic);
  if (command === undefined) {
    throw new CofaError('invalid-argument', `there is no help about ${JSON.stringify(topic)}`, {
      hint: 'cofa help lists the commands; there is also: cofa help exit-codes',
    });
  }
  command.outputHelp();
}

/** The command whose options must be known: the one that runs, or that of `help COMMAND`. */
function helpTopicOf(argv: readonly string[]): string[] {
  const index = commandIndexOf(argv);
  const name = argv[index];
  if (name === undefined) return [];
  const topic = argv[index + 1];
  return name === 'help' && topic !== undefined ? [name, topic] : [name];
}

/** commander's complaints about the command line in our own form; undefined where it only has shown help. */
async function asUsageError(
  thrown: unknown,
  program: Command,
  argv: readonly string[],
  context: Context,
): Promise<unknown> {
  if (!(thrown instanceof CommanderError)) return thrown;
  if (thrown.exitCode === 0) return undefined;
  const named = namedIn(program, argv);
  const name = ['cofa', ...named].join(' ');
  // Options and no command.
  if (thrown.code === 'commander.help') {
    const message = named.length === 0 ? 'no command' : `no command of ${name}`;
    return new CofaError('invalid-argument', message, { hint: `${name} --help lists them` });
  }
  const [message = '', suggestion] = thrown.message.replace(/^error: /, '').split('\n');
  const isUnknown = thrown.code === 'commander.unknownCommand' && named.length === 0;
  const guess =
    suggestion?.replace(/^\(Did|\)$/g, (part) => (part === ')' ? '' : 'did')) ??
    (isUnknown ? await groupGuess(argv[commandIndexOf(argv)], context) : undefined);
  const see = `see: ${name} --help`;
  const other =
    thrown.code === 'commander.unknownOption' && named[0] === 'run' ? otherThanDocker(message) : undefined;
  const hint = other !== undefined ? `${other}; ${see}` : guess === undefined ? see : `${guess} ${see}`;
  return new CofaError('invalid-argument', message, { hint });
}

/** Options of `docker run` that users try, and what `cofa run` does instead. */
const OF_DOCKER: ReadonlyArray<readonly [options: RegExp, instead: string]> = [
  [
    /'(?:-p|-P|--publish|--publish-all|--expose)\b/,
    'a container has the network of the host, so no port is published',
  ],
  [/'(?:-d|--detach)\b/, 'cofa run stays with its container: start it by your shell (&) or a service'],
  [
    /'--(?:privileged|cap-add|device)\b/,
    'containers have docker’s default rights and no others; docker on cofa gives more',
  ],
  [/'--(?:memory|cpus|mount|restart)\b/, 'cofa run is for single containers; docker on cofa has this option'],
];

const otherThanDocker = (message: string): string | undefined =>
  OF_DOCKER.find(([options]) => options.test(message))?.[1];

/** The names of the command, and of its own command, as far as the line has them. */
function namedIn(program: Command, argv: readonly string[]): string[] {
  const index = commandIndexOf(argv);
  const command = program.commands.find((one) => one.name() === argv[index]);
  if (command === undefined) return [];
  const word = argv.slice(index + 1).find((one) => !one.startsWith('-'));
  const own = command.commands.find((one) => one.name() === word);
  return [command, own].flatMap((one) => (one === undefined ? [] : [one.name()]));
}

/** Where no command has a name that is near: `why` is one of `replay`. Undefined: no group has it either. */
async function groupGuess(name: string | undefined, context: Context): Promise<string | undefined> {
  const { commands } = await buildWholeProgram(context);
  const groups = commands.filter((group) => group.commands.some((one) => one.name() === name));
  if (groups.length === 0) return undefined;
  return `did you mean ${groups.map((group) => `${group.name()} ${name}`).join(' or ')}?`;
}

function sentence(summary: string): string {
  return `${summary.charAt(0).toUpperCase()}${summary.slice(1)}.`;
}
