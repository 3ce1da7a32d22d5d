import type { Context } from '../../cli/context.ts';
import type { SourceOptions } from '../../cli/replay.ts';
import { CofaError } from '../../../schemas/errors.ts';

export async function runView(
  _context: Context,
  _file: string | undefined,
  _options: SourceOptions,
): Promise<void> {
  throw new CofaError('invalid-argument', 'say one of --at, --diff, --events, --break, or why');
}
