/** `cofa run REF [COMMAND…]`: options in docker's words. */
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import {
  checkEnv,
  checkHostname,
  checkName,
  parseEnvFile,
  parseSecurity,
  parseVolume,
  type RunOptions,
} from '../container/options.ts';
import { type TrustPolicy, TRUST_POLICIES } from '../../schemas/trust.ts';
import { type Context, examples, oneOf } from './context.ts';
import { PREFETCH_HELP, type Prefetch, prefetchOption, prefetchRequest } from './prefetch-option.ts';

interface Parsed {
  name?: string;
  env?: string[];
  envFile?: string[];
  volume?: string[];
  workdir?: string;
  user?: string;
  hostname?: string;
  entrypoint?: string;
  platform?: string;
  tty?: boolean;
  interactive?: boolean;
  readOnly?: boolean;
  keep?: boolean;
  rm?: boolean;
  securityOpt?: string[];
  prefetch?: Prefetch;
  trust?: TrustPolicy;
}

const collect = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value];

const MAX_ENV_FILE = 1 << 20;

export function define(command: Command, context: Context): void {
  command
    .description(
      'Run a container in the foreground. It starts before its image has arrived. It uses the network of the host; what it writes is thrown away at its end, as with docker run --rm.',
    )
    .usage('[options] <ref> [command...]')
    .argument('<ref>', 'image as docker writes it: debian:12, host:5000/app@sha256:…')
    .argument('[command...]', 'replaces the command of the image')
    .passThroughOptions()
    .option('-e, --env <name[=value]>', 'environment; the caller’s value without =', collect)
    .option('--env-file <file>', 'environment from a file', collect)
    .option('-v, --volume <host:dir[:ro]>', 'show a directory or file of the host', collect)
    .option('-w, --workdir <dir>', 'directory to start in')
    .option('-u, --user <user[:group]>', 'names of the image, or numbers')
    .option('-i, --interactive', 'pass the standard input on')
    .option('-t, --tty', 'give it a terminal')
    .option('--entrypoint <program>', 'replaces the entrypoint of the image; "" for none')
    .option('--hostname <name>', 'its own hostname')
    .option('--name <name>', 'name of the container (default: by chance)', checkName)
    .option('--read-only', 'nothing can be written to its root')
    .option('--security-opt <option>', 'no-new-privileges, or seccomp=unconfined', collect)
    .option('--rm', 'throw away what it wrote (this is the default)')
    .option('--keep', 'keep what it wrote, below ROOT/containers/NAME/upper')
    .option('--platform <os/arch>', 'another platform than the node’s')
    .option('--prefetch <on|off|rate>', PREFETCH_HELP, prefetchOption)
    .option('--no-prefetch', 'fetch nothing that is not read')
    .option('--trust <policy>', 'as for cofa mount', oneOf('--trust', TRUST_POLICIES))
    .action(async (ref: string, args: string[], parsed: Parsed) => {
      if (parsed.rm === true && parsed.keep === true) {
        throw new CofaError('invalid-argument', '--rm and --keep exclude each other');
      }
      const options = await runOptionsOf(args, parsed);
      const { connectLocal } = await import('../bus/client.ts');
      const client = await connectLocal(context.root);
      // Compiled while nothing else can be done anyway; the connection is the first thing that waits.
      const [{ runContainer }, { ProgressView }, { showOn }] = await Promise.all([
        import('../container/run.ts'),
        import('./progress.ts'),
        import('./engine-progress.ts'),
      ]);
      const view = new ProgressView(`starting ${ref}`, context.output.progress);
      try {
        context.exit = await runContainer(
          {
            root: context.root,
            ref,
            name: parsed.name,
            keep: parsed.keep === true,
            ...prefetchRequest(parsed.prefetch),
            trust: parsed.trust,
            options,
          },
          {
            engine: client,
            now: new Date(),
            note: (text) => context.output.warn(text),
            onProgress: showOn(view, (text) => context.output.warn(text)),
            onMounted: () => view.stop(),
          },
        );
      } finally {
        view.stop();
        await client.close();
      }
    });
  examples(command, [
    ['cofa run debian:12 cat /etc/os-release', ''],
    ['cofa run -it debian:12 bash', 'a shell'],
    ['cofa run -e TOKEN -v "$PWD:/work" -w /work node:22 npm test', ''],
    ['cofa run -u nobody --read-only 127.0.0.1:5000/app:1.4', ''],
    ['cofa run --entrypoint sh app:1.4 -c "echo hello"', 'options after the image are its own'],
  ]);
}

async function runOptionsOf(args: string[], parsed: Parsed): Promise<RunOptions> {
  const { workdir } = parsed;
  if (workdir !== undefined && (!workdir.startsWith('/') || workdir.includes('\0'))) {
    throw new CofaError('invalid-argument', `--workdir: ${JSON.stringify(workdir)} is not an absolute path`);
  }
  return {
    args,
    entrypoint: parsed.entrypoint,
    env: [...(await readEnvFiles(parsed.envFile ?? [])), ...(parsed.env ?? []).map(checkEnv)],
    workdir,
    user: parsed.user,
    hostname: parsed.hostname === undefined ? undefined : checkHostname(parsed.hostname),
    volumes: (parsed.volume ?? []).map((text) => parseVolume(text, process.cwd())),
    tty: parsed.tty === true,
    interactive: parsed.interactive === true,
    readOnly: parsed.readOnly === true,
    ...parseSecurity(parsed.securityOpt ?? []),
    platform: parsed.platform,
  };
}

async function readEnvFiles(files: readonly string[]): Promise<string[]> {
  if (files.length === 0) return [];
  const { readFile, stat } = await import('node:fs/promises');
  const entries: string[] = [];
  for (const file of files) {
    try {
      const { size } = await stat(file);
      if (size > MAX_ENV_FILE)
        throw new CofaError('invalid-argument', `--env-file: ${file} has more than 1 MiB`);
      entries.push(...parseEnvFile(await readFile(file, 'utf8'), file));
    } catch (cause) {
      if (cause instanceof CofaError) throw cause;
      const { code, message } = cause as NodeJS.ErrnoException;
      throw new CofaError(code === 'ENOENT' ? 'not-found' : 'invalid-argument', `--env-file: ${message}`, {
        cause,
      });
    }
  }
  return entries;
}
