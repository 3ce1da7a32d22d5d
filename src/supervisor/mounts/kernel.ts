/** What a mount asks of the kernel. A rehearsal puts others in its place (rehearse.ts). */
import { carriesErofs, loadMetadata, mountErofs } from '../../kernel/erofs.ts';
import { attachLoop, detachLoop } from '../../kernel/loop.ts';
import { overlaysUpon } from '../../kernel/mount.ts';
import { setReadAhead } from '../../kernel/read-ahead.ts';

export interface MountKernel {
  attachLoop: typeof attachLoop;
  detachLoop: typeof detachLoop;
  setReadAhead: typeof setReadAhead;
  mountErofs: typeof mountErofs;
  carriesErofs: typeof carriesErofs;
  loadMetadata: typeof loadMetadata;
  overlaysUpon: typeof overlaysUpon;
}

export const KERNEL: MountKernel = {
  attachLoop,
  detachLoop,
  setReadAhead,
  mountErofs,
  carriesErofs,
  loadMetadata,
  overlaysUpon,
};
