/** Runs one container with the fake engine: `driver.ts JSON`. A process of its own, since signals and output are. */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { CofaError, toErrorRecord } from '../../schemas/errors.ts';
import { StartError } from '../../src/container/command.ts';
import type { RunOptions } from '../../src/container/options.ts';
import { runContainer } from '../../src/container/run.ts';
import { Interrupted } from '../../src/terminal/interrupted.ts';
import { type FakeConfig, fakeEngine } from './host-rootfs.ts';

export interface DriverInput {
  directory: string;
  root: string;
  rootfs: string;
  config: FakeConfig;
  name?: string;
  keep?: boolean;
  /** The mount takes so long, in ms. */
  slowMount?: number;
  /** The engine says that the image stands, and then answers, or fails to tell the log. */
  standing?: 'answers' | 'fails';
  /** The engine answers so many unmounts with `busy` first. */
  busyUnmounts?: number;
  options: RunOptions;
}

const input = JSON.parse(process.argv[2] ?? '{}') as DriverInput;
const engine = await fakeEngine(input.directory, input.rootfs, input.config);
engine.busyUnmounts = input.busyUnmounts ?? 0;
if (input.slowMount !== undefined) {
  const delay = input.slowMount;
  engine.onMount = async (signal) => {
    process.stderr.write('mounting\n');
    await sleep(delay, undefined, signal === undefined ? {} : { signal }).catch(() => {
      throw signal?.reason;
    });
  };
}
const STANDING_MS = 300;
if (input.standing !== undefined)
  engine.onStanding = async (folder) => {
    await sleep(STANDING_MS);
    process.stderr.write(`started before the answer: ${existsSync(folder.config)}\n`);
    if (input.standing === 'fails') throw new CofaError('unavailable', 'the log is away');
  };
try {
  process.exitCode = await runContainer(
    {
      root: input.root,
      name: input.name,
      keep: input.keep ?? false,
      image: { ref: 'test:1' },
      options: input.options,
    },
    { engine, now: new Date(), note: (text) => process.stderr.write(`note: ${text}\n`) },
  );
} catch (error) {
  const { code, message } = toErrorRecord(error);
  process.stderr.write(`${code}: ${message}\n`);
  process.exitCode = error instanceof StartError || error instanceof Interrupted ? error.exit : 125;
}
process.stderr.write(`calls: ${engine.calls.join(' ')}\n`);
