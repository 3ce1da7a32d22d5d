/** runc(8) as cofa calls it. Its state lies below the root, so two roots never see each other's containers. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import { exec, findProgram } from './exec.ts';

export interface RuncState {
  id: string;
  /** Of the container's first process; 0 when the container has ended. */
  pid: number;
  status: 'creating' | 'created' | 'running' | 'paused' | 'stopped';
}

export class Runc {
  readonly #program: string;
  readonly #state: string;

  private constructor(program: string, root: string) {
    this.#program = program;
    this.#state = join(root, 'runc');
  }

  /** Error: `environment` when runc is not installed. */
  static async find(root: string): Promise<Runc> {
    const program = findProgram('runc');
    if (program === undefined) {
      throw new CofaError('environment', 'runc, which starts the containers, is not installed', {
        hint: 'apt install runc',
      });
    }
    return new Runc(program, root);
  }

  /**
   * Starts a container in the foreground. runc becomes the leader of a session of its own: a Ctrl-C of the terminal
   * then reaches cofa alone, which passes it on once. runc keeps `hold` open for its own life, and so for the
   * container's; the container itself does not get it.
   */
  run(id: string, bundle: string, o: { stdin: 'inherit' | 'ignore'; hold: number }): ChildProcess {
    const logging = ['--log', logOf(bundle), '--log-format', 'json'];
    const words = ['--root', this.#state, ...logging, 'run', '--bundle', bundle];
    return spawn(this.#program, [...words, '--pid-file', pidFileOf(bundle), id], {
      stdio: [o.stdin, 'inherit', 'inherit', o.hold],
      detached: true,
    });
  }

  /** Sends a signal to the first process of the container. */
  async kill(id: string, signal: string): Promise<void> {
    await exec(this.#program, ['--root', this.#state, 'kill', id, signal], 10_000);
  }

  /**
   * Removes runc's state of a container, and kills what still runs in it; does nothing when runc has none. Error:
   * `busy` when runc cannot.
   */
  async delete(id: string): Promise<void> {
    const result = await exec(this.#program, ['--root', this.#state, 'delete', '--force', id]);
    if (result.code === 0 || /does not exist/.test(result.stderr)) return;
    throw new CofaError('busy', `runc cannot remove the container ${id}: ${result.stderr.trim()}`);
  }

  /** All containers below this root that runc knows. */
  async list(): Promise<RuncState[]> {
    const result = await exec(this.#program, ['--root', this.#state, 'list', '--format', 'json']);
    // cofa never started a container here.
    if (result.code !== 0 && /no such file or directory/.test(result.stderr)) return [];
    if (result.code !== 0) throw new CofaError('environment', `runc list failed: ${result.stderr.trim()}`);
    const rows: unknown = JSON.parse(result.stdout || 'null');
    return Array.isArray(rows) ? (rows as RuncState[]) : [];
  }
}

/** The last error in runc's log of a bundle: why it did not start the container. Undefined: it did. */
export async function startFailure(bundle: string): Promise<string | undefined> {
  const text = await readFile(logOf(bundle), 'utf8').catch(() => '');
  let message: string | undefined;
  for (const line of text.split('\n')) {
    try {
      const entry = JSON.parse(line) as { level?: unknown; msg?: unknown };
      if (entry.level === 'error' && typeof entry.msg === 'string') message = entry.msg;
    } catch {
      // a line that runc did not finish
    }
  }
  return message;
}

/** runc writes it when the container's program begins. */
export const pidFileOf = (bundle: string): string => join(bundle, 'pid');

const logOf = (bundle: string) => join(bundle, 'runc.log');
