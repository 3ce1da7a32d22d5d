/** The hints of an image that was just indexed: hints.ts, with files read from the registry. */
import { toErrorRecord } from '../../schemas/errors.ts';
import { gatherHints, type HintCommand } from '../image/hints/gather.ts';
import { encodeHints, hintsOf } from '../image/hints/hints.ts';
import { SpanTable } from '../image/span-table.ts';
import type { RegistryClient, ResolvedImage } from '../registry/client.ts';
import { throwIfAborted } from '../registry/retry.ts';
import type { IndexedImage } from './index-image.ts';
import { SpanFiles } from './span-files.ts';

/** The search for hints ends after so long, ms: what it has found until then counts. */
const LONGEST_MS = 20_000;
const MOST_WORDS = 256;

/**
 * Encoded hints for the image's own command. Undefined: the search found none, or failed, and `onFailed` hears why: an
 * image is prepared without hints as well. Throws the signal's reason.
 */
export async function findHints(
  client: RegistryClient,
  image: ResolvedImage,
  indexed: IndexedImage,
  options: { signal?: AbortSignal | undefined; onFailed: (why: string) => void },
): Promise<Buffer | undefined> {
  const { signal, onFailed } = options;
  try {
    const layers = indexed.devices
      .map((device) => indexed.layers[device])
      .filter((layer) => layer !== undefined);
    const tables = layers.map(({ spans }) => SpanTable.decode(spans));
    const files = new SpanFiles(
      indexed.flat,
      tables,
      (device, start, end) => {
        const { blobDigest, blobSize } = layers[device] as (typeof layers)[number];
        return client.blobRange(image.reference, { digest: blobDigest, size: blobSize }, start, end, signal);
      },
      signal,
    );
    const command = commandOf(image.config);
    const until = performance.now() + LONGEST_MS;
    const wanted = await gatherHints(files, command, { isOver: () => performance.now() > until });
    const hints = hintsOf(wanted, files.flat, command.entrypoint);
    return hints.sections.length === 0 ? undefined : encodeHints(hints);
  } catch (error) {
    throwIfAborted(signal);
    onFailed(toErrorRecord(error).message);
    return undefined;
  }
}

/** The command in an image's configuration; leaves out malformed fields. */
export function commandOf(config: Buffer): HintCommand {
  const document = parsed(config);
  const fields = isObject(document) && isObject(document['config']) ? document['config'] : {};
  const words = (value: unknown) =>
    Array.isArray(value)
      ? value
          .filter((word): word is string => typeof word === 'string')
          .slice(0, MOST_WORDS)
          .map(bytesOf)
      : [];
  const folder = fields['WorkingDir'];
  return {
    entrypoint: words(fields['Entrypoint']),
    cmd: words(fields['Cmd']),
    env: words(fields['Env']),
    folder: typeof folder === 'string' ? bytesOf(folder) : '/',
  };
}

/** As names lie in an image. */
const bytesOf = (text: string): string => Buffer.from(text, 'utf8').toString('latin1');

function parsed(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    return undefined;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
