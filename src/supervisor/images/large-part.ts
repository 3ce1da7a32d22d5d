/**
 * Large parts of a sidecar, which this process does not unpack: a process of its own does, with a limit, which the kernel ends
 * first when memory runs out. It takes some 70 ms of a processor to start, so parts of ordinary images stay here.
 *
 *     registry ─ stream ─▶ draft (packed) ─▶ unpacker: unpack, parse, write ─▶ store
 *
 * Up to 32 MiB a part takes some 80 MiB of this process for a moment, packed bytes included. With its compiled code in the cache
 * the other process is as fast as a thread of this one.
 */
import { open, rm } from 'node:fs/promises';
import { UNPACKING, type ToUnpacker, type Unpacked } from '../../index/orders.ts';
import { runForked } from '../../process/forked.ts';
import { ByteBudget } from '../../registry/byte-budget.ts';
import type { SidecarHandle, SidecarPartName } from '../../registry/sidecars.ts';
import type { PartKind } from '../../registry/sidecar-limits.ts';
import { DiskRoom } from '../../store/disk-room.ts';
import type { Layout } from '../../store/layout.ts';

/** Unpacked bytes from which on a part is large: metadata of 400,000 files, the table of a layer of 6 GB. */
const LARGE: Readonly<Record<PartKind, number>> = { flat: 32 << 20, spans: 32 << 20, toc: 32 << 20 };

/** A part has 256 MiB at most, packed and unpacked; zstd's window and what the parser of metadata notes come to that. */
const HEAP_MIB = 512;
const MEMORY_MIB = 1_280;
/** Unpacking and parsing 256 MiB takes two seconds. */
const SILENCE_MS = 120_000;

/** One at a time: several would take together what each of them may not. */
const turn = new ByteBudget(1);
let drafts = 0;

export const isLarge = (sidecar: SidecarHandle, part: SidecarPartName): boolean =>
  sidecar.sizeOf(part).unpacked > LARGE[part.kind];

/**
 * Brings a part, has it unpacked, and written where `work` says once it is sound. Errors: `integrity` where the part is not
 * what it should be, `internal` where its process dies of it, those of the registry and of the disk.
 */
export async function takeLarge(
  layout: Layout,
  sidecar: SidecarHandle,
  part: SidecarPartName,
  work: ToUnpacker['part'],
  onFetched?: () => void,
): Promise<Unpacked> {
  const { blob, packed, unpacked: size } = sidecar.sizeOf(part);
  const draft = layout.in('run', `part-${++drafts}.draft`);
  try {
    await keep(draft, sidecar.packed(part), packed);
    onFetched?.();
    const end = await turn.lease(1);
    try {
      return await runForked(
        UNPACKING,
        { packed: draft, size, blob, part: work },
        {
          program: new URL('../../indexer/unpacker.ts', import.meta.url),
          what: `the process that unpacks blob ${blob.digest}`,
          heapMiB: HEAP_MIB,
          memoryMiB: MEMORY_MIB,
          silenceMs: SILENCE_MS,
        },
      );
    } finally {
      end();
    }
  } finally {
    await rm(draft, { force: true });
  }
}

async function keep(path: string, bytes: AsyncIterable<Buffer>, size: number): Promise<void> {
  const file = await open(path, 'w', 0o600);
  try {
    new DiskRoom(path).take(size);
    for await (const piece of bytes) await file.writeFile(piece);
  } finally {
    await file.close();
  }
}
