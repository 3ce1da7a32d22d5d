/** `cofa console` and `cofa replay --web` as processes of their own, as users start them. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');

/** As ops/cofa sets them, so that memory is that of users: without, glibc keeps what has been freed. */
export const MALLOC = {
  MALLOC_ARENA_MAX: '2',
  MALLOC_MMAP_THRESHOLD_: '131072',
  MALLOC_TRIM_THRESHOLD_: '131072',
};

export interface RunningConsole {
  url: string;
  pid: number;
  /** The address of a moment: what stands behind `#`. */
  at(hash: string): string;
  /** Ends it as Ctrl-C does; resolves with its exit code. */
  stop(): Promise<number | null>;
}

/** Error, with what the command said, where it prints no address. */
export async function startConsole(
  args: string[],
  env: Record<string, string> = {},
): Promise<RunningConsole> {
  const child = spawn(process.execPath, [MAIN, ...args, '--json'], {
    env: { ...process.env, ...MALLOC, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)));
  let said = '';
  const url = new Promise<string>((resolve, reject) => {
    const hear = (text: string) => {
      said += text;
      const found = /"url": "([^"]+)"/.exec(said)?.[1];
      if (found !== undefined) resolve(found);
    };
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', hear);
    void ended.then((code) => reject(new Error(`cofa ${args.join(' ')} ended with ${code}: ${said}`)));
  });
  const stop = async () => {
    child.kill('SIGINT');
    return await ended;
  };
  return {
    url: await url,
    pid: child.pid ?? 0,
    at: (hash) => `${said.match(/"url": "([^"]+)"/)?.[1]}#${hash}`,
    stop,
  };
}
