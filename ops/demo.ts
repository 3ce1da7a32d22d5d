/** The demo behind ops/demo. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startRegistry } from '../test/support/registry-server.ts';
import { Cleanup } from '../test/support/temp.ts';
import { measureStarts, startTable } from './bench/start.ts';
import { realImage } from './images/debian.ts';
import { pushLayout } from './images/layout.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '1' },
    keep: { type: 'boolean', default: false },
    link: { type: 'boolean', default: true },
  },
  allowNegative: true,
});
const rounds = Number(values.rounds);
if (!Number.isInteger(rounds) || rounds < 1) {
  console.error(`demo: --rounds takes a whole number from 1 on, not ${values.rounds}`);
  process.exit(2);
}
const cleanup = new Cleanup();
let cleaning: Promise<void> | undefined;
const end = () => (cleaning ??= cleanup.run());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    console.error('\ndemo: cleaning up');
    void end().finally(() => process.exit(130));
  });
}

try {
  await demo();
} catch (error) {
  console.error(`demo: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
} finally {
  await end();
}

async function demo(): Promise<void> {
  const say = (line: string) => console.error(`demo: ${line}`);
  const registry = await startRegistry();
  cleanup.defer(() => registry.stop());
  say(`a registry listens on ${registry.host}`);

  say('building the image (kept for the next time)');
  const layout = await realImage('demo', { onProgress: say });
  say('pushing it');
  await pushLayout(layout, registry.host, 'demo', 'latest');
  const ref = `${registry.host}/demo:latest`;

  // On machines of their own: the private key where images are built, the public one on each node.
  const folder = await cleanup.tempDir('demo');
  const [release, keys] = [join(folder, 'release'), join(folder, 'keys.d')];
  const steps = [
    ['key', 'create', '--out', release, '--quiet'],
    ['index', '--sign', `${release}.key`, ref],
    ['trust', 'add', `${release}.pub`, '--keys', keys],
  ];
  for (const step of steps) {
    say(`cofa ${step.join(' ')}`);
    const said = await cofa(...step);
    if (said !== '') console.log(said);
  }

  const link = values.link ? { rate: 1e9, rttMs: 5 } : { rate: undefined, rttMs: 0 };
  say(
    values.link
      ? 'a link of 1 Gbit/s and 5 ms lies before the registry from now on'
      : 'the registry is reached by loopback',
  );
  say('before each start every local byte of the image and the page cache are thrown away;');
  say('containerd, or the engine, has been up for five seconds then');
  const result = await measureStarts({
    registry: registry.host,
    image: 'demo:latest',
    // The image's own.
    command: [],
    rounds,
    keys,
    ...link,
    onProgress: say,
  });
  console.log(`\n${startTable(result)}\n`);
  if (values.keep) {
    console.log(`The registry stays until Ctrl-C. In another terminal:`);
    console.log(`  ./ops/cofa up --keys ${keys} && ./ops/cofa run ${ref}`);
    await new Promise(() => setInterval(() => {}, 1 << 30));
  }
}

function cofa(...args: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(new URL('./cofa', import.meta.url).pathname, args, {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (bytes: Buffer) => {
      output += bytes.toString();
    });
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0 ? resolve(output.trimEnd()) : reject(new Error(`cofa ${args.join(' ')} ended with ${code}`)),
    );
  });
}
