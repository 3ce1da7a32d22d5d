/** The private key that `--sign` names: a file, or a variable of the environment, as CI systems hand out secrets. */
import { stat } from 'node:fs/promises';
import { CofaError } from '../../schemas/errors.ts';
import type { SigningKey } from '../signature/private-key.ts';
import type { Context } from './context.ts';
import { passphraseFor } from './passphrase.ts';

/** Reads PATH, or env:NAME (cosign's env://NAME as well). Errors: `not-found`, and those of parsePrivateKey. */
export async function readSigningKey(named: string, context: Context): Promise<SigningKey> {
  const { isEncrypted, parsePrivateKey } = await import('../signature/private-key.ts');
  const variable = /^env:(?:\/\/)?(.+)$/.exec(named)?.[1];
  const pem = variable === undefined ? await fromFile(named, context) : fromVariable(variable);
  const where = variable === undefined ? named : `$${variable}`;
  return parsePrivateKey(pem, where, isEncrypted(pem) ? await passphraseFor(where) : undefined);
}

async function fromFile(path: string, context: Context): Promise<string> {
  const { readSmall } = await import('../signature/key-directory.ts');
  try {
    const pem = await readSmall(path);
    const { mode } = await stat(path);
    if ((mode & 0o004) !== 0) context.output.warn(`every user may read the private key: chmod 600 ${path}`);
    return pem;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new CofaError('not-found', `there is no private key at ${path}`, {
      hint: 'make one: cofa key create',
    });
  }
}

function fromVariable(name: string): string {
  const pem = process.env[name];
  if (pem !== undefined && pem !== '') return pem;
  throw new CofaError('not-found', `the environment has no private key in ${name}`, {
    hint: `set ${name} to the PEM text of the private key`,
  });
}
