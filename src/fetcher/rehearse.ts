/** What a fetcher does in a start, as a rehearsal (src/process/rehearsal/rehearsal.ts). */
import { type Rehearsal, rehearse } from '../process/rehearsal/rehearsal.ts';
import { openDevice } from '../store/device.ts';
import { writeWhole } from '../store/layout.ts';
import { Gate } from '../fetch/gate.ts';
import { noTimes, runFetch, SpanTables } from '../fetch/fetch-job.ts';
import { bringPack } from '../fetch/start-jobs.ts';

/** Throws what goes wrong in it. */
export async function rehearseFetch(rehearsal: Rehearsal): Promise<void> {
  await rehearse(rehearsal, async (image, layout) => {
    const { registry, repository, client, layer, layerDigest, table, pack } = image;
    const { file, created } = await openDevice(layout.device(layerDigest), layer.length);
    await file.close();
    if (created) await writeWhole(layout.spans(layerDigest), table.encode());
    const { signal } = new AbortController();
    const tables = new SpanTables(layout);
    const source = { registry, repository };
    const base = { v: 1, front: '', job: 0, layer: layerDigest } as const;
    const layers = [{ diffId: layerDigest, blob: layerDigest }];
    await bringPack(
      {
        ...base,
        kind: 'pack',
        manifest: layerDigest,
        layers,
        pack: { kind: 'registry', ...source, ...pack },
      },
      { layout, packs: noPacks, registry: client, tables, signal },
      { runs: () => {}, blocks: () => {} },
    );
    const blob = { ...source, digest: layerDigest, size: layer.length };
    await runFetch(
      { ...base, kind: 'fetch', class: 'demand', runs: [[0, table.blockCount]], source: blob },
      { layout, registry: client, tables, signal, gate: new Gate(), onBlocks: () => {}, times: noTimes() },
    );
  });
}

/** Its pack lies in a registry. */
const noPacks = (): Promise<never> => Promise.reject(new Error('a rehearsal needs no NATS'));
