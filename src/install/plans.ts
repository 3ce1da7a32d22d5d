/**
 * What `cofa install` writes, and how `cofa uninstall` takes it back: new contents of files from their old ones. This
 * file only decides; src/cli/install.ts reads the files, lets containerd check them, and writes.
 */
import { dirname } from 'node:path';
import { CofaError } from '../../schemas/errors.ts';
import {
  applyEdits,
  hasTablesBelow,
  isEdited,
  revertEdits,
  type TableEdit,
  tableValue,
  topLevelValue,
} from './toml-edit.ts';

export type Target = 'containerd' | 'docker' | 'k8s';
export const TARGETS: readonly Target[] = ['containerd', 'docker', 'k8s'];

export interface Paths {
  /** containerd's configuration. */
  containerd: string;
  /** dockerd's. */
  docker: string;
  /** The service of the engine; undefined: the order wants none. */
  unit: string | undefined;
}

export const DEFAULT_PATHS = {
  containerd: '/etc/containerd/config.toml',
  docker: '/etc/docker/daemon.json',
  unit: '/etc/systemd/system/cofa.service',
} as const;

export interface FileChange {
  path: string;
  /** Undefined: the file does not exist. */
  before: string | undefined;
  /** Undefined: the file is removed. */
  after: string | undefined;
  /** The purpose, for people. */
  why: string;
  /** Whose owner and mode the file gets; absent: its own stay. */
  like?: string;
}

/** Reads a file; undefined where there is none. */
export type ReadFile = (path: string) => string | undefined;

export interface InstallOrder {
  target: Target;
  paths: Paths;
  read: ReadFile;
  /** The engine's. */
  root: string;
  /** Where containerd finds cofa's snapshotter. */
  socket: string;
  /** The service's text, with further options of `cofa up`. */
  unit: (options: string) => string;
  /** Of containerd's version, where it is known: 2 for 2.1. */
  containerdMajor?: number | undefined;
  /** Layers can be mounted with the ids of user namespaces here (actors/id-maps.ts). */
  mapsIds?: boolean;
  /** The engine is a pod of a DaemonSet: a runtime handler for that pod is added, which does not use cofa. */
  daemonset?: boolean;
}

/**
 * The files to change; empty when all is as it should be. Errors: `unsupported` for files that cannot be understood.
 */
export function planInstall(order: InstallOrder): FileChange[] {
  const {
    target,
    paths,
    read,
    root,
    socket,
    unit,
    daemonset = false,
    containerdMajor = 1,
    mapsIds = false,
  } = order;
  const changes: FileChange[] = [];
  const change = (path: string, after: string, why: string) => {
    const before = read(path);
    if (before !== after) changes.push({ path, before, after, why });
  };
  const containerd = read(paths.containerd);
  // Docker asks for cofa by its name; Kubernetes uses what containerd's CRI plugin is set to.
  const kubernetes = target === 'k8s' || hasCri(containerd ?? '');
  change(
    paths.containerd,
    containerdConfig(containerd, {
      root,
      socket,
      kubernetes,
      isTransfer: containerdMajor >= 2,
      mapsIds,
      bootstrap: kubernetes && (daemonset || hasBootstrap(containerd ?? '')),
    }),
    kubernetes ? 'containerd finds cofa, and pods use it' : 'containerd finds cofa',
  );
  if (target === 'docker') {
    const before = read(paths.docker);
    const after = dockerConfig(before, paths.docker);
    const isOurs = parseDocker(before, paths.docker)[DRIVER] === 'cofa';
    if (before !== undefined && before !== after && !isOurs) {
      const path = backupOf(paths.docker);
      const earlier = read(path);
      // It may hold what others must not read, such as the password of a proxy.
      if (earlier !== before)
        changes.push({ path, before: earlier, after: before, why: 'as it was before', like: paths.docker });
    }
    change(paths.docker, after, 'docker keeps its images in containerd, on cofa');
  }
  if (paths.unit !== undefined)
    change(paths.unit, unit(kubernetes ? KUBELET_OPTIONS : ''), 'the engine runs as a service');
  return changes;
}

