/** What a user hears where a file cannot be made. */
import { dirname } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';

/** What opening `path` to write it has thrown: error `not-found` where its folder is missing; any other as it is. */
export function noNewFile(path: string, cause: unknown): unknown {
  const { code } = cause as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ENOTDIR') return cause;
  return new CofaError('not-found', `${path} cannot be made: its folder does not exist`, {
    cause,
    hint: `mkdir -p ${dirname(path)}`,
  });
}
