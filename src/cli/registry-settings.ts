/**
 * How commands reach registries that talk to them by themselves: as the file of settings says it to the engine, and options win.
 * Without it a registry that `cofa up` reaches would be closed to `cofa pull` of the same machine.
 */
import { CofaError } from '../../schemas/errors.ts';
import { problemError, readConfig } from './config-file.ts';
import type { Context } from './context.ts';
import {
  REGISTRY_OPTIONS,
  registryChoice,
  type RegistryChoice,
  type RegistryFlags,
} from './registry-options.ts';
import { attributeOf, keyOf } from './up-options.ts';

/**
 * Of the options and the file. Other keys of the file play no part, nor does what is wrong with them. Error: `invalid-argument`
 * where one of these keys, or the file as a whole, is wrong.
 */
export async function registrySettings(flags: RegistryFlags, context: Context): Promise<RegistryChoice> {
  return registryChoice({ ...(await fromFile(context)), ...flags });
}

async function fromFile(context: Context): Promise<RegistryFlags> {
  const config = await readConfig(undefined).catch((error: unknown) => {
    // A user without rights may push what root's engine runs, and need not know its settings.
    if (!(error instanceof CofaError) || error.code !== 'environment' || isRoot()) throw error;
    context.output.note(`${error.message}; it may say how registries are reached`);
    return undefined;
  });
  if (config === undefined) return {};
  const options = REGISTRY_OPTIONS.filter(counts);
  const keys = options.map(keyOf);
  const problems = config.problems.filter(({ key }) => key === undefined || keys.includes(key));
  const [first] = problems;
  if (first !== undefined) throw problemError({ ...config, problems }, first);
  return Object.fromEntries(
    options.flatMap((option) => {
      const said = config.values.get(keyOf(option));
      return said === undefined ? [] : [[attributeOf(option), said.value]];
    }),
  );
}

/** Credentials of the file are the engine's, which is root's; the environment names those of this call. */
const counts = (option: (typeof REGISTRY_OPTIONS)[number]): boolean =>
  option.kind !== 'path' || (isRoot() && !process.env.DOCKER_CONFIG);

const isRoot = (): boolean => process.getuid?.() === 0;
