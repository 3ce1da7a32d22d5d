/** What the engine's API does: a handler for each operation of schemas/api.ts. Each call comes here, whatever way it came. */
import type { Status } from '../../schemas/api.ts';
import { CofaError } from '../../schemas/errors.ts';
import { policyNamed } from '../../schemas/trust.ts';
import type { Handler, Handlers } from './api.ts';
import type { End } from './end.ts';
import type { Chains } from './images/chains.ts';
import type { Images } from './images/images.ts';
import type { Trust } from './images/trust.ts';
import type { CacheKeeper } from './layers/cache-keeper.ts';
import type { Scrubs } from './layers/scrubs.ts';
import { containerAt, rootOf, unmountFrom } from './mounts/container-root.ts';
import type { Discards } from './mounts/discards.ts';
import type { Mounts } from './mounts/mounts.ts';
import type { PodmanStore } from './podman/store.ts';
import type { Fetchers } from './processes/fetchers.ts';
import type { FrontEnds } from './processes/front-ends.ts';
import type { UsageMeter } from './processes/usage-meter.ts';
import type { FleetProcess } from './start/fleet.ts';
import type { IdleWork } from './start/rehearsal.ts';

export interface OperationsParts {
  options: { root: string };
  status: () => Promise<Status>;
  images: Pick<Images, 'expect'>;
  mounts: Mounts;
  discards: Discards;
  podman: PodmanStore;
  chains: Chains;
  trust: Trust;
  cache: CacheKeeper;
  scrubs: Scrubs;
  fronts: Pick<FrontEnds, 'upgrade'>;
  fetchers: Pick<Fetchers, 'upgrade'>;
  fleet: FleetProcess | undefined;
  idle: Pick<IdleWork, 'stop' | 'worked'>;
  usage: Pick<UsageMeter, 'asked' | 'mounted' | 'contained' | 'ended'>;
  end: End;
}

/** What is removed waits for this long for what an ended container had, ms. */
const SETTLED_MS = 5_000;

/** A handler for each operation of schemas/api.ts. While the engine ends, those that begin work are refused. */
export function operations(parts: OperationsParts): Handlers {
  const { chains, cache, scrubs, fronts, fetchers, fleet, idle, trust, images, mounts, podman, end } = parts;
  const whenRunning =
    <Request extends unknown[], Result>(handler: (...request: Request) => Promise<Result>) =>
    async (...request: Request): Promise<Result> => {
      end.refuseWhenNear();
      return await handler(...request);
    };
  const afterContainers = async <Result>(remove: () => Promise<Result>): Promise<Result> => {
    await Promise.all([mounts.released(SETTLED_MS), parts.discards.settled(SETTLED_MS)]);
    return await remove().finally(() => trust.poke());
  };
  return {
    status: parts.status,
    mount: whenRunning(mountWith(parts)),
    expect: whenRunning(async ({ ref, platform, trust: policy }) => {
      idle.stop();
      idle.worked();
      images.expect(ref, platform, policy && policyNamed(policy));
      return {};
    }),
    chain: async (request) => ({ flat: await chains.flat(request) }),
    admit: async (request) => ({ admitted: await chains.admits(request) }),
    unmount: unmountWith(parts),
    prune: (order) => afterContainers(() => cache.prune(order)),
    remove: ({ ref }) => afterContainers(() => cache.remove(ref)),
    scrub: whenRunning(async ({ ref, layer, ...order }, onProgress) => {
      const layers = await scrubs.choose({ image: ref === undefined ? undefined : cache.find(ref), layer });
      return await scrubs.run({ layers, ...order }, onProgress);
    }),
    'scrub-stop': async () => ({ stopped: scrubs.stop() }),
    'podman-add': whenRunning(async (request, onProgress) => {
      idle.stop();
      return await podman.add(request, onProgress).finally(() => {
        idle.worked();
        trust.poke();
      });
    }),
    'podman-remove': whenRunning(async ({ ref }) => await podman.remove(ref)),
    upgrade: whenRunning(async () => {
      const frontEnd = await fronts.upgrade();
      if (fleet !== undefined) {
        await fleet.child.stop();
        fleet.child.start();
        await fleet.child.untilRunning();
      }
      return { frontEnd, fetchers: await fetchers.upgrade() };
    }),
    down: async ({ force }) => {
      await end.down(async () => {
        const used = force ? [] : mounts.overlaid();
        return used.length > 0 ? used : await podman.behind(() => mounts.detachAll(force));
      });
      return { stopping: true };
    },
  };
}

function mountWith({ options, mounts, chains, trust, idle, usage }: OperationsParts): Handler<'mount'> {
  return async (request, onProgress) => {
    const { ref, dir, layers, overlay, prefetch, prefetchLimit } = request;
    idle.stop();
    idle.worked();
    usage.asked();
    if (prefetchLimit !== undefined && !prefetch)
      throw new CofaError('invalid-argument', 'prefetchLimit says how fast, and prefetch that there is none');
    const folder = overlay === undefined ? undefined : containerAt(options.root, dir);
    const above = folder && overlay && rootOf(folder, overlay);
    const image = layers === undefined ? undefined : await mounts.lookedUp(chains.image(ref, layers));
    const mounted = await mounts.mount({ request, image, above, onProgress }).finally(() => {
      idle.worked();
      usage.mounted();
      trust.poke();
    });
    if (folder === undefined) return mounted;
    usage.contained(mounted.id, folder.id);
    return { ...mounted, overlay: true };
  };
}

function unmountWith({ options, mounts, discards, idle, usage }: OperationsParts): Handler<'unmount'> {
  return async ({ dir, overlay, ran, discard }) => {
    idle.worked();
    usage.ended();
    if (overlay === undefined) {
      if (discard === true)
        throw new CofaError('invalid-argument', 'discard is for containers: with overlay');
      return await mounts.unmount(dir, { ran });
    }
    const folder = containerAt(options.root, dir);
    if (discard === true) return await discards.discard(folder, ran);
    await unmountFrom(folder);
    return await mounts.unmount(dir, { ran });
  };
}
