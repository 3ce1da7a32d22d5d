/** `cofa trust add|ls|rm`: the public keys that may vouch for sidecars on this machine. */
import { basename, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { DEFAULT_KEYS, type KeySet } from '../signature/key-directory.ts';
import { renderTable, shortDigest } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';

interface AddOptions {
  keys: string;
  name?: string;
  scope?: string[];
}

export function define(command: Command, context: Context): void {
  command.description(
    'The public keys that may vouch for sidecars on this machine. They are files (NAME.pub, and NAME.scope for what they may vouch for), which a configuration management or a ConfigMap can bring as well; the engine reads them at each use.',
  );
  command
    .command('add')
    .description('Trust a public key.')
    .argument('<file>', 'PEM: of cofa key create, of cosign, of openssl pkey -pubout')
    .option('--name <name>', "what to call it (default: the file's name)")
    .option(
      '--scope <repository>',
      'it may vouch for HOST or HOST/PATH and what is below; again for another (default: everything)',
      (text: string, before: string[] = []) => [...before, text],
    )
    .option('--keys <dir>', 'where the keys are', DEFAULT_KEYS)
    .action((file: string, options: AddOptions) => add(file, options, context));
  command
    .command('ls')
    .description('List the trusted keys, and the files that cannot be used.')
    .option('--keys <dir>', 'where the keys are', DEFAULT_KEYS)
    .action(async ({ keys }: { keys: string }) => {
      const { readKeys } = await import('../signature/key-directory.ts');
      const set = await readKeys(resolve(keys));
      for (const { message } of set.problems) context.output.warn(message);
      context.output.data(viewOf(set), () => render(set, resolve(keys)));
    });
  command
    .command('rm')
    .description('Trust a key no longer.')
    .argument('<name...>', 'as cofa trust ls shows them')
    .option('--keys <dir>', 'where the keys are', DEFAULT_KEYS)
    .action(async (names: string[], { keys }: { keys: string }) => {
      const { removeKey } = await import('../signature/key-changes.ts');
      for (const name of names) {
        await removeKey(resolve(keys), name);
        context.output.line({ removed: name }, () =>
          context.output.quiet ? '' : `${name} vouches for nothing now`,
        );
      }
    });
  examples(command, [
    ['cofa trust add release.pub', 'it may vouch for every image'],
    ['cofa trust add team.pub --scope registry.example/team', 'for these alone'],
    ['cofa trust ls', ''],
    ['cofa trust rm release', ''],
  ]);
}

async function add(file: string, { keys, name, scope }: AddOptions, context: Context): Promise<void> {
  const [{ addKey }, { readSmall }] = await Promise.all([
    import('../signature/key-changes.ts'),
    import('../signature/key-directory.ts'),
  ]);
  const pem = await readSmall(file).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    throw new CofaError('not-found', `there is no file ${file}`, {
      hint: 'cofa key create makes a key pair',
    });
  });
  const key = await addKey(resolve(keys), {
    name: name ?? basename(file).replace(/\.(?:pub|pem)$/, ''),
    pem,
    scope,
  });
  context.output.data(keyView(key), () =>
    context.output.quiet
      ? ''
      : `${key.name} (${key.kind}, ${key.fingerprint}) may vouch for ${scopeText(key.scope)}`,
  );
}

type Key = KeySet['keys'][number];

const keyView = ({ name, kind, fingerprint, scope }: Key) => ({
  name,
  kind,
  fingerprint,
  scope: scope ?? null,
});

const viewOf = ({ keys, problems }: KeySet) => ({ keys: keys.map(keyView), problems });

const scopeText = (scope: Key['scope']): string =>
  scope === undefined ? 'everything' : scope.join(', ') || 'nothing: its scope is empty';

export function render({ keys }: KeySet, dir: string): string {
  if (keys.length === 0) return `${dir} has no keys: cofa trust add FILE`;
  return renderTable(
    ['NAME', 'TYPE', 'FINGERPRINT', 'VOUCHES FOR'],
    keys.map(({ name, kind, fingerprint, scope }) => [
      name,
      kind,
      shortDigest(fingerprint),
      scopeText(scope),
    ]),
  );
}
