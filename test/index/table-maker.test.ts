/** The process that makes one layer's span table anew, as the supervisor asks it. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, expect, test } from 'vitest';
import { digestOf } from '../../src/digest/digest.ts';
import { SpanTable } from '../../src/image/span-table.ts';
import { type EngineSettings, writeSettings } from '../../src/process/settings.ts';
import { Layout } from '../../src/store/layout.ts';
import { makeTable } from '../../src/supervisor/images/rebuild.ts';
import { TarBytes } from '../images/tar-bytes.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('the table lies in the store; of a blob that is not the layer there is an error', async () => {
  const layout = new Layout(await cleanup.tempDir('table-maker'));
  await layout.prepare();
  const tar = new TarBytes().file('file', Buffer.alloc(200_000, 'text ')).bytes();
  const bytes = gzipSync(tar);
  const server = createServer((_, response) => response.end(bytes)).listen(0, '127.0.0.1');
  cleanup.defer(() => void server.close());
  const registry = await new Promise<string>((resolve) =>
    server.once('listening', () => resolve(`127.0.0.1:${(server.address() as AddressInfo).port}`)),
  );
  // The process reads how registries are reached, and nothing else of it.
  const settings = { root: layout.root, registry: { dockerConfig: '/nonexistent', certDirs: [] } };
  await writeSettings(settings as unknown as EngineSettings);

  const [diffId, blob] = [digestOf(tar), digestOf(bytes)];
  const source = { registry, repository: 'image' };
  const { signal } = new AbortController();
  const make = (layer: string) =>
    makeTable(layout, { source, layer: { diffId: layer, blob, blobSize: bytes.length } }, signal);
  const made = await make(diffId);
  expect(made).toMatchObject({ diffId, spans: blob, size: tar.length });
  const table = SpanTable.decode(await readFile(layout.spans(made.table ?? '')));
  expect([table.root, table.blobDigest]).toEqual([made.root, blob]);
  await expect(make(digestOf(bytes))).rejects.toMatchObject({ code: 'integrity' });
});