/** Takes back what any `planInstall` has written; removes files that hold nothing else. */
export function planUninstall(order: {
  targets: readonly Target[];
  paths: Paths;
  read: ReadFile;
}): FileChange[] {
  const { targets, paths, read } = order;
  const changes: FileChange[] = [];
  const change = (path: string, before: string, after: string | undefined, why: string) => {
    if (before !== after) changes.push({ path, before, after, why });
  };
  const all = targets.length === 0;
  const wants = (...some: Target[]) => all || some.some((target) => targets.includes(target));
  const containerd = read(paths.containerd);
  if (containerd !== undefined && isEdited(containerd)) {
    if (all || targets.includes('containerd')) {
      change(paths.containerd, containerd, withoutNew(revertEdits(containerd)), 'containerd forgets cofa');
    } else if (targets.includes('k8s') && hasCri(containerd)) {
      const socket = stringValue(containerd, PLUGIN, 'address') ?? '';
      const without = containerdConfig(revertEdits(containerd), {
        root: exportedRoot(containerd) ?? dirname(dirname(socket)),
        socket,
        kubernetes: false,
        bootstrap: false,
        isTransfer: containerd.includes(UNPACK) && !revertEdits(containerd).includes(UNPACK),
        mapsIds: saysMapsIds(containerd),
      });
      change(paths.containerd, containerd, without, 'pods use what they used before');
    }
  }
  const docker = read(paths.docker);
  if (docker !== undefined && wants('docker')) {
    const backup = read(backupOf(paths.docker));
    const after = undoDocker(docker, backup, paths.docker);
    change(paths.docker, docker, after, 'docker keeps its images where it did');
    if (backup !== undefined && after !== docker)
      change(backupOf(paths.docker), backup, undefined, 'done with');
  }
  const unit = paths.unit === undefined ? undefined : read(paths.unit);
  if (unit !== undefined && paths.unit !== undefined && all && unit.includes(UNIT_MARK)) {
    change(paths.unit, unit, undefined, 'the engine is no service any more');
  }
  return changes;
}

/** Stands in the service that `cofa install` writes; a service without it is not cofa's. */
export const UNIT_MARK = '# Written by cofa install.';

/**
 * A kubelet removes images when 15 % of their disk are left, and evicts pods where that does not help. What the cache holds
 * of images that nothing runs from leaves before.
 */
const KUBELET_OPTIONS = ' --keep-free 20';

// --- containerd ---------------------------------------------------------------------------------------------------

/** Key of containerd's transfer service. */
const UNPACK = 'unpack_config';
/** Where containerd reads what it has to know of cofa. */
const PLUGIN = ['proxy_plugins', 'cofa'];
const EXPORTS = [...PLUGIN, 'exports'];
/** Layers can be unpacked side by side, before it is known what they stand on (src/snapshotter/rebase.ts). */
const REBASE = '"rebase"';
/** containerd gives the ids of a container's user namespace, and images are mounted with them. */
const REMAP_IDS = '"remap-ids"';
const NEW_FILE = '# cofa install: new file';

