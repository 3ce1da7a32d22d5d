/** What `status` says: gathered anew at each call. */
import { join } from 'node:path';
import type { ProcessStatus, Status } from '../../../schemas/api.ts';
import { PROTOCOL } from '../../../schemas/protocol.ts';
import { version } from '../../client/version.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Images } from '../images/images.ts';
import type { NodeLog } from '../log/node-log.ts';
import type { Mounts } from '../mounts/mounts.ts';
import type { RegistryClient } from '../../registry/client.ts';
import type { PodmanStore } from '../podman/store.ts';
import type { SupervisorOptions } from '../options.ts';
import type { SupervisorPorts } from '../ports.ts';
import type { Fetchers } from '../processes/fetchers.ts';
import type { FrontEnds } from '../processes/front-ends.ts';
import type { FrontFigures } from './front-figures.ts';
import { imageStatus } from './image-status.ts';
import { processStatus } from './process-status.ts';

export interface StatusSources {
  options: Pick<SupervisorOptions, 'node' | 'root' | 'transport' | 'snapshotter'>;
  natsUrl: string;
  startedAt: Date;
  fronts: Pick<FrontEnds, 'isReady'>;
  keeper: Pick<NodeLog['keeper'], 'report'>;
  conditions: Conditions;
  mounts: Pick<Mounts, 'list'>;
  images: Pick<Images, 'all'>;
  podman: Pick<PodmanStore, 'list'>;
  figures: Pick<FrontFigures, 'lately'>;
  /** Of them and of the supervisor's own client: mirrors that are left out. */
  fetchers: Pick<Fetchers, 'degraded'>;
  registry: Pick<RegistryClient, 'leftOut'>;
  fleet: { degraded(): Promise<readonly string[]> } | undefined;
  /** The supervisor's children. */
  children: () => ProcessStatus[];
  ports: Pick<SupervisorPorts, 'self'>;
}

export function statusOf(sources: StatusSources): () => Promise<Status> {
  const { options, natsUrl, startedAt, fronts, keeper, conditions, mounts, images, podman, figures, fleet } =
    sources;
  const { fetchers, registry } = sources;
  const { node, root, transport, snapshotter } = options;
  return async () => {
    const ofPodman = podman.list();
    const [served, ofFleet] = await Promise.all([figures.lately(), fleet?.degraded()]);
    return {
      node,
      version: version(),
      protocol: PROTOCOL,
      root,
      nats: natsUrl,
      transport,
      startedAt: startedAt.toISOString(),
      ready: fronts.isReady,
      log: keeper.report(),
      // Supervisor and front end may say the same.
      degraded: [
        ...new Set([
          ...conditions.list(),
          ...served.degraded,
          ...(ofFleet ?? []),
          ...registry.leftOut(),
          ...fetchers.degraded(),
        ]),
      ],
      ...(snapshotter === undefined ? {} : { snapshotter: snapshotter.socket }),
      mounts: mounts.list(),
      images: imageStatus(images.all(), served.layers),
      cache: served.cache,
      ...(ofPodman.length === 0 ? {} : { podman: { store: join(root, 'podman'), images: ofPodman } }),
      processes: processStatus({ pid: sources.ports.self.pid, since: startedAt }, sources.children()),
    };
  };
}
