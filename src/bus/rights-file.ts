/** The operator's file of users with limited rights: `cofa up --api-users`, `cofa nats-config --api-users`. */
import { readFile, stat } from 'node:fs/promises';
import { z } from 'zod';
import { CofaError } from '../../schemas/errors.ts';
import { RightsFile } from '../../schemas/rights.ts';

const MAX_FILE = 1 << 20;

/** Errors: `invalid-argument` for a file that is not there, not as it should be, or that others than its owner may change. */
export async function readRights(path: string): Promise<RightsFile['users']> {
  const refuse = (why: string, hint?: string, cause?: unknown) =>
    new CofaError('invalid-argument', `--api-users: ${path} ${why}`, {
      cause,
      hint: hint ?? 'docs/api.md, "Users with rights", shows one',
    });
  const read = async () => {
    const { mode, size } = await stat(path);
    if ((mode & 0o022) !== 0)
      throw refuse('gives rights, and others than its owner may change it', `chmod go-w ${path}`);
    if (size > MAX_FILE) throw refuse(`is larger than ${MAX_FILE} bytes`);
    return await readFile(path, 'utf8');
  };
  const text = await read().catch((cause: unknown) => {
    if (cause instanceof CofaError) throw cause;
    throw refuse(`cannot be read (${(cause as NodeJS.ErrnoException).code})`, undefined, cause);
  });
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch (cause) {
    throw refuse('is not JSON', undefined, cause);
  }
  const { data, error } = RightsFile.safeParse(content);
  if (data !== undefined) return data.users;
  throw refuse(`is not as it should be: ${z.prettifyError(error).replaceAll('\n', ' ')}`);
}
