/** The transport that serves layer devices to the kernel (src/fuse/transport.ts), as the front end's start needs it. */
import type { ColdRead, FuseTransport } from '../fuse/transport.ts';
import type { EngineSettings } from '../process/settings.ts';
import type { Layout } from '../store/layout.ts';

export interface DevicesOptions {
  settings: Pick<EngineSettings, 'transport' | 'resend' | 'readDeadlineMs'>;
  layout: Layout;
  cold: ColdRead;
}

/** A transport that is loaded and takes no request yet. */
export interface StandbyTransport {
  /** Takes requests from now on: the front end before this one has ended. */
  begin(): Promise<FuseTransport>;
  /** Every layer that the kernel knows is open again: a request for another one need not wait for it to appear. */
  settled(): void;
  /** What stands still in it, if anything. */
  trouble(): string | undefined;
}

export type LoadTransport = (options: DevicesOptions) => Promise<StandbyTransport>;

/** The FUSE descriptor that the supervisor hands down. */
const FUSE_FD = 3;

/** The kernel's protocol on the inherited descriptor, or the npm package with a mount of its own, as the settings say. */
export const loadTransport: LoadTransport = async ({ settings, layout, cold }) => {
  if (settings.transport === 'kernel') {
    const { kernelTransport } = await import('../fuse/kernel-transport.ts');
    const transport = kernelTransport({
      fd: FUSE_FD,
      resend: settings.resend,
      cold,
      standby: true,
      holdMs: settings.readDeadlineMs,
    });
    return {
      begin: async () => {
        transport.begin();
        return transport;
      },
      settled: () => transport.settled(),
      trouble: () => transport.trouble(),
    };
  }
  return {
    begin: async () => {
      const { fuseNativeTransport } = await import('../fuse/fuse-native-transport.ts');
      return await fuseNativeTransport({ target: layout.devices(), cold });
    },
    settled: () => {},
    trouble: () => undefined,
  };
};
