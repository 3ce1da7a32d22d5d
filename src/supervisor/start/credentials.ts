/** How the engine's processes reach registries. */
import type { Logger } from 'pino';
import type { RegistrySettings } from '../../process/settings.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import type { SupervisorOptions } from '../options.ts';

/**
 * Opens a desk for credentials where some come in: from pulls that containerd's image service sees, or from the kubelet's
 * providers.
 */
export async function openCredentials(given: {
  options: Pick<SupervisorOptions, 'registry' | 'snapshotter' | 'credentialProviders'>;
  layout: Layout;
  label: string;
  log: Logger;
  end: Pick<End, 'at'>;
  ports: { clock: { wallMs(): number } };
}): Promise<RegistrySettings> {
  const { options, layout, label, log, ports, end } = given;
  const { registry, snapshotter, credentialProviders } = options;
  if (snapshotter?.imageService === undefined && credentialProviders === undefined) return registry;
  const { openDesk } = await import('../../registry/credential-desk.ts');
  const credentialSocket = layout.socket('credentials');
  const close = await openDesk(credentialSocket, {
    providers: credentialProviders,
    oldKeyring: `${label}:credentials`,
    now: () => ports.clock.wallMs(),
    log,
  });
  end.at('root', close);
  return { ...registry, credentialSocket };
}
