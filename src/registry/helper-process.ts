/** Runs a program that gives credentials: a question on its standard input, the answer on its standard output. */
import { spawn } from 'node:child_process';
import type { CofaError } from '../../schemas/errors.ts';
import { makeExpendable } from '../kernel/oom-score.ts';
import { abortError } from './retry.ts';

export interface HelperCall {
  program: string;
  args: readonly string[];
  input: string;
  environment: Readonly<Record<string, string | undefined>>;
  /** After this time the program is killed, ms. */
  timeoutMs: number;
  /** Makes the error for a failure, such as "… did not answer within 30 s". It must not quote the program's output. */
  fail: (why: string) => CofaError;
  signal?: AbortSignal | undefined;
}

const MAX_OUTPUT = 1024 * 1024;

/** Its exit code and what it wrote. Errors: those of `fail`, the signal's reason. */
export function runHelper(call: HelperCall): Promise<{ code: number; output: string }> {
  const { program, args, input, environment, timeoutMs, fail, signal } = call;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: environment as NodeJS.ProcessEnv,
    });
    makeExpendable(child.pid);
    let output = '';
    const end = (error: unknown) => {
      child.kill('SIGKILL');
      // A process that the helper started may hold its output open; do not wait for it.
      child.stdout.destroy();
      reject(error);
    };
    const timer = setTimeout(() => end(fail(`did not answer within ${timeoutMs / 1000} s`)), timeoutMs);
    const onAbort = () => end(signal === undefined ? undefined : abortError(signal));
    signal?.addEventListener('abort', onAbort, { once: true });
    const tidy = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.length > MAX_OUTPUT) end(fail('answered too much'));
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      tidy();
      reject(
        fail(
          error.code === 'ENOENT'
            ? 'is not installed (not found on PATH)'
            : `cannot be started (${error.code})`,
        ),
      );
    });
    child.once('close', (code) => {
      tidy();
      resolve({ code: code ?? 1, output });
    });
    // A helper that does not read its input is no error by itself.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}
