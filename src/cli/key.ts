/** `cofa key create|ls`: key pairs that sign sidecars. */
import { open, readdir, stat, unlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { DEFAULT_KEYS } from '../signature/key-directory.ts';
import { renderTable, shortDigest } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';
import { noNewFile } from '../replay/new-file.ts';

interface PairView {
  name: string;
  /** Whether the private key is here, and encrypted. */
  privateKey: 'plain' | 'encrypted' | null;
  /** Null where there is no public key, or one that cannot be read. */
  kind: string | null;
  fingerprint: string | null;
  /** Under which name it is trusted on this machine. */
  trustedAs: string | null;
}

export function define(command: Command, context: Context): void {
  command.description(
    'Key pairs that sign sidecars: cofa index --sign. Who has the private key may vouch for images; nodes get the public one: cofa trust add. cosign uses the same keys: cosign import-key-pair, cosign verify --key.',
  );
  command
    .command('create')
    .description(
      'Make a key pair (ECDSA P-256): PREFIX.key and PREFIX.pub, in PEM. The private key is encrypted where $COFA_KEY_PASSWORD, or a prompt, gives a passphrase. Nothing is overwritten.',
    )
    .option('--out <prefix>', 'where the two files are written', 'cofa')
    .action(({ out }: { out: string }) => create(out, context));
  command
    .command('ls')
    .description('List the key pairs of a folder, and whether this machine trusts them.')
    .argument('[dir]', 'where the files are', '.')
    .option('--keys <dir>', 'keys that this machine trusts', DEFAULT_KEYS)
    .action((dir: string, { keys }: { keys: string }) => list(resolve(dir), resolve(keys), context));
  examples(command, [
    ['cofa key create --out release', 'release.key, release.pub'],
    ['cofa index --sign release.key registry.example/app:1.4', ''],
    ['cofa trust add release.pub', 'on each node'],
    ['cofa key ls', ''],
  ]);
}

async function create(out: string, context: Context): Promise<void> {
  const [{ createKeyPair }, { parsePublicKey }, { newPassphrase }] = await Promise.all([
    import('../signature/private-key.ts'),
    import('../signature/keys.ts'),
    import('./passphrase.ts'),
  ]);
  // It would put keys.key beside the folder. Without the slash a folder of that name may be there.
  if (out.endsWith('/'))
    throw new CofaError('invalid-argument', `--out: ${out} is a folder`, {
      hint: `name the files in it: --out ${join(out, 'release')}`,
    });
  const prefix = resolve(out);
  const files = { privateKey: `${prefix}.key`, publicKey: `${prefix}.pub` };
  for (const path of Object.values(files)) if (await exists(path)) throw taken(path);
  const passphrase = await newPassphrase();
  const { privatePem, publicPem } = createKeyPair(passphrase);
  await writeNew(files.privateKey, privatePem, 0o600);
  await writeNew(files.publicKey, publicPem, 0o644).catch(async (error: unknown) => {
    await unlink(files.privateKey);
    throw error;
  });
  const { fingerprint } = parsePublicKey(publicPem, files.publicKey);
  const encrypted = passphrase !== undefined && passphrase !== '';
  context.output.data({ ...files, fingerprint, encrypted }, () => {
    if (context.output.quiet) return '';
    const how = encrypted ? 'encrypted' : 'not encrypted: keep it where only who signs can read it';
    return `private key  ${files.privateKey} (${how})
public key   ${files.publicKey}
fingerprint  ${fingerprint}

sign:        cofa index --sign ${files.privateKey} REF
trust it:    cofa trust add ${files.publicKey}   # on each node`;
  });
}

async function list(dir: string, keysDir: string, context: Context): Promise<void> {
  const [{ readKeys, readSmall }, { parsePublicKey }, { isEncrypted }] = await Promise.all([
    import('../signature/key-directory.ts'),
    import('../signature/keys.ts'),
    import('../signature/private-key.ts'),
  ]);
  const files = (await entriesOf(dir)).filter((file) => /\.(?:key|pub)$/.test(file));
  const names = [...new Set(files.map((file) => file.replace(/\.\w+$/, '')))].sort();
  const { keys } = await readKeys(keysDir);
  const pairs: PairView[] = [];
  for (const name of names) {
    const view: PairView = { name, privateKey: null, kind: null, fingerprint: null, trustedAs: null };
    try {
      const path = join(dir, name);
      if (files.includes(`${name}.key`)) {
        const pem = await readSmall(`${path}.key`);
        if (pem.includes('PRIVATE KEY-----'))
          view.privateKey = isEncrypted(pem) || pem.includes('BEGIN ENCRYPTED') ? 'encrypted' : 'plain';
      }
      if (files.includes(`${name}.pub`)) {
        const { kind, fingerprint } = parsePublicKey(await readSmall(`${path}.pub`), `${path}.pub`);
        const trusted = keys.find((key) => key.fingerprint === fingerprint);
        Object.assign(view, { kind, fingerprint, trustedAs: trusted?.name ?? null });
      }
    } catch (error) {
      context.output.warn(toErrorRecord(error).message);
    }
    if (view.privateKey !== null || view.kind !== null) pairs.push(view);
  }
  context.output.data({ pairs }, () => renderPairList(pairs, dir));
}

async function entriesOf(dir: string): Promise<string[]> {
  return await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error;
    throw new CofaError('not-found', `there is no folder ${dir}`, { hint: 'cofa key ls FOLDER' });
  });
}

export function renderPairList(pairs: readonly PairView[], dir: string): string {
  if (pairs.length === 0) return `no key pairs in ${dir}: cofa key create makes one`;
  return renderTable(
    ['NAME', 'PRIVATE', 'TYPE', 'FINGERPRINT', 'TRUSTED AS'],
    pairs.map(({ name, privateKey, kind, fingerprint, trustedAs }) => [
      name,
      privateKey ?? '-',
      kind ?? '-',
      fingerprint === null ? '-' : shortDigest(fingerprint),
      trustedAs ?? '-',
    ]),
  );
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

const taken = (path: string): CofaError =>
  new CofaError('conflict', `${path} exists already; a key is never overwritten`, {
    hint: 'choose another prefix: cofa key create --out PREFIX',
  });

async function writeNew(path: string, text: string, mode: number): Promise<void> {
  const file = await open(path, 'wx', mode).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EEXIST') throw taken(path);
    throw noNewFile(path, error);
  });
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}
