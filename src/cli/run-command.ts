/** What `cofa run` does with the words of its command line. */
import { readFileSync, statSync } from 'node:fs';
import type { Progress } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import {
  checkEnv,
  checkHostname,
  parseEnvFile,
  parseSecurity,
  parseVolume,
  type RunOptions,
} from '../container/options.ts';
import type { Context } from './context.ts';
import { withEngine } from './engine.ts';
import { imageRequest } from './image-request.ts';
import type { ProgressView } from './progress.ts';
import type { RunWords } from './run-options.ts';

const MAX_ENV_FILE = 1 << 20;

/** Runs a container in the foreground; its exit code is the context's. Errors: those of `runContainer`, `invalid-argument`. */
export async function runCommand(
  ref: string,
  args: string[],
  words: RunWords,
  context: Context,
): Promise<void> {
  if (words.rm === true && words.keep === true) {
    throw new CofaError('invalid-argument', '--rm and --keep exclude each other');
  }
  const options = runOptionsOf(args, words);
  const image = imageRequest(ref, words);
  const { platform, trust } = image;
  const view = new LateProgress(`starting ${ref}`, context);
  await withEngine(context, async (engine) => {
    await engine.tell('expect', { ref, platform, trust });
    // The engine asks the registry meanwhile.
    const { runContainer } = await import('../container/run.ts');
    context.exit = await runContainer(
      {
        root: context.root,
        image,
        name: words.name,
        keep: words.keep === true,
        options,
      },
      {
        engine,
        now: new Date(),
        note: (text) => context.output.warn(text),
        onProgress: (progress) => view.show(progress),
        onMounted: () => view.stop(),
        onRunning: context.onRunning,
      },
    );
  }).finally(() => view.stop());
}

/** Shows progress once there has been some for a moment: most containers start before that. */
class LateProgress {
  readonly #title: string;
  readonly #context: Context;
  #view: ProgressView | undefined;
  #show: ((progress: Progress) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #latest: Progress | undefined;
  #ended = false;

  constructor(title: string, context: Context) {
    this.#title = title;
    this.#context = context;
  }

  show(progress: Progress): void {
    if (progress.remark !== undefined) this.#context.output.warn(progress.remark);
    if (this.#show !== undefined) return this.#show(progress);
    this.#latest = progress;
    if (!this.#ended) this.#timer ??= setTimeout(() => void this.#begin(), LATE_MS);
  }

  /** From now on nothing is shown any more. */
  stop(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#view?.stop();
  }

  async #begin(): Promise<void> {
    const [{ ProgressView }, { showOn }] = await Promise.all([
      import('./progress.ts'),
      import('./engine-progress.ts'),
    ]);
    if (this.#ended) return;
    this.#view = new ProgressView(this.#title, this.#context.output.progress);
    this.#show = showOn(this.#view);
    if (this.#latest !== undefined) this.#show(this.#latest);
  }
}

/**
 * Progress of less than this, ms, is not shown: who waits so short needs none, and the modules that show it would come from the disk
 * in the middle of a cold start.
 */
const LATE_MS = 500;

function runOptionsOf(args: string[], words: RunWords): RunOptions {
  const { workdir } = words;
  if (workdir !== undefined && (!workdir.startsWith('/') || workdir.includes('\0'))) {
    throw new CofaError('invalid-argument', `--workdir: ${JSON.stringify(workdir)} is not an absolute path`);
  }
  return {
    args,
    entrypoint: words.entrypoint,
    env: [...readEnvFiles(words.envFile ?? []), ...(words.env ?? []).map(checkEnv)],
    workdir,
    user: words.user,
    hostname: words.hostname === undefined ? undefined : checkHostname(words.hostname),
    volumes: (words.volume ?? []).map((text) => parseVolume(text, process.cwd())),
    network: words.network ?? 'host',
    tty: words.tty === true,
    interactive: words.interactive === true,
    readOnly: words.readOnly === true,
    ...parseSecurity(words.securityOpt ?? []),
  };
}

function readEnvFiles(files: readonly string[]): string[] {
  const entries: string[] = [];
  for (const file of files) {
    try {
      const { size } = statSync(file);
      if (size > MAX_ENV_FILE)
        throw new CofaError('invalid-argument', `--env-file: ${file} has more than 1 MiB`);
      entries.push(...parseEnvFile(readFileSync(file, 'utf8'), file));
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
