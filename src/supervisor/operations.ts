/** What the engine's API does, by operation (schemas/api.ts): each call of it comes here, whatever way it came. */
import type { Status } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import type { Handlers } from './api.ts';
import type { CacheKeeper } from './layers/cache-keeper.ts';
import type { Chains } from './images/chains.ts';
import { containerAt, rootOf, unmountFrom } from './mounts/container-root.ts';
import type { Discards } from './mounts/discards.ts';
import type { Images } from './images/images.ts';
import type { Mounts } from './mounts/mounts.ts';
import type { Scrubs } from './layers/scrubs.ts';
import type { Trust } from './images/trust.ts';

export interface OperationsOptions {
  root: string;
  images: Pick<Images, 'expect'>;
  mounts: Mounts;
  discards: Discards;
  chains: Chains;
  trust: Trust;
  cache: CacheKeeper;
  scrubs: Scrubs;
  status: () => Promise<Status>;
  /** Throws while the engine stops. */
  refuseWhenStopping: () => void;
  /** Somebody wants an image: what the engine does for itself can wait. */
  onMount: () => void;
  /** There is, or was until now, something to do for a mount. */
  onWork: () => void;
  upgrade: Handlers['upgrade'];
  /** Takes the mounts out of the kernel. Error `busy` where one is in use; `force`: it goes all the same. */
  detach: (force: boolean) => Promise<void>;
  /** The engine ends; called when the answer is on its way. */
  stop: () => Promise<void>;
}

export function operations(options: OperationsOptions): Handlers {
  const { root, mounts, discards, chains, trust, cache, scrubs, refuseWhenStopping, onWork } = options;
  /** What a container had that has ended is in nobody's way any more. */
  const settled = () => Promise.all([mounts.released(SETTLED_MS), discards.settled(SETTLED_MS)]);
  return {
    status: options.status,
    mount: async ({ layers, overlay, ...order }, onProgress) => {
      refuseWhenStopping();
      options.onMount();
      onWork();
      const { ref, dir, platform, prefetch, prefetchLimit, container, start, program, trust: policy } = order;
      if (prefetchLimit !== undefined && !prefetch)
        throw new CofaError(
          'invalid-argument',
          'prefetchLimit says how fast, and prefetch that there is none',
        );
      const folder = overlay === undefined ? undefined : containerAt(root, dir);
      const image = layers === undefined ? undefined : await chains.image(ref, layers);
      const above = overlay === undefined || folder === undefined ? undefined : rootOf(folder, overlay);
      const how = { platform, prefetch, prefetchLimit, container, start, program, trust: policy, above };
      const mounted = await mounts.mount({ ref, image, dir, ...how, onProgress }).finally(() => {
        onWork();
        trust.poke();
      });
      return above === undefined ? mounted : { ...mounted, overlay: true };
    },
    expect: async ({ ref, platform, trust: policy }) => {
      refuseWhenStopping();
      options.onMount();
      onWork();
      options.images.expect(ref, platform, policy);
      return {};
    },
    chain: async (request) => ({ flat: await chains.flat(request) }),
    unmount: async ({ dir, overlay, discard }) => {
      onWork();
      if (overlay === undefined) {
        if (discard === true)
          throw new CofaError('invalid-argument', 'discard is for containers: with overlay');
        return await mounts.unmount(dir);
      }
      const folder = containerAt(root, dir);
      if (discard === true) return await discards.discard(folder);
      await unmountFrom(folder);
      return await mounts.unmount(dir);
    },
    prune: async (order) => {
      await settled();
      return await cache.prune(order).finally(() => trust.poke());
    },
    remove: async ({ ref }) => {
      await settled();
      return await cache.remove(ref).finally(() => trust.poke());
    },
    scrub: async ({ ref, layer, repair, bytesPerSecond }, onProgress) => {
      refuseWhenStopping();
      const image = ref === undefined ? undefined : cache.find(ref);
      const layers = await scrubs.choose({ image, layer });
      return await scrubs.run({ layers, repair, bytesPerSecond }, onProgress);
    },
    'scrub-stop': async () => ({ stopped: scrubs.stop() }),
    upgrade: async (request, onProgress) => {
      refuseWhenStopping();
      return await options.upgrade(request, onProgress);
    },
    down: async ({ force }) => {
      refuseWhenStopping();
      await options.detach(force);
      setImmediate(() => void options.stop());
      return { stopping: true };
    },
  };
}

/** So long what is removed waits for what a container had that has ended, ms. */
const SETTLED_MS = 5_000;
