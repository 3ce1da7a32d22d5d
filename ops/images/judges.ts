/**
 * Judges: programs that others wrote and that say whether cofa is right, in versions that Debian does not have. Built with
 * Go where it is at hand, once a machine (go-programs.ts); `ops/judges` builds them, tests and benchmarks use those that
 * are there.
 */
import { builtWithGo, type GoOptions, type GoPrograms, goFolder } from './go-programs.ts';

const CONTAINERD = 'github.com/containerd/containerd/v2';

const containerd = (version: string): GoPrograms => ({
  name: 'containerd',
  version,
  packages: ['containerd', 'ctr', 'containerd-shim-runc-v2'].map((name) => `${CONTAINERD}/cmd/${name}`),
});

const KUBERNETES = 'v1.37.2';

/** What the programs call themselves; Kubernetes' own build says it in the same way. */
const kubernetesVersion = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version']
  .flatMap((name) => [
    `-X ${name}.gitVersion=${KUBERNETES}`,
    `-X ${name}.gitMajor=1`,
    `-X ${name}.gitMinor=${KUBERNETES.split('.')[1]}`,
  ])
  .join(' ');

const SOCI = 'github.com/awslabs/soci-snapshotter';
const SOCI_VERSION = 'v0.16.1';

/**
 * containerd of each supported branch, docker's newest daemon, nerdctl with its builder, Kubernetes, Helm, CRI-O, the
 * kubelet's suite, crictl, and SOCI's snapshotter.
 */
export const JUDGES = {
  'containerd-2.2': containerd('v2.2.9'),
  'containerd-2.3': containerd('v2.3.7'),
  'containerd-2.4': containerd('v2.4.2'),
  // docker's daemon is a module with versions of its own: this one is docker 29.8.1 (its releases/versions.yaml).
  'docker-29': {
    name: 'dockerd',
    version: 'v2.0.0-beta.24',
    packages: ['github.com/moby/moby/v2/cmd/dockerd'],
    flags: ['-tags', 'exclude_graphdriver_btrfs netgo osusergo'],
    withoutC: true,
  },
  'docker-29-cli': {
    name: 'docker-cli',
    version: 'v29.8.1+incompatible',
    packages: [],
    folders: { module: 'github.com/docker/cli', folders: ['cmd/docker'], goMod: 'vendor.mod' },
    flags: ['-ldflags', '-s -w -X github.com/docker/cli/cli/version.Version=29.8.1'],
    withoutC: true,
  },
  // A cluster of one machine: control plane, kubelet and client, and the etcd that this version is built with.
  kubernetes: {
    name: 'kubernetes',
    version: KUBERNETES,
    packages: [
      ...['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kubectl'].map(
        (name) => `k8s.io/kubernetes/cmd/${name}`,
      ),
      'go.etcd.io/etcd/server/v3',
    ],
    flags: ['-trimpath', '-ldflags', `-s -w ${kubernetesVersion}`],
    withoutC: true,
    staged: {
      module: 'k8s.io/kubernetes',
      version: KUBERNETES.replace('v1.', 'v0.'),
      names: { server: 'etcd' },
    },
  },
  helm: {
    name: 'helm',
    version: 'v4.3.1',
    packages: ['helm.sh/helm/v4/cmd/helm'],
    flags: ['-trimpath', '-ldflags', '-s -w'],
    withoutC: true,
  },
  nerdctl: {
    name: 'nerdctl',
    version: 'v2.3.5',
    packages: [],
    folders: {
      module: 'github.com/containerd/nerdctl/v2',
      folders: ['cmd/nerdctl'],
      absent: {
        module: 'github.com/containerd/nerdctl/mod/tigron',
        importers: ['cmd/nerdctl/helpers/testing_linux.go'],
      },
    },
    withoutC: true,
  },
  buildkit: {
    name: 'buildkit',
    version: 'v0.34.2',
    packages: [],
    folders: { module: 'github.com/moby/buildkit', folders: ['cmd/buildkitd', 'cmd/buildctl'] },
    withoutC: true,
  },
  // Not by its name, for which Go would ask the proxy which versions there are: that may have this one alone.
  crio: {
    name: 'crio',
    version: 'v1.34.0',
    packages: [],
    folders: {
      module: 'github.com/cri-o/cri-o',
      folders: ['cmd/crio'],
      // Keeps the namespaces of pods.
      c: [{ name: 'pinns', folder: 'pinns/src' }],
    },
    flags: ['-trimpath', '-ldflags', '-s -w', '-tags', 'containers_image_openpgp exclude_graphdriver_btrfs'],
    withoutC: true,
  },
  critest: {
    name: 'critest',
    version: 'v1.37.0',
    packages: [],
    suites: { module: 'sigs.k8s.io/cri-tools', folders: ['cmd/critest'] },
  },
  // What people have at hand on a node.
  crictl: {
    name: 'crictl',
    version: 'v1.37.0',
    packages: [],
    folders: { module: 'sigs.k8s.io/cri-tools', folders: ['cmd/crictl'] },
    flags: ['-trimpath', '-ldflags', '-s -w'],
    withoutC: true,
  },
  // A rival of the benchmarks. It reads gzip by zlib, so it wants a C compiler and zlib1g-dev.
  soci: {
    name: 'soci',
    version: SOCI_VERSION,
    packages: ['soci', 'soci-snapshotter-grpc'].map((name) => `${SOCI}/cmd/${name}`),
    flags: ['-trimpath', '-ldflags', `-s -w -X ${SOCI}/version.Version=${SOCI_VERSION}`],
    // Its programs are a module without a version of its own: the one of the release's commit.
    staged: {
      module: `${SOCI}/cmd`,
      moduleVersion: 'v0.0.0-20260930233240-61147fe7c929',
      version: SOCI_VERSION,
    },
  },
} as const satisfies Record<string, GoPrograms>;

export type Judge = keyof typeof JUDGES;

/** Builds it where it is not there. Folder of its programs; undefined where that cannot be: `onProgress` hears why. */
export async function builtJudge(judge: Judge, options: GoOptions = {}): Promise<string | undefined> {
  return await builtWithGo(JUDGES[judge], options);
}

/** Folder of its programs where it was built before; undefined where it was not: `onProgress` hears how to. */
export function judgeAtHand(judge: Judge, { cache, onProgress }: GoOptions = {}): string | undefined {
  const folder = goFolder(JUDGES[judge], cache);
  if (folder === undefined) onProgress?.(`no ${judge} here: ./ops/judges ${judge} builds it, with Go`);
  return folder;
}
