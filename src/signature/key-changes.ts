/**
 * Adds keys to the folder of trusted ones, and takes them away (key-directory.ts). An engine reads the folder at each use, so
 * it sees a key whole, with its scope, or not at all.
 */
import { link, lstat, mkdir, rename, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { KEY_NAME, readKeys } from './key-directory.ts';
import { parsePublicKey, parseScope, type TrustedKey } from './keys.ts';

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
  if (!KEY_NAME.test(name)) {
    throw new CofaError('invalid-argument', `${JSON.stringify(name)} is no name of a key`, {
      hint: 'letters, digits, dots, - and _, at most 64: --name NAME',
    });
  }
  const key = parsePublicKey(pem, `the key ${name}`);
  const scopeText = scope === undefined ? undefined : `${scope.join('\n')}\n`;
  const parsedScope = scopeText === undefined ? undefined : parseScope(scopeText, '--scope');
  const { keys } = await readKeys(directory);
  const same = keys.find((other) => other.fingerprint === key.fingerprint);
  if (same !== undefined) {
    throw new CofaError('conflict', `this key is trusted already, as ${same.name}`, {
      hint: `to change its name or scope, first: cofa trust rm ${same.name}`,
    });
  }
  const path = join(directory, `${name}.pub`);
  const drafts = [
    join(directory, `.${name}.pub.${process.pid}`),
    join(directory, `.${name}.scope.${process.pid}`),
  ];
  const [keyDraft, scopeDraft] = drafts as [string, string];
  await mkdir(directory, { recursive: true, mode: 0o755 });
  try {
    await writeFile(keyDraft, key.key.export({ type: 'spki', format: 'pem' }), { mode: 0o644 });
    if (await exists(path)) throw taken(path);
    // The scope is there before its key: without it, the key would vouch for everything.
    if (scopeText !== undefined) {
      await writeFile(scopeDraft, scopeText, { mode: 0o644 });
      await rename(scopeDraft, join(directory, `${name}.scope`));
    } else await unlink(join(directory, `${name}.scope`)).catch(ignoreMissing);
    // Unlike a rename it replaces nothing.
    await link(keyDraft, path).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EEXIST' ? taken(path) : error;
    });
  } finally {
    for (const draft of drafts) await unlink(draft).catch(ignoreMissing);
  }
  return { ...key, name, scope: parsedScope };
}

/** Takes a key away, also one that is broken. Error: `not-found`. */
export async function removeKey(directory: string, name: string): Promise<void> {
  const path = join(directory, `${name}.pub`);
  try {
    if (!KEY_NAME.test(name)) throw Object.assign(new Error(), { code: 'ENOENT' });
    await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new CofaError('not-found', `${directory} has no key ${JSON.stringify(name)}`, {
      hint: 'cofa trust ls shows what it has',
    });
  }
  await unlink(join(directory, `${name}.scope`)).catch(ignoreMissing);
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
