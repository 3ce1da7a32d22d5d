/** What an engine is started with: the settings of `cofa up`. */
import type { MetricsSettings } from '../metrics/address.ts';
import type { ProviderSettings } from '../registry/credential-providers.ts';
import type { FleetChoice } from '../process/fleet-settings.ts';
import type { RegistrySettings } from '../process/settings.ts';
import type { SnapshotterOptions } from '../process/snapshotter-options.ts';
import type { TracesSettings } from '../traces/settings.ts';
import type { TrustPolicy } from '../../schemas/trust.ts';

export const DEFAULT_TRUST: TrustPolicy = 'registry';

export interface IncidentSettings {
  /** Bytes and number of incidents that are kept at most. */
  bytes: number;
  count: number;
  /** A start that waits for cofa so long is an incident, ms; 0: none is. */
  slowMs: number;
}

export interface SupervisorOptions {
  root: string;
  /** URL of a NATS with JetStream; a private nats-server is started without. */
  nats?: string | undefined;
  /** File with the users of this node's roles on that NATS; without, the URL's is all of them. */
  natsUsers?: string | undefined;
  /** File with the authorities that vouch for that NATS; without, Node's. */
  natsCa?: string | undefined;
  /** File with users of the API with limited rights (schemas/rights.ts); there are none without. */
  apiUsers?: string | undefined;
  node: string;
  transport: 'kernel' | 'fuse-native';
  /** Fetcher processes; one a core by default. */
  workers?: number | undefined;
  /** Jobs side by side in one fetcher. */
  slots?: number | undefined;
  readDeadlineMs: number;
  /** A process of the engine that does not answer for this long is killed and started again, ms. */
  hangMs: number;
  /** Bytes of events that are kept, about; `LOG_LIMIT` by default. */
  logLimit?: number | undefined;
  logLevel: string;
  /** containerd's snapshotter; none without. */
  snapshotter?: SnapshotterOptions | undefined;
  /** The kubelet's credential providers, to be run by this engine as well. */
  credentialProviders?: ProviderSettings | undefined;
  registry: RegistrySettings;
  /** Where metrics are served; nowhere without. */
  metrics?: MetricsSettings | undefined;
  /** Where traces are sent; nowhere without. */
  traces?: TracesSettings | undefined;
  /** What is kept of incidents; nothing without. */
  incidents?: IncidentSettings | undefined;
  /** Bytes that the cache may take; without, what the disk has. */
  cacheLimit?: number | undefined;
  /** Percent of the disk that layers of images that nothing mounts leave free; without, none. */
  keepFree?: number | undefined;
  /** The fleet that the node is a member of; of none without. */
  fleet?: FleetChoice | undefined;
  /** Which sidecars may be used before they are proven; `DEFAULT_TRUST` without. */
  trust?: TrustPolicy | undefined;
  /** Folder of the keys that may vouch for sidecars (src/signature/key-directory.ts). */
  keys?: string | undefined;
  /** Whether processes that have nothing to do yet rehearse starts (rehearse.ts); by default they do. */
  rehearses?: boolean | undefined;
  /** Whether work that no reader waits for runs at idle priority and rests on a busy machine; by default it does. */
  defers?: boolean | undefined;
}
