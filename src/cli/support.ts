/** `cofa support`: one file for the one who helps, without secrets. */
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { Command } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { formatBytes, renderTable } from '../terminal/table.ts';
import { type Context, examples } from './context.ts';
import type { SupportPart } from './support-parts.ts';
import { noNewFile } from '../replay/new-file.ts';

export function define(command: Command, context: Context): void {
  command
    .description(
      'Pack what helps to find out what is wrong into one file (tar.gz): versions, cofa doctor, status, incidents with their stretches of the event log, the ends of the logs, settings. Passwords, tokens, keys and what holds them stay out; names of images, registries, folders and files are in it. Nothing is sent anywhere.',
    )
    .option('--out <file>', 'write it there (default: cofa-support-HOST-TIME.tar.gz)')
    .action(({ out }: { out?: string }) => pack(out, context));
  examples(command, [
    ['cofa support', ''],
    ['cofa support --out /tmp/support.tar.gz', ''],
    ['tar -xOzf cofa-support-*.tar.gz --wildcards "*/CONTENTS.txt"', 'what is in it'],
  ]);
}

async function pack(out: string | undefined, context: Context): Promise<void> {
  const now = new Date();
  const stamp = now.toISOString().replace(/\.\d+/, '').replaceAll(/[-:]/g, '');
  const folder = `cofa-support-${hostname().replace(/[^\w.-]+/g, '-')}-${stamp}`;
  const file = resolve(out ?? `${folder}.tar.gz`);
  const signal = context.signal();
  const [{ Mask }, { knownSecrets }, { gatherParts }, { main }, { ProgressView }] = await Promise.all([
    import('./support-mask.ts'),
    import('./support-secrets.ts'),
    import('./support-parts.ts'),
    import('./program.ts'),
    import('./progress.ts'),
  ]);
  // An existing file is reported before minutes are spent.
  const handle = await create(file);
  const scratch = await mkdtemp(join(tmpdir(), 'cofa-support-'));
  const progress = new ProgressView('support', context.output.progress);
  try {
    const { parts, left } = await gatherParts({
      root: context.root,
      mask: new Mask(await knownSecrets(context.root)),
      scratch,
      signal,
      onStep: (what) => progress.update('step', { label: what, done: 0, total: undefined }),
      run: async (args, sink) => await main(args, sink),
    });
    const contents = contentsOf(parts, left, now);
    await writeArchive(handle, folder, [contents, ...parts], now);
    const { size: bytes } = await stat(file);
    progress.stop();
    const listed = parts.map(({ name, what, content }) => ({ name, what, bytes: content.length }));
    context.output.data({ file, bytes, parts: listed, left }, () =>
      context.output.quiet
        ? `${file}\n`
        : `${renderTable(
            ['PART', 'SIZE', 'WHAT'],
            listed.map((part) => [part.name, formatBytes(part.bytes), part.what]),
            ['SIZE'],
          )}${left.map((one) => `left out: ${one}\n`).join('')}
${file}: ${formatBytes(bytes)}. Look through it before you give it away: names of images and folders are in it.\n`,
    );
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(file, { force: true });
    throw error;
  } finally {
    progress.stop();
    await rm(scratch, { recursive: true, force: true });
  }
}

async function create(file: string) {
  return await open(file, 'wx', 0o600).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'EEXIST')
      throw new CofaError('conflict', `${file} exists already`, { hint: 'choose another name: --out FILE' });
    throw noNewFile(file, cause);
  });
}

/** The list of what is inside, as the first file. */
function contentsOf(parts: readonly SupportPart[], left: readonly string[], now: Date): SupportPart {
  const lines = [
    `cofa support, ${now.toISOString()}`,
    '',
    'Passwords, tokens, keys and login headers are replaced by ***. Left out as a whole: configurations of docker and',
    'of registries, files of users, keys, variables of the environment, command lines, contents of images.',
    'In it: names of images, registries, folders, files and processes.',
    '',
    ...parts.map(({ name, what, content }) => `${String(content.length).padStart(10)}  ${name}  ${what}`),
    ...(left.length === 0 ? [] : ['', 'Left out:', ...left.map((one) => `  ${one}`)]),
  ];
  return { name: 'CONTENTS.txt', what: 'this list', content: Buffer.from(`${lines.join('\n')}\n`) };
}

/** Closes the file. */
async function writeArchive(
  handle: Awaited<ReturnType<typeof open>>,
  folder: string,
  parts: readonly SupportPart[],
  mtime: Date,
): Promise<void> {
  const { pack: startTar } = await import('tar-stream');
  const tar = startTar();
  const written = pipeline(tar, createGzip(), handle.createWriteStream());
  for (const { name, content } of parts)
    tar.entry({ name: `${folder}/${name}`, mode: 0o600, mtime }, content);
  tar.finalize();
  await written;
}
