/** `node ops/pods.ts [--pods 50] [--containerd 1.6|1.7|2.1|2.2|2.3|2.4] [--snapshotter overlayfs]`: see test/support/many-pods.ts. */
import { parseArgs } from 'node:util';
import { manyPods } from '../test/support/many-pods.ts';
import { containerdPath } from './images/debs.ts';

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '50' },
    snapshotter: { type: 'string', default: 'cofa' },
    containerd: { type: 'string', default: '1.6' },
  },
});
if (values.snapshotter !== 'cofa' && values.snapshotter !== 'overlayfs')
  throw new Error(`--snapshotter is cofa or overlayfs, not ${values.snapshotter}`);
const path = await containerdPath(values.containerd);
const report = await manyPods({
  pods: Number(values.pods),
  snapshotter: values.snapshotter,
  onProgress: (line) => console.error(`pods: ${line}`),
  ...(path === undefined ? {} : { path }),
});
console.log(JSON.stringify(report, undefined, 2));
process.exit(report.failures.length + report.left.length === 0 ? 0 : 1);