function containerdConfig(
  text: string | undefined,
  o: {
    root: string;
    socket: string;
    kubernetes: boolean;
    bootstrap: boolean;
    isTransfer: boolean;
    mapsIds: boolean;
  },
): string {
  const { root, socket, kubernetes, bootstrap, isTransfer, mapsIds } = o;
  const original =
    text === undefined || text.trim() === '' ? `${NEW_FILE}\nversion = 2\n` : revertEdits(text);
  const edits: TableEdit[] = [
    {
      table: PLUGIN,
      keys: {
        type: '"snapshot"',
        address: JSON.stringify(socket),
        // Without remap-ids containerd copies images for user namespaces.
        capabilities: `[${[REBASE, ...(mapsIds ? [REMAP_IDS] : [])].join(', ')}]`,
      },
    },
    {
      table: EXPORTS,
      keys: {
        // On whose disk images are: a kubelet measures that one, and containerd names no other folder of ours.
        root: JSON.stringify(root),
        // containerd 2 reads it: ctr and other clients that pull through it then say which image they pull.
        enable_remote_snapshot_annotations: '"true"',
      },
    },
  ];
  const version = topLevelValue(original, 'version');
  // containerd 2 unpacks what ctr and other clients pull only for the snapshotters that its transfer service lists.
  if ((isTransfer || isNew(version)) && !original.includes(UNPACK)) {
    const unpack = ['overlayfs', 'cofa'].map((name) => `{ platform = "linux", snapshotter = "${name}" }`);
    const table = ['plugins', 'io.containerd.transfer.v1.local'];
    edits.push({ table, keys: { [UNPACK]: `[${unpack.join(', ')}]` } });
  }
  if (kubernetes) {
    const table = criTable(version);
    const keys = { snapshotter: '"cofa"', disable_snapshot_annotations: 'false' };
    edits.push({ table, keys });
    // containerd 2 reads a file of version 2 as well, and takes these keys over only from one that also names runtimes.
    // Older ones do not know this table, and leave it alone.
    if (version === '2') edits.push({ table: criTable('3'), keys });
    if (bootstrap) edits.push(...bootstrapHandler(original, table));
  }
  return applyEdits(original, edits);
}

/** Whether an installed configuration tells containerd that cofa mounts layers with other ids. */
export const saysMapsIds = (text: string): boolean =>
  isEdited(text) && (tableValue(text, PLUGIN, 'capabilities') ?? '').includes(REMAP_IDS);

/** The folder that an installed configuration names for the disk of images; undefined where it names none. */
export const exportedRoot = (text: string): string | undefined => stringValue(text, EXPORTS, 'root');

function stringValue(text: string, table: readonly string[], key: string): string | undefined {
  const [literal] = /^"(?:[^"\\]|\\.)*"$/.exec(tableValue(text, table, key) ?? '') ?? [];
  return literal === undefined ? undefined : (JSON.parse(literal) as string);
}

/** A configuration that only containerd 2 reads. */
const isNew = (version: string | undefined): boolean => version === '3' || version === '4';

/** Of containerd 2, which split one older plugin into several. */
const IMAGES_TABLE = ['plugins', 'io.containerd.cri.v1.images'];
const RUNTIME_TABLE = ['plugins', 'io.containerd.cri.v1.runtime'];

/** Where the CRI plugin's snapshotter is set; each version of the configuration has another place. */
function criTable(version: string | undefined): string[] {
  switch (version) {
    case undefined:
    case '1':
      return ['plugins', 'cri', 'containerd'];
    case '2':
      return ['plugins', 'io.containerd.grpc.v1.cri', 'containerd'];
    case '3':
    case '4':
      return IMAGES_TABLE;
    default:
      throw new CofaError('unsupported', `containerd's configuration has version ${version}`, {
        hint: 'add the lines of docs/containerd.md by hand',
      });
  }
}

/** Handler of the runtime class of the pod that brings cofa (ops/kubernetes/cofa.yaml): cofa cannot start that pod. */
const BOOTSTRAP = 'cofa-bootstrap';

/** Gives that pod the snapshotter that all pods had before: the one that was set, or containerd's own. */
function bootstrapHandler(original: string, criTable: readonly string[]): TableEdit[] {
  const isOld = criTable.at(-1) === 'containerd';
  const runtimes = isOld ? [...criTable, 'runtimes'] : [...RUNTIME_TABLE, 'containerd', 'runtimes'];
  const table = [...runtimes, BOOTSTRAP];
  const snapshotter = tableValue(original, criTable, 'snapshotter') ?? '"overlayfs"';
  const runc = { runtime_type: '"io.containerd.runc.v2"' };
  const edits: TableEdit[] = [{ table, keys: { ...runc, snapshotter } }];
  // Where the file names a runtime, containerd forgets its built-in one.
  if (!hasTablesBelow(original, runtimes)) edits.push({ table: [...runtimes, 'runc'], keys: runc });
  const options = [...runtimes, 'runc', 'options'];
  const cgroups = tableValue(original, options, 'SystemdCgroup');
  if (cgroups !== undefined) edits.push({ table: [...table, 'options'], keys: { SystemdCgroup: cgroups } });
  // containerd 2 reads the handler's snapshotter here, also in files of version 2; older ones ignore the table.
  edits.push({ table: [...IMAGES_TABLE, 'runtime_platforms', BOOTSTRAP], keys: { snapshotter } });
  return edits;
}

