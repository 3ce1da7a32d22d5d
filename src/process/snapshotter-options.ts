/** What the supervisor tells the snapshotter's process. */
import type { PreparePolicy } from '../../schemas/prepare.ts';

export interface SnapshotterOptions {
  /** Where containerd finds it. */
  socket: string;
  /** Where a kubelet finds containerd's image service, and containerd's own socket. */
  imageService?: { socket: string; containerd: string } | undefined;
  prepare: PreparePolicy;
  /** Whose clients see layers that stay in the registry as content: containerd's socket, and its namespaces. */
  lazyBlobs?: { containerd: string; namespaces: string[] } | undefined;
}
