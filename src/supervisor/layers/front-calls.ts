/**
 * Questions to the front end. Each may be put twice, so one that died with its front end or was lost with NATS is put
 * again until somebody answers it: whoever mounts an image meanwhile waits a moment and notices nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { NatsConnection } from '@nats-io/nats-core';
import { toErrorRecord } from '../../../schemas/errors.ts';
import type { FrontCall, FrontReply, FrontRequest, FrontSubject } from '../../../schemas/front.ts';
import { ask } from '../../bus/connection.ts';

/** All tries together, ms. */
const LIMIT_MS = 30_000;
/** Question or answer may have been lost: then it is asked again, ms. */
const AGAIN_MS = 5_000;
/** Before the next try where nobody listens, ms. */
const PAUSE_MS = 200;

/** By connection: resolved when another front end has taken the place of the present one. */
const replaced = new WeakMap<NatsConnection, PromiseWithResolvers<void>>();

/** Asks the front end that is there, or the next one. Errors: its own, `unavailable` when none answers for long. */
export async function askFront<Call extends FrontCall>(
  bus: NatsConnection,
  subject: FrontSubject<Call>,
  request: FrontRequest<Call>,
): Promise<FrontReply<Call>> {
  const reply = await askFrontWhile(
    bus,
    subject,
    () => request,
    () => true,
  );
  return reply as FrontReply<Call>;
}

/** Asks the front end that is there, once. Errors: its own, `unavailable` when it does not answer in time. */
export const askFrontOnce = <Call extends FrontCall>(
  bus: NatsConnection,
  subject: FrontSubject<Call>,
  request: FrontRequest<Call>,
  timeoutMs?: number,
): Promise<FrontReply<Call>> => ask<FrontReply<Call>>(bus, subject, request, timeoutMs);

/**
 * The same for what may have been overtaken by the time that it is asked again: undefined when `isWanted` says no before
 * a try; `request` is made for each.
 */
export async function askFrontWhile<Call extends FrontCall>(
  bus: NatsConnection,
  subject: FrontSubject<Call>,
  request: () => FrontRequest<Call>,
  isWanted: () => boolean,
): Promise<FrontReply<Call> | undefined> {
  for (const end = Date.now() + LIMIT_MS; isWanted(); ) {
    const next = successor(bus).promise.then(() => undefined);
    const asked = askFrontOnce(bus, subject, request(), AGAIN_MS).then(
      (reply) => ({ reply }),
      async (error: unknown) => {
        if (toErrorRecord(error).code !== 'unavailable' || Date.now() > end) throw error;
        await Promise.race([next, sleep(PAUSE_MS)]);
        return undefined;
      },
    );
    // What the one before is asked in vain may fail later, and is nobody's business then.
    asked.catch(() => {});
    const answered = await Promise.race([asked, next]);
    if (answered !== undefined) return answered.reply;
  }
  return undefined;
}

/** A front end is ready: what the one before it was asked is asked again of this one. */
export function frontIsReady(bus: NatsConnection): void {
  const before = successor(bus);
  replaced.delete(bus);
  before.resolve();
}

function successor(bus: NatsConnection): PromiseWithResolvers<void> {
  const known = replaced.get(bus);
  if (known !== undefined) return known;
  const fresh = Promise.withResolvers<void>();
  replaced.set(bus, fresh);
  return fresh;
}