const hasBootstrap = (text: string): boolean => isEdited(text) && text.includes(`.${BOOTSTRAP}]`);

/** Whether an earlier install put pods on cofa. */
export const hasCri = (text: string): boolean =>
  /^\s*snapshotter = "cofa"(?: # cofa install.*)?$/m.test(text) && isEdited(text);

const withoutNew = (text: string): string | undefined =>
  text.replace(/^version = 2\n/m, '').trim() === NEW_FILE ? undefined : text;

// --- docker -------------------------------------------------------------------------------------------------------

/** JSON has no comments that could hold the earlier values. */
const backupOf = (path: string): string => `${path}.before-cofa`;
const STORE = 'containerd-snapshotter';
/** With this feature docker 29 runs a containerd inside dockerd. It reads no configuration file, and dockerd ignores the socket that it is given. */
const EMBEDDED = 'embedded-containerd';
const DRIVER = 'storage-driver';

interface DockerConfig {
  features?: Record<string, unknown>;
  [key: string]: unknown;
}

/** Whether dockerd is to run a containerd of its own inside, which cannot find cofa. */
export const isEmbedded = (features: Readonly<Record<string, unknown>> | undefined): boolean =>
  features?.[EMBEDDED] === true;

function dockerConfig(text: string | undefined, path: string): string {
  const config = parseDocker(text, path);
  if (isEmbedded(config.features))
    throw new CofaError(
      'unsupported',
      `${path} has dockerd run a containerd inside itself (${EMBEDDED}), which cannot use cofa`,
      {
        hint: `take ${EMBEDDED} out of features, so that dockerd uses the containerd of this machine`,
      },
    );
  if (config[DRIVER] === 'cofa' && config.features?.[STORE] === true) return text as string;
  const after = { ...config, features: { ...config.features, [STORE]: true }, [DRIVER]: 'cofa' };
  return toJson(after);
}

/** Restores our own keys only; other changes since the install stay. */
function undoDocker(text: string, backup: string | undefined, path: string): string | undefined {
  const config = parseDocker(text, path);
  if (config[DRIVER] !== 'cofa') return text;
  const before = parseDocker(backup, backupOf(path));
  const after = { ...config };
  const features = { ...config.features };
  delete after[DRIVER];
  delete features[STORE];
  if (before[DRIVER] !== undefined) after[DRIVER] = before[DRIVER];
  if (before.features?.[STORE] !== undefined) features[STORE] = before.features[STORE];
  if (Object.keys(features).length === 0 && before.features === undefined) delete after.features;
  else after.features = features;
  if (Object.keys(after).length === 0 && backup === undefined) return undefined;
  return sameContent(after, before) && backup !== undefined ? backup : toJson(after);
}

const toJson = (config: DockerConfig): string => `${JSON.stringify(config, undefined, 2)}\n`;

/** Whether the file has not changed since the install: then its very bytes come back. */
const sameContent = (a: DockerConfig, b: DockerConfig): boolean => {
  const sorted = (config: DockerConfig) => Object.entries(config).toSorted(([x], [y]) => (x < y ? -1 : 1));
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
};

function parseDocker(text: string | undefined, path: string): DockerConfig {
  if (text === undefined || text.trim() === '') return {};
  try {
    const config: unknown = JSON.parse(text);
    if (typeof config === 'object' && config !== null && !Array.isArray(config))
      return config as DockerConfig;
  } catch {
    // The error below says so.
  }
  throw new CofaError('unsupported', `${path} is no JSON object`, { hint: 'correct it first' });
}
