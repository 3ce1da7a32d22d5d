/** What the supervisor writes for its children to read (src/process/settings.ts). Every default is settled here. */
import type { BusUsers } from '../../bus/roles.ts';
import type { EngineSettings, RegistrySettings } from '../../process/settings.ts';
import type { Layout } from '../../store/layout.ts';
import type { SupervisorOptions } from '../options.ts';

/** Jobs side by side in one fetcher. */
const SLOTS = 4;

/** `resend`: whether the FUSE mount can have what was in flight sent again to a successor. */
export function childSettings(given: {
  options: SupervisorOptions;
  layout: Layout;
  users: BusUsers;
  epoch: number;
  resend: boolean;
  registrySettings: RegistrySettings;
}): EngineSettings {
  const { options, layout, users, epoch, resend, registrySettings: registry } = given;
  const { supervisor, ...children } = users;
  return {
    root: options.root,
    node: options.node,
    nats: { url: supervisor.url },
    users: children,
    epoch,
    ...(options.nats === undefined ? { natsFiles: layout.in('nats') } : {}),
    transport: options.transport,
    resend,
    slots: options.slots ?? SLOTS,
    readDeadlineMs: options.readDeadlineMs,
    logLevel: options.logLevel,
    registry,
    cacheLimit: options.cacheLimit,
    keepFree: options.keepFree ?? 0,
    rehearses: options.rehearses !== false,
    defers: options.defers !== false,
  };
}
