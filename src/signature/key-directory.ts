/**
 * The folder of keys that an operator trusts. It is read anew at each use, so that a key counts from the moment its file is
 * there, and no longer than that.
 *
 *     NAME.pub     one PEM public key
 *     NAME.scope   what it may vouch for (keys.ts, parseScope); without it: everything
 *
 * Kubernetes brings such files in a ConfigMap: each is a link to `..data/FILE`, and `..data` a link to the folder of this
 * version, which the kubelet exchanges at once. Names with a dot first are not looked at.
 */
import { constants } from 'node:fs';
import { open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { parsePublicKey, parseScope, type TrustedKey } from './keys.ts';

export const DEFAULT_KEYS = '/etc/cofa/keys.d';

/** A file that could not be used. Its key does not count; the others do. */
export interface KeyProblem {
  path: string;
  /** One sentence, with the path. */
  message: string;
}

export interface KeySet {
  /** By name. */
  keys: readonly TrustedKey[];
  problems: readonly KeyProblem[];
}

export const KEY_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** A signature is compared with each of them. */
const MAX_KEYS = 64;
/** Problems that are told. */
const MAX_PROBLEMS = 64;
/** Bytes of a file; a key has 178. */
const MAX_FILE = 16 * 1024;
/** How often the folder is read again where a new version came meanwhile. */
const ATTEMPTS = 5;

/** Reads the folder. Never throws: without the folder there are no keys, and what is wrong is in `problems`. */
export async function readKeys(directory: string): Promise<KeySet> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const version = await versionOf(directory);
    const set = await readOnce(directory);
    // Names of one version and contents of another would give a key the scope of none.
    if (version === (await versionOf(directory))) return set;
  }
  return noKeys(directory, 'it is exchanged all the time');
}

const noKeys = (directory: string, why: string): KeySet => ({
  keys: [],
  problems: [{ path: directory, message: `no key counts: ${directory} cannot be read: ${why}` }],
});

const versionOf = (directory: string): Promise<string> => readlink(join(directory, '..data')).catch(() => '');

async function readOnce(directory: string): Promise<KeySet> {
  let files: string[];
  try {
    files = (await readdir(directory)).filter((file) => !file.startsWith('.')).sort();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return { keys: [], problems: [] };
    return noKeys(directory, toErrorRecord(error).message);
  }
  const keys: TrustedKey[] = [];
  const problems: KeyProblem[] = [];
  const names = files.filter((file) => file.endsWith('.pub')).map((file) => file.slice(0, -'.pub'.length));
  const scopes = new Set(files.filter((file) => file.endsWith('.scope')));
  const tell = (file: string, why: string) => {
    const path = join(directory, file);
    if (problems.length < MAX_PROBLEMS) problems.push({ path, message: why.slice(0, 500) });
  };
  for (const name of names) {
    const file = `${name}.pub`;
    if (keys.length === MAX_KEYS) {
      tell(file, `${join(directory, file)} does not count: only the first ${MAX_KEYS} keys do`);
      break;
    }
    try {
      keys.push(await readKey(directory, name, scopes.has(`${name}.scope`)));
    } catch (error) {
      tell(file, `a key does not count: ${toErrorRecord(error).message}`);
    }
  }
  const known = new Set(names);
  for (const file of files) {
    if (file.endsWith('.pub') || (file.endsWith('.scope') && known.has(file.slice(0, -'.scope'.length))))
      continue;
    tell(file, `${join(directory, file)} is not looked at: keys are NAME.pub, their scopes NAME.scope`);
  }
  return { keys, problems };
}

async function readKey(directory: string, name: string, hasScope: boolean): Promise<TrustedKey> {
  const path = join(directory, `${name}.pub`);
  if (!KEY_NAME.test(name))
    throw new CofaError('invalid-argument', `${path}: a name has letters, digits, dots, - and _, at most 64`);
  const key = parsePublicKey(await readSmall(path), path);
  const scopePath = join(directory, `${name}.scope`);
  const scope = hasScope ? parseScope(await readSmall(scopePath), scopePath) : undefined;
  return { ...key, name, scope };
}

/** A small regular file that not everyone may write. Links are followed. */
export async function readSmall(path: string): Promise<string> {
  // A FIFO would wait for a writer.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { mode, size } = await file.stat();
    if ((mode & constants.S_IFMT) !== constants.S_IFREG)
      throw new CofaError('invalid-argument', `${path} is not a file`);
    if ((mode & constants.S_IWOTH) !== 0) {
      throw new CofaError('invalid-argument', `every user may write ${path}`, { hint: `chmod o-w ${path}` });
    }
    const bytes = Buffer.alloc(MAX_FILE + 1);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    if (size > MAX_FILE || bytesRead > MAX_FILE)
      throw new CofaError('invalid-argument', `${path} has more than ${MAX_FILE} bytes`);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
