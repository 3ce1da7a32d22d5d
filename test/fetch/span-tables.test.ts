/** The span tables that a fetcher keeps: as many as fit, and the one in use. */
import { afterAll, expect, test } from 'vitest';
import { SpanTables } from '../../src/fetch/fetch-job.ts';
import { rehearsalLayer } from '../../src/process/rehearsal/layer.ts';
import { Layout, writeWhole } from '../../src/store/layout.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

test('tables that are large together are not kept together, and each can be used', async () => {
  const layout = new Layout(await cleanup.tempDir('span-tables'));
  const layers = [400, 401, 402, 403, 404, 405].map((blocks) => rehearsalLayer(blocks));
  for (const { digest, table } of layers) await writeWhole(layout.spans(digest), table.encode());
  const largest = Math.max(...layers.map(({ table }) => table.encode().length));
  const tables = new SpanTables(layout, 2 * largest);
  for (const { digest, table } of [...layers, ...layers]) {
    expect((await tables.of(digest, digest)).blockCount).toBe(table.blockCount);
    expect(tables.bytes).toBeLessThanOrEqual(2 * largest);
  }
  const small = new SpanTables(layout, 10);
  for (const { digest } of layers) await small.of(digest, digest);
  expect(small.bytes).toBeLessThanOrEqual(largest);
  await expect(tables.of(`sha256:${'0'.repeat(64)}`, 'x')).rejects.toMatchObject({ code: 'integrity' });
});
