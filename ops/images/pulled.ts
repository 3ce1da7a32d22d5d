/** An image of any registry as a layout on the disk, byte for byte. */
import { createWriteStream } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { RegistryClient } from '../../src/registry/client.ts';
import { parseReference } from '../../src/registry/reference.ts';
import { blobPath, type ImageLayout } from './layout.ts';

/** Fetches the image for this machine's platform into `directory`, with docker's own credentials. */
export async function pulledImage(
  reference: string,
  directory: string,
  say: (line: string) => void,
): Promise<ImageLayout> {
  const client = new RegistryClient({});
  try {
    const image = await client.resolve(parseReference(reference));
    const { digest, mediaType } = image.descriptor;
    const file = blobPath(directory, digest);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, image.manifestBytes);
    await writeFile(blobPath(directory, image.configDescriptor.digest), image.config);
    const { layers } = JSON.parse(image.manifestBytes.toString()) as {
      layers: Array<{ digest: string; size: number }>;
    };
    for (const [index, layer] of layers.entries()) {
      say(`${reference}: layer ${index + 1} of ${layers.length}`);
      const bytes = Readable.from(client.blobStream(image.reference, layer));
      await pipeline(bytes, createWriteStream(blobPath(directory, layer.digest)));
    }
    const manifest = { mediaType, digest, size: image.manifestBytes.length };
    await writeFile(
      join(directory, 'index.json'),
      JSON.stringify({ schemaVersion: 2, manifests: [manifest] }),
    );
    return { directory, manifest };
  } finally {
    await client.close();
  }
}
