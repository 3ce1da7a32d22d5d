/**
 * What the supervisor does in a start, as a rehearsal (rehearsal.ts): the very parts of the engine resolve, prepare, attach and
 * mount the rehearsal's image, and take it away. Others stand in the places of the kernel, the front end and the log.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { OPERATIONS } from '../../schemas/api.ts';
import type { FrontReply } from '../../schemas/front.ts';
import { subjects } from '../../schemas/subjects.ts';
import { createLog } from '../process/log.ts';
import { Conditions } from '../process/conditions.ts';
import type { RehearsalImage } from '../process/rehearsal/image.ts';
import { type Rehearsal, rehearse } from '../process/rehearsal/rehearsal.ts';
import type { EventLog } from '../store/event-log.ts';
import { LaterSync } from '../store/later-sync.ts';
import type { Layout } from '../store/layout.ts';
import { LiveFold } from '../store/live-fold.ts';
import { NodeFold } from '../store/node-fold.ts';
import { Images } from './images/images.ts';
import { Indexers } from './images/indexers.ts';
import { Keys } from './images/keys.ts';
import { Startups } from './images/startups.ts';
import { Devices } from './layers/devices.ts';
import type { FrontCalls } from './layers/front-caller.ts';
import type { MountKernel } from './mounts/kernel.ts';
import { Leftovers } from './mounts/leftovers.ts';
import { Mounts } from './mounts/mounts.ts';

/** A start that does not ask for its pack within this time, ms, has none. */
const PACK_MS = 1_000;

/** Throws what goes wrong in it. */
export async function rehearseStart(rehearsal: Rehearsal): Promise<void> {
  await rehearse(rehearsal, async (image, layout) => {
    const front = new SilentFront();
    const { images, mounts } = partsFor(image, layout, front);
    const dir = layout.in('mount');
    const { ref } = image;
    const request = OPERATIONS.mount.request.parse({ ref, dir, start: 'default', trust: 'registry' });
    images.expect(ref, undefined, 'registry');
    const above = { mount: async () => {}, unmount: async () => {} };
    const { manifest, origin } = await mounts.mount({ request, above, onProgress: () => {} });
    if (origin !== 'sidecar') throw new Error('the image of the rehearsal was not prepared by its sidecar');
    const isAsked = await Promise.race([
      front.packAsked.then(() => true),
      sleep(PACK_MS, false, { ref: false }),
    ]);
    if (!isAsked) throw new Error('the rehearsal has asked for no pack');
    await mounts.unmount(dir);
    await images.remove(manifest);
  });
}

function partsFor(
  image: RehearsalImage,
  layout: Layout,
  front: FrontCalls,
): { images: Images; mounts: Mounts } {
  const log = createLog('rehearsal', 'silent');
  const live = liveWithoutLog();
  const leftovers = Leftovers.none(layout);
  const label = 'rehearsal';
  const registry = image.client;
  const common = { layout, log, live, leftovers, label, kernel: NO_KERNEL };
  const devices = new Devices({ ...common, front });
  const packs = () => Promise.reject(new Error('a rehearsal needs no NATS'));
  const conditions = new Conditions(log);
  const images = new Images({
    ...common,
    registry,
    devices,
    startups: new Startups({ front, packs, registry, log }),
    indexers: new Indexers(layout.root, false),
    trust: 'registry',
    keys: new Keys({ directory: layout.in('keys'), registry, conditions, log }),
    completeLayers: async () => new Map(),
    newFiles: () => new LaterSync(),
  });
  const owner = { isFenced: false, confirm: async () => {} };
  return { images, mounts: new Mounts({ ...common, owner, images, newId: () => '0'.repeat(16) }) };
}

/** Takes every event, and folds it. */
function liveWithoutLog(): LiveFold {
  let seq = 0;
  const append: EventLog['append'] = async (subject, event) => {
    const record = { seq: ++seq, subject, event: { v: 1, at: Date.now(), ...event } };
    live.take(record as Parameters<typeof live.take>[0]);
    return record as Awaited<ReturnType<typeof append<typeof event.type>>>;
  };
  const live = new LiveFold({ events: { append }, names: subjects('rehearsal'), fold: new NodeFold() });
  return live;
}

const NO_KERNEL: MountKernel = {
  attachLoop: async (file, { label }) => ({ number: -1, path: file, label }),
  detachLoop: async () => {},
  setReadAhead: async () => {},
  mountErofs: async () => {},
  carriesErofs: () => false,
  loadMetadata: async () => {},
  overlaysUpon: async () => [],
};

/** Opens every layer, and takes every other word. */
class SilentFront implements FrontCalls {
  readonly #asked = Promise.withResolvers<void>();
  readonly packAsked = this.#asked.promise;

  async once<Call extends Parameters<FrontCalls['once']>[0]>(
    call: Call,
    request: Parameters<FrontCalls['once']>[1],
  ): Promise<FrontReply<Call>> {
    if (call === 'start' && 'pack' in request) this.#asked.resolve();
    const opened = { deviceSize: 0, name: 'rehearsal', state: 'lazy', front: 'rehearsal' };
    return (call === 'open' ? opened : undefined) as FrontReply<Call>;
  }

  ask = this.once;

  async askWhile<Call extends Parameters<FrontCalls['once']>[0]>(
    call: Call,
    request: () => Parameters<FrontCalls['once']>[1],
  ): Promise<FrontReply<Call> | undefined> {
    return await this.once(call, request());
  }

  isReady(): void {}
}
