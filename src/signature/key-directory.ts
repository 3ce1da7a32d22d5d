/**
 * The folder of keys and identities that an operator trusts. It is read anew at each use, so that one counts from the moment
 * its file is there, and no longer than that.
 *
 *     NAME.pub           one PEM public key
 *     NAME.identity      a rule for identities (identities.ts), as JSON
 *     NAME.scope         what NAME may vouch for (keys.ts, parseScope); without it: everything
 *     trusted_root.json  of Sigstore: for the identities whose rule names no other file
 *     NAME.json          a trust root that a rule names
 *
 * Kubernetes brings such files in a ConfigMap: each is a link to `..data/FILE`, and `..data` a link to the folder of this
 * version, which the kubelet exchanges at once. Names with a dot first are not looked at.
 */
import { constants } from 'node:fs';
import { open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { DEFAULT_ROOT, type TrustedIdentity, type TrustRoot } from './identities.ts';
import { parsePublicKey, parseScope, type Trusted, type TrustedKey } from './keys.ts';

export const DEFAULT_KEYS = '/etc/cofa/keys.d';

/** A file that could not be used. Its key or identity does not count; the others do. */
export interface KeyProblem {
  path: string;
  /** One sentence, with the path. */
  message: string;
}

export interface KeySet {
  /** By name. */
  keys: readonly TrustedKey[];
  /** By name. */
  identities: readonly TrustedIdentity[];
  problems: readonly KeyProblem[];
}

/** All who may vouch for something. */
export const trustedOf = ({ keys, identities }: KeySet): readonly Trusted[] => [...keys, ...identities];

export const KEY_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** A signature is compared with each of them. */
const MAX_KEYS = 64;
const MAX_IDENTITIES = 64;
/** Problems that are told. */
const MAX_PROBLEMS = 64;
/** Bytes of a file; a key has 178. */
const MAX_FILE = 16 * 1024;
/** Bytes of a trust root; that of sigstore.dev has 7 KB. */
export const MAX_ROOT = 256 * 1024;
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
  identities: [],
  problems: [{ path: directory, message: `no key counts: ${directory} cannot be read: ${why}` }],
});

const versionOf = (directory: string): Promise<string> => readlink(join(directory, '..data')).catch(() => '');

async function readOnce(directory: string): Promise<KeySet> {
  let files: string[];
  try {
    files = (await readdir(directory)).filter((file) => !file.startsWith('.')).sort();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return { keys: [], identities: [], problems: [] };
    return noKeys(directory, toErrorRecord(error).message);
  }
  return await new Reading(directory, files).run();
}

const KEY = { one: 'a key', all: 'keys' };
const IDENTITY = { one: 'an identity', all: 'identities' };

/** One reading of the folder. */
class Reading {
  readonly #directory: string;
  readonly #files: readonly string[];
  readonly #problems: KeyProblem[] = [];
  /** Files that were looked at, or belong to one that was. */
  readonly #used = new Set<string>([DEFAULT_ROOT]);
  readonly #roots = new Map<string, Promise<TrustRoot>>();

  constructor(directory: string, files: readonly string[]) {
    this.#directory = directory;
    this.#files = files;
  }

  async run(): Promise<KeySet> {
    const keys = await this.#each('.pub', MAX_KEYS, KEY, (name) => this.#key(name));
    const identities = await this.#each('.identity', MAX_IDENTITIES, IDENTITY, (name) =>
      this.#identity(name),
    );
    for (const file of this.#files.filter((one) => !this.#used.has(one))) {
      const path = join(this.#directory, file);
      this.#tell(
        file,
        `${path} is not looked at: keys are NAME.pub, identities NAME.identity, scopes NAME.scope`,
      );
    }
    return { keys, identities, problems: this.#problems };
  }

  /** What the files of a kind hold, by name; one that cannot be used is a problem. */
  async #each<T>(
    suffix: string,
    most: number,
    { one, all }: { one: string; all: string },
    read: (name: string) => Promise<T>,
  ): Promise<T[]> {
    const found: T[] = [];
    const names = this.#files
      .filter((file) => file.endsWith(suffix))
      .map((file) => file.slice(0, -suffix.length));
    for (const name of names) for (const end of [suffix, '.scope']) this.#used.add(`${name}${end}`);
    for (const name of names) {
      const file = `${name}${suffix}`;
      if (found.length === most) {
        this.#tell(file, `${join(this.#directory, file)} does not count: only the first ${most} ${all} do`);
        break;
      }
      try {
        found.push(await read(name));
      } catch (error) {
        this.#tell(file, `${one} does not count: ${toErrorRecord(error).message}`);
      }
    }
    return found;
  }

  async #key(name: string): Promise<TrustedKey> {
    const path = this.#pathOf(name, '.pub');
    return { ...parsePublicKey(await readSmall(path), path), name, scope: await this.#scopeOf(name) };
  }

  async #identity(name: string): Promise<TrustedIdentity> {
    const path = this.#pathOf(name, '.identity');
    if (this.#files.includes(`${name}.pub`))
      throw new CofaError('invalid-argument', `${path}: there is a key of the same name`);
    const { parseIdentity } = await import('./parse-identity.ts');
    const { issuer, subject, rootName } = parseIdentity(await readSmall(path), path);
    return {
      kind: 'identity',
      name,
      issuer,
      subject,
      root: await this.#root(rootName),
      scope: await this.#scopeOf(name),
    };
  }

  async #root(file: string): Promise<TrustRoot> {
    const path = join(this.#directory, file);
    this.#used.add(file);
    const read = this.#roots.get(file) ?? this.#readRoot(path);
    this.#roots.set(file, read);
    return await read;
  }

  async #readRoot(path: string): Promise<TrustRoot> {
    const { parseRoot } = await import('./parse-identity.ts');
    return parseRoot(await readSmall(path, MAX_ROOT), path);
  }

  async #scopeOf(name: string): Promise<string[] | undefined> {
    if (!this.#files.includes(`${name}.scope`)) return undefined;
    const path = join(this.#directory, `${name}.scope`);
    return parseScope(await readSmall(path), path);
  }

  #pathOf(name: string, suffix: string): string {
    const path = join(this.#directory, `${name}${suffix}`);
    if (!KEY_NAME.test(name))
      throw new CofaError(
        'invalid-argument',
        `${path}: a name has letters, digits, dots, - and _, at most 64`,
      );
    return path;
  }

  #tell(file: string, why: string): void {
    const path = join(this.#directory, file);
    if (this.#problems.length < MAX_PROBLEMS) this.#problems.push({ path, message: why.slice(0, 500) });
  }
}

/** A small regular file that not everyone may write. Links are followed. `most`: bytes. */
export async function readSmall(path: string, most = MAX_FILE): Promise<string> {
  // A FIFO would wait for a writer.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const { mode, size } = await file.stat();
    if ((mode & constants.S_IFMT) !== constants.S_IFREG)
      throw new CofaError('invalid-argument', `${path} is not a file`);
    if ((mode & constants.S_IWOTH) !== 0) {
      throw new CofaError('invalid-argument', `every user may write ${path}`, { hint: `chmod o-w ${path}` });
    }
    const bytes = Buffer.alloc(most + 1);
    const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
    if (size > most || bytesRead > most)
      throw new CofaError('invalid-argument', `${path} has more than ${most} bytes`);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}
