/** The process that serves containerd (src/snapshotter/main.ts). */
import { fileURLToPath } from 'node:url';
import { clearDeadMount } from '../../fuse/connection.ts';
import { Child, type ChildPorts } from '../../process/child.ts';
import type { Conditions } from '../../process/conditions.ts';
import type { Layout } from '../../store/layout.ts';
import type { End } from '../end.ts';
import type { SupervisorOptions } from '../options.ts';
import type { Watch } from './watchers.ts';

const PROGRAM = fileURLToPath(new URL('../../snapshotter/main.ts', import.meta.url));

/** It is yet to be started. Undefined where the engine has none. */
export function makeSnapshotter(given: {
  options: Pick<SupervisorOptions, 'snapshotter' | 'hangMs'>;
  layout: Layout;
  conditions: Conditions;
  watch: Watch;
  end: End;
  ports: ChildPorts;
}): Child | undefined {
  const { options, layout, conditions, watch, end, ports } = given;
  const { snapshotter, hangMs } = options;
  if (snapshotter === undefined) return undefined;
  const child = new Child({
    role: 'snapshotter',
    name: 'snapshotter',
    command: process.execPath,
    args: [PROGRAM, layout.root, JSON.stringify(snapshotter)],
    log: layout.log('snapshotter'),
    isExpendable: true,
    link: { hangMs, onReady: () => conditions.clear('snapshotter') },
    ports,
    ...watch('snapshotter', 'snapshotter'),
    onGiveUp: () => {
      const sentence = `the snapshotter does not start: containerd cannot use ${snapshotter.socket}`;
      conditions.set('snapshotter', sentence);
    },
  });
  end.at('snapshotter', async () => {
    await child.stop();
    // One that was killed leaves it behind; one that is alive is another engine's.
    await clearDeadMount(layout.blobs()).catch(() => {});
  });
  return child;
}
