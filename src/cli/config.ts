/** `cofa config show|check|default`: the file of settings that `cofa up` reads. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { CONFIG_KEYS, DEFAULT_CONFIG, problemError, readConfig, whereOf } from './config-file.ts';
import { sampleConfig } from './config-sample.ts';
import { type Context, examples } from './context.ts';
import { renderTable } from '../terminal/table.ts';

const FILE = 'default: $COFA_CONFIG, else /etc/cofa/config.toml';

export function define(command: Command, context: Context): void {
  command.description(
    'The file of settings that cofa up reads. Its keys are the names of the options of cofa up, which win over it.',
  );
  command
    .command('show')
    .description('Show every setting, what the file makes of it, and from where that comes.')
    .argument('[file]', FILE)
    .action((file?: string) => show(file, context));
  command
    .command('check')
    .description('Say what is wrong with the file; exit code 2 where something is.')
    .argument('[file]', FILE)
    .action((file?: string) => check(file, context));
  command
    .command('default')
    .description('Print a file with every setting, its meaning and its default.')
    .action(() => context.sink.out(sampleConfig()));
  examples(command, [
    [`cofa config default > ${DEFAULT_CONFIG}`, 'every setting, commented out'],
    ['cofa config check', ''],
    ['cofa config show --json', ''],
  ]);
}

const read = (file: string | undefined) => readConfig(file === undefined ? undefined : resolve(file));

async function show(name: string | undefined, context: Context): Promise<void> {
  const config = await read(name);
  const { file = null, values, problems } = config;
  const [first] = problems;
  if (first !== undefined) throw problemError(config, first);
  const settings = [...CONFIG_KEYS].map(([key, { fallback = null, kind }]) => {
    const said = values.get(key);
    if (said !== undefined) return { key, value: hidden(key, said.value), from: 'file', line: said.line };
    return { key, value: kind === 'boolean' ? true : fallback, from: 'default', line: null };
  });
  context.output.data({ file, settings }, () =>
    renderTable(
      ['SETTING', 'VALUE', 'FROM'],
      settings.map(({ key, value, line }) => [
        key,
        value === null ? '-' : JSON.stringify(value),
        line === null ? 'default' : `${file}:${line}`,
      ]),
    ),
  );
}

/** A password is for no one's screen. */
const hidden = (key: string, value: unknown): unknown =>
  key === 'nats' ? String(value).replace(/\/\/[^/@]*@/, '//***@') : value;

async function check(name: string | undefined, context: Context): Promise<void> {
  const config = await read(name);
  const { file = null, problems } = config;
  context.exit = problems.length === 0 ? 0 : 2;
  context.output.data({ file, problems }, () => {
    if (problems.length === 0)
      return context.output.quiet
        ? ''
        : file === null
          ? 'there is no file of settings: defaults hold\n'
          : `${file} is right\n`;
    return problems.map((one) => `${whereOf(config, one)}: ${one.message}\n  hint: ${one.hint}\n`).join('');
  });
}
