/**
 * Reads an object of NATS's object store (ADR-20 of nats-architecture-and-design), and no faster than its reader takes it.
 * The client's own `get` keeps all pieces that come in memory, also while its reader is slow. The size that the object names
 * bounds nothing: the client that put the object wrote it.
 *
 * Here the answer to the server's flow control stands in the same queue as the pieces. So the server goes on only when the
 * reader has come to it, and at most one of its windows waits here.
 */
import { createHash } from 'node:crypto';
import { jetstream } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/nats-core';
import type { ObjectInfo } from '@nats-io/obj';
import { CofaError } from '../../schemas/errors.ts';

const SHA256 = 'SHA-256=';
/** Longest wait for the next piece, ms. */
const STALLED_MS = 10_000;

/**
 * The bytes of an object as they arrive. Errors: `integrity` where it has more than `limit` bytes, or other bytes than
 * its name says; the last piece comes before such an error. `unavailable` where no further piece comes: a writer that
 * replaces an object removes the pieces of the one before, and JetStream does not say so to who reads them.
 */
export async function* readObject(
  bus: NatsConnection,
  info: ObjectInfo,
  limit: number,
  stalledMs: number = STALLED_MS,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { bucket, name, nuid, size, digest } = info;
  const damaged = (why: string) => new CofaError('integrity', `${name} of the startup packs ${why}`);
  if (info.options?.link !== undefined || !digest.startsWith(SHA256)) throw damaged('is no object');
  if (size > limit) throw damaged(`has ${size} bytes, the limit is ${limit}`);
  const hash = createHash('sha256');
  if (size > 0) yield* pieces();
  if (!hash.digest().equals(Buffer.from(digest.slice(SHA256.length), 'base64')))
    throw damaged('is damaged: its digest is another');

  async function* pieces(): AsyncGenerator<Uint8Array, void, undefined> {
    const consumer = await jetstream(bus).consumers.getPushConsumer(`OBJ_${bucket}`, {
      filter_subjects: `$O.${bucket}.C.${nuid}`,
    });
    const messages = await consumer.consume();
    const iterator = messages[Symbol.asyncIterator]();
    let left = size;
    try {
      for (;;) {
        const next = await withinMs(stalledMs, iterator.next());
        if (next === undefined || next.done === true)
          throw new CofaError(
            'unavailable',
            `${name} of the startup packs does not go on after ${size - left} of its ${size} bytes: it was replaced or removed`,
          );
        const { data, info } = next.value;
        left -= data.length;
        if (left < 0) throw damaged(`goes on after its ${size} bytes`);
        hash.update(data);
        yield data;
        if (info.pending > 0) continue;
        if (left > 0) throw damaged(`ends after ${size - left} of its ${size} bytes`);
        return;
      }
    } finally {
      messages.stop();
    }
  }
}

/** All of an object that has at most `limit` bytes. Errors: those of `readObject`. */
export async function wholeObject(bus: NatsConnection, info: ObjectInfo, limit: number): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of readObject(bus, info, limit)) parts.push(part);
  return Buffer.concat(parts);
}

async function withinMs<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
