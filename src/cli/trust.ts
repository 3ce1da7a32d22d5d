/** `cofa trust add|ls|rm`: the public keys, and the identities, that may vouch for sidecars on this machine. */
import { basename, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { wordsOf } from '../signature/identities.ts';
import { DEFAULT_KEYS, type KeySet } from '../signature/key-directory.ts';
import { renderTable, shortDigest } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';

interface AddOptions {
  keys: string;
  name?: string;
  scope?: string[];
  issuer?: string;
  issuerPattern?: string;
  identity?: string;
  identityPattern?: string;
}

export function define(command: Command, context: Context): void {
  command.description(
    'The public keys, and the identities of a Sigstore, that may vouch for sidecars on this machine. They are files (NAME.pub, NAME.identity, and NAME.scope for what they may vouch for), which a configuration management or a ConfigMap can bring as well; the engine reads them at each use.',
  );
  command
    .command('add')
    .description('Trust a public key, or with --issuer an identity that signs without one.')
    .argument(
      '[file]',
      'PEM: of cofa key create, of cosign, of openssl pkey -pubout; of an identity: its trusted_root.json (default: the one that is there)',
    )
    .option('--name <name>', "what to call it (default: the file's name; an identity needs one)")
    .option(
      '--issuer <url>',
      'who says who the identity is, such as https://token.actions.githubusercontent.com',
    )
    .option('--issuer-pattern <re2>', 'the same as an expression that matches the whole of it')
    .option('--identity <subject>', 'who signs: an address of mail or of a workflow')
    .option('--identity-pattern <re2>', 'the same as an expression that matches the whole of it')
    .option(
      '--scope <repository>',
      'it may vouch for HOST or HOST/PATH and what is below; again for another (default: everything)',
      (text: string, before: string[] = []) => [...before, text],
    )
    .option('--keys <dir>', 'where the keys are', DEFAULT_KEYS)
    .action((file: string | undefined, options: AddOptions) =>
      isIdentity(options) ? addIdentity(file, options, context) : addKey(file, options, context),
    );
  command
    .command('ls')
    .description('List the trusted keys and identities, and the files that cannot be used.')
    .option('--keys <dir>', 'where the keys are', DEFAULT_KEYS)
    .action(async ({ keys }: { keys: string }) => {
      const { readKeys } = await import('../signature/key-directory.ts');
      const set = await readKeys(resolve(keys));
      for (const message of [...set.problems.map((one) => one.message), ...(await rootProblems(set))])
        context.output.warn(message);
      context.output.data(viewOf(set), () => render(set, resolve(keys)));
    });
  command
    .command('rm')
    .description('Trust a key or an identity no longer.')
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
    ['cofa trust add release.pub', 'for every image'],
    ['cofa trust add team.pub --scope registry.example/team', 'for these alone'],
    [
      'cofa trust add root.json --name ci --issuer https://id.example --identity ci@team.example',
      'signs without a key',
    ],
    ['cofa trust ls', ''],
    ['cofa trust rm release', ''],
  ]);
}

const isIdentity = ({ issuer, issuerPattern, identity, identityPattern }: AddOptions): boolean =>
  [issuer, issuerPattern, identity, identityPattern].some((one) => one !== undefined);

async function addKey(file: string | undefined, options: AddOptions, context: Context): Promise<void> {
  if (file === undefined)
    throw new CofaError('invalid-argument', 'which key?', { hint: 'cofa trust add FILE, or --issuer' });
  const { keys, name, scope } = options;
  const { addKey } = await import('../signature/key-changes.ts');
  const key = await addKey(resolve(keys), {
    name: name ?? basename(file).replace(/\.(?:pub|pem)$/, ''),
    pem: await read(file, 'cofa key create makes a key pair'),
    scope,
  });
  context.output.data(keyView(key), () =>
    context.output.quiet
      ? ''
      : `${key.name} (${key.kind}, ${key.fingerprint}) may vouch for ${scopeText(key.scope)}`,
  );
}

async function addIdentity(file: string | undefined, options: AddOptions, context: Context): Promise<void> {
  const { keys, name, scope, issuer, issuerPattern, identity, identityPattern } = options;
  if (name === undefined)
    throw new CofaError('invalid-argument', 'an identity needs a name', { hint: '--name NAME' });
  if ((issuer ?? issuerPattern) === undefined || (identity ?? identityPattern) === undefined)
    throw new CofaError('invalid-argument', 'an identity takes its issuer and who it is', {
      hint: '--issuer or --issuer-pattern, and --identity or --identity-pattern',
    });
  const { addIdentity } = await import('../signature/key-changes.ts');
  const root =
    file === undefined ? undefined : await read(file, 'cosign trusted-root create makes one', true);
  const added = await addIdentity(resolve(keys), {
    name,
    issuer,
    issuerPattern,
    subject: identity,
    subjectPattern: identityPattern,
    root,
    scope,
  });
  context.output.data(identityView(added), () =>
    context.output.quiet
      ? ''
      : `${name} (${wordsOf(added.subject)} of ${wordsOf(added.issuer)}) may vouch for ${scopeText(added.scope)}`,
  );
}

async function read(file: string, hint: string, isRoot = false): Promise<string> {
  const { MAX_ROOT, readSmall } = await import('../signature/key-directory.ts');
  return await readSmall(file, isRoot ? MAX_ROOT : undefined).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    throw new CofaError('not-found', `there is no file ${file}`, { hint });
  });
}

/** Trust roots that cannot be used: only to read one in full takes the library. */
async function rootProblems({ identities }: KeySet): Promise<string[]> {
  if (identities.length === 0) return [];
  const { rootProblem } = await import('../signature/keyless.ts');
  const problems = identities.map(({ root }) => rootProblem(root));
  return [...new Set(problems.filter((one) => one !== undefined))];
}

type Key = KeySet['keys'][number];
type Identity = KeySet['identities'][number];

const keyView = ({ name, kind, fingerprint, scope }: Key) => ({
  name,
  kind,
  fingerprint,
  scope: scope ?? null,
});

/** Of issuer and subject either the text or the expression. */
const identityView = ({ name, issuer, subject, root, scope }: Identity) => ({
  name,
  kind: 'identity',
  issuer: issuer.exact ?? null,
  issuerPattern: issuer.pattern ?? null,
  subject: subject.exact ?? null,
  subjectPattern: subject.pattern ?? null,
  root: root.path,
  scope: scope ?? null,
});

const viewOf = ({ keys, identities, problems }: KeySet) => ({
  keys: keys.map(keyView),
  identities: identities.map(identityView),
  problems,
});

const scopeText = (scope: Key['scope']): string =>
  scope === undefined ? 'everything' : scope.join(', ') || 'nothing: its scope is empty';

export function render({ keys, identities }: KeySet, dir: string): string {
  if (keys.length + identities.length === 0) return `${dir} has no keys: cofa trust add FILE`;
  return renderTable(
    ['NAME', 'TYPE', 'WHO', 'VOUCHES FOR'],
    [
      ...keys.map(({ name, kind, fingerprint, scope }) => [
        name,
        kind,
        shortDigest(fingerprint),
        scopeText(scope),
      ]),
      ...identities.map(({ name, kind, issuer, subject, scope }) => [
        name,
        kind,
        `${wordsOf(subject)} of ${wordsOf(issuer)}`,
        scopeText(scope),
      ]),
    ],
  );
}
