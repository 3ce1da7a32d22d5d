/** The kubelet of a node (node.ts) in a cluster (control-plane.ts). */
import { freePort } from '../support/ports.ts';
import type { ControlPlane } from './control-plane.ts';
import { CGROUP, type NodeOptions } from './node.ts';

/** What one kubelet has beside the others. */
export interface KubeletOptions {
  /** Further ones of its command line. */
  args?: readonly string[];
  /** Files of /etc, such as those of a credential provider. */
  etc?: NonNullable<NodeOptions['etc']>;
  /** Of its configuration. */
  settings?: object;
}

/** Options of a node with it. */
export async function kubeletOf(
  name: string,
  { kubeletConfig, clientCa }: ControlPlane,
  { args: own = [], etc = {}, settings = {} }: KubeletOptions,
): Promise<Pick<NodeOptions, 'services' | 'etc'>> {
  const file = 'kubernetes/kubelet.json';
  const args = ['--config', `/etc/${file}`, '--kubeconfig', kubeletConfig, '--hostname-override', name];
  return {
    services: { kubelet: ['kubelet', ...args, ...own] },
    etc: {
      ...etc,
      [file]: JSON.stringify({ ...configuration(clientCa, await freePort()), ...settings }),
    },
  };
}

const configuration = (clientCa: string, port: number): object => ({
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  kind: 'KubeletConfiguration',
  address: '127.0.0.1',
  port,
  healthzPort: 0,
  containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
  authentication: {
    anonymous: { enabled: false },
    webhook: { enabled: false },
    x509: { clientCAFile: clientCa },
  },
  authorization: { mode: 'AlwaysAllow' },
  cgroupDriver: 'cgroupfs',
  cgroupRoot: `/${CGROUP}`,
  failCgroupV1: false,
  failSwapOn: false,
  makeIPTablesUtilChains: false,
  volumePluginDir: '/var/lib/kubelet/plugins-by-hand',
  serializeImagePulls: false,
  // The disk of a machine that tests run on may be as full as it likes.
  evictionHard: { 'memory.available': '50Mi', 'nodefs.available': '1%', 'imagefs.available': '1%' },
  imageGCHighThresholdPercent: 100,
  nodeStatusUpdateFrequency: '2s',
});
