/**
 * Adds keys and identities to the folder of trusted ones, and takes them away (key-directory.ts). An engine reads the folder at
 * each use, so it sees one whole, with its scope, or not at all.
 */
import { link, lstat, readFile, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { makeFolder } from '../kernel/make-folder.ts';
import { DEFAULT_ROOT, type TrustedIdentity } from './identities.ts';
import { KEY_NAME, readKeys } from './key-directory.ts';
import { parsePublicKey, parseScope, type TrustedKey } from './keys.ts';
import { parseIdentity, parseRoot } from './parse-identity.ts';

export interface NewKey {
  name: string;
  pem: string;
  /** Repository prefixes; undefined: it may vouch for everything. */
  scope: readonly string[] | undefined;
}

/**
 * Adds a key; makes the folder where there is none. Errors: `invalid-argument` for a bad name, key or scope, `conflict`
 * where the name or the key is there already.
 */
export async function addKey(directory: string, { name, pem, scope }: NewKey): Promise<TrustedKey> {
  checkName(name);
  const key = parsePublicKey(pem, `the key ${name}`);
  const parsedScope = scope && parseScope(textOf(scope), '--scope');
  const { keys } = await readKeys(directory);
  const same = keys.find((other) => other.fingerprint === key.fingerprint);
  if (same !== undefined) {
    throw new CofaError('conflict', `this key is trusted already, as ${same.name}`, {
      hint: `to change its name or scope, first: cofa trust rm ${same.name}`,
    });
  }
  const text = key.key.export({ type: 'spki', format: 'pem' }).toString();
  await add(directory, { name, file: `${name}.pub`, text, scope });
  return { ...key, name, scope: parsedScope };
}

export interface NewIdentity {
  name: string;
  /** As in the file (identities.ts): one of each two. */
  issuer?: string | undefined;
  issuerPattern?: string | undefined;
  subject?: string | undefined;
  subjectPattern?: string | undefined;
  /** Contents of a trusted_root.json; undefined: the folder's own counts. */
  root: string | undefined;
  scope: readonly string[] | undefined;
}

/**
 * Adds a rule for identities, with its trust root; makes the folder where there is none. Errors: `invalid-argument` for a bad
 * name, rule, root or scope, `not-found` without a trust root, `conflict` where the name is there already.
 */
export async function addIdentity(directory: string, added: NewIdentity): Promise<TrustedIdentity> {
  const { name, root, scope, ...rule } = added;
  checkName(name);
  const rootName = root === undefined ? DEFAULT_ROOT : `${name}.json`;
  const text = `${JSON.stringify({ ...rule, root: rootName }, null, 2)}\n`;
  const { issuer, subject } = parseIdentity(text, `the identity ${name}`);
  const path = join(directory, rootName);
  const rootText = root ?? (await readFile(path, 'utf8').catch(() => undefined));
  if (rootText === undefined) {
    throw new CofaError('not-found', `there is no trust root ${path}`, {
      hint: 'give one: cofa trust add trusted_root.json --issuer …; cosign trusted-root create makes it',
    });
  }
  const parsedRoot = parseRoot(rootText, root === undefined ? path : 'the trust root');
  const { rootProblem } = await import('./keyless.ts');
  const problem = rootProblem(parsedRoot);
  if (problem !== undefined) throw new CofaError('invalid-argument', problem);
  const parsedScope = scope && parseScope(textOf(scope), '--scope');
  if (await exists(join(directory, `${name}.pub`))) throw taken(join(directory, `${name}.pub`));
  await add(directory, { name, file: `${name}.identity`, text, scope, root });
  return { kind: 'identity', name, issuer, subject, root: { ...parsedRoot, path }, scope: parsedScope };
}

function checkName(name: string): void {
  if (KEY_NAME.test(name)) return;
  throw new CofaError('invalid-argument', `${JSON.stringify(name)} is no name of a key or an identity`, {
    hint: 'letters, digits, dots, - and _, at most 64: --name NAME',
  });
}

const textOf = (scope: readonly string[]): string => `${scope.join('\n')}\n`;

/** Writes the file of a key or an identity, after its scope and its trust root. Error `conflict` where it is there. */
async function add(
  directory: string,
  added: {
    name: string;
    file: string;
    text: string;
    scope: readonly string[] | undefined;
    root?: string | undefined;
  },
): Promise<void> {
  const { name, file, text, scope, root } = added;
  const path = join(directory, file);
  const draftOf = (own: string) => join(directory, `.${own}.${process.pid}`);
  const draft = draftOf(file);
  await makeFolder(directory, 0o755);
  try {
    await writeFile(draft, text, { mode: 0o644 });
    if (await exists(path)) throw taken(path);
    // The scope is there first: without it, the key would vouch for everything.
    for (const [own, content] of [
      [`${name}.scope`, scope && textOf(scope)],
      [`${name}.json`, root],
    ] as const) {
      if (content === undefined) {
        if (own.endsWith('.scope')) await unlink(join(directory, own)).catch(ignoreMissing);
        continue;
      }
      await writeFile(draftOf(own), content, { mode: 0o644 });
      await rename(draftOf(own), join(directory, own));
    }
    // Unlike a rename it replaces nothing.
    await link(draft, path).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EEXIST' ? taken(path) : error;
    });
  } finally {
    for (const own of [file, `${name}.scope`, `${name}.json`])
      await unlink(draftOf(own)).catch(ignoreMissing);
  }
}

/** Takes a key or an identity away, also one that is broken, and its own trust root. Error: `not-found`. */
export async function removeKey(directory: string, name: string): Promise<void> {
  const wasKey = await remove(directory, name, '.pub');
  const wasIdentity = await remove(directory, name, '.identity');
  if (!wasKey && !wasIdentity) {
    throw new CofaError('not-found', `${directory} has no key or identity ${JSON.stringify(name)}`, {
      hint: 'cofa trust ls shows what it has',
    });
  }
  await remove(directory, name, '.scope');
  if (wasIdentity) await remove(directory, name, '.json');
}

async function remove(directory: string, name: string, end: string): Promise<boolean> {
  if (!KEY_NAME.test(name) || `${name}${end}` === DEFAULT_ROOT) return false;
  try {
    await unlink(join(directory, `${name}${end}`));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

const taken = (path: string): CofaError =>
  new CofaError('conflict', `${path} exists already`, {
    hint: 'choose another name with --name, or remove it first: cofa trust rm',
  });

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== 'ENOENT') throw error;
}
