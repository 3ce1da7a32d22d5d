/** Whether the next `cofa up` would take its file of settings, as `cofa doctor` tells it. */
import { toErrorRecord } from '../../schemas/errors.ts';
import { readConfig, whereOf } from './config-file.ts';
import type { Check } from './doctor-checks.ts';

export async function checkConfig(): Promise<Check> {
  const wrong = (found: string, fix: string): Check => ({
    name: 'settings',
    state: 'fail',
    found,
    means: 'cofa up does not start',
    fix,
  });
  try {
    const config = await readConfig(undefined);
    const [first] = config.problems;
    if (first !== undefined) return wrong(`${whereOf(config, first)}: ${first.message}`, first.hint);
    const found =
      config.file === undefined ? 'no file of settings: defaults hold' : `${config.file} is right`;
    return { name: 'settings', state: 'ok', found };
  } catch (error) {
    const { message, hint = '' } = toErrorRecord(error);
    return wrong(message, hint);
  }
}
