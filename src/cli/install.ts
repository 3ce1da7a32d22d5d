/** `cofa install TARGET`: containerd, docker or Kubernetes on this machine find cofa. Restarts nothing. */
import { readFileSync } from 'node:fs';
import {
  chmod,
  chown,
  mkdtemp,
  open,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import {
  DEFAULT_PATHS,
  type FileChange,
  type Paths,
  type ReadFile,
  type Target,
  TARGETS,
} from '../install/plans.ts';
import { makeFolder } from '../kernel/make-folder.ts';
import { type Context, examples, oneOf } from './context.ts';
import { addMonitoringFlags, type MonitoringFlags } from './install-monitoring.ts';
import {
  addPodmanFlags,
  makeStore,
  podmanChanges,
  type PodmanFlags,
  STORAGE_TARGETS,
  type StorageTarget,
} from './install-podman.ts';

export interface InstallFlags extends MonitoringFlags, PodmanFlags {
  containerdConfig: string;
  daemonJson: string;
  /** False: none. */
  unit: string | boolean;
  dryRun?: boolean;
  daemonset?: boolean;
}

/** What `cofa install` can be asked for. */
export const ALL_TARGETS = [...TARGETS, ...STORAGE_TARGETS, 'monitoring'];

/** containerd's namespace of docker. */
export const DOCKERS = 'moby';
/** Those of docker, of ctr and nerdctl, of Kubernetes. */
export const NAMESPACES: readonly string[] = [DOCKERS, 'default', 'k8s.io'];

const CHECKOUT = fileURLToPath(new URL('../..', import.meta.url));

export function define(command: Command, context: Context): void {
  addFlags(command)
    .description(
      'Change the configuration of containerd, docker, podman, CRI-O or a Kubernetes node so that it starts images by cofa, and add a service for the engine; or that of Prometheus and Grafana, so that they show it. Only what is missing is written, and nothing is restarted: what is left to do is printed.',
    )
    .argument('<target>', 'containerd, docker, k8s, podman, crio or monitoring', oneOf('target', ALL_TARGETS))
    .option(
      '--daemonset',
      'k8s: the engine is a pod (ops/kubernetes), so there is no service, and that pod gets a runtime class of its own',
    )
    .option('--metrics-target <host:port>', 'monitoring: where Prometheus finds the engine', '127.0.0.1:9464')
    .action((target: string, options: InstallFlags) => install(target, options, context));
  examples(command, [
    ['cofa install containerd --dry-run', 'only show the lines'],
    ['cofa install docker', 'docker, with its containerd image store'],
    ['cofa install podman', 'and buildah'],
    ['cofa install crio', 'on each node; podman and buildah of the node find the images, too'],
    ['cofa install k8s', 'on each node'],
    ['cofa install k8s --daemonset', 'on each node, where the engine is a pod'],
    ['cofa install monitoring --dry-run', 'Prometheus scrapes the engine; alarms, and boards for Grafana'],
    ['cofa uninstall', 'takes all of it back'],
  ]);
}

/** The options that `cofa install` and `cofa uninstall` share. Returns the command. */
export function addFlags(command: Command): Command {
  return addPodmanFlags(addMonitoringFlags(command))
    .option('-n, --dry-run', 'write nothing, show what would be written')
    .option('--containerd-config <file>', 'containerd’s configuration', DEFAULT_PATHS.containerd)
    .option('--daemon-json <file>', 'dockerd’s configuration', DEFAULT_PATHS.docker)
    .addOption(new Option('--unit <file>', 'where the service is written').default(DEFAULT_PATHS.unit))
    .option('--no-unit', 'no service: the engine is started by something else');
}

async function install(target: string, flags: InstallFlags, context: Context): Promise<void> {
  if (target === 'monitoring') {
    const { monitoringChanges } = await import('./install-monitoring.ts');
    const { changes, next } = await monitoringChanges(flags, read);
    return await carryOut(changes, flags.dryRun === true, next, context);
  }
  const storage = STORAGE_TARGETS.find((one) => one === target);
  if (storage !== undefined) return await installPodman(storage, flags, context);
  const { planInstall } = await import('../install/plans.ts');
  const { daemonset = false } = flags;
  if (daemonset && target !== 'k8s')
    throw new CofaError('invalid-argument', '--daemonset is for Kubernetes: cofa install k8s --daemonset');
  if (daemonset) flags.unit = false;
  const { root } = context;
  const socket = join(root, 'run/snapshotter.sock');
  const unit = await unitText(root);
  const changes = planInstall({
    target: target as Target,
    paths: pathsOf(flags),
    read,
    root,
    socket,
    unit,
    daemonset,
    containerdMajor: await containerdMajor(),
    mapsIds: await mapsIds(root),
  });
  await checkByContainerd(changes, flags.containerdConfig);
  const next = nextSteps(changes, flags, target);
  const isDry = flags.dryRun === true;
  await carryOut(changes, isDry, next, context);
  if (!isDry && process.getuid?.() === 0) await showLayers(root, target);
}

/** An earlier `cofa uninstall` hid the layers that stay in the registry from containerd. */
async function showLayers(root: string, target: string): Promise<void> {
  const [{ showBlobs }, { Layout }] = await Promise.all([
    import('../store/hidden-blobs.ts'),
    import('../store/layout.ts'),
  ]);
  const shown = NAMESPACES.filter((namespace) => namespace !== DOCKERS || target === 'docker');
  await showBlobs(new Layout(root).hiddenBlobs(), shown);
}

async function installPodman(target: StorageTarget, flags: InstallFlags, context: Context): Promise<void> {
  const { root } = context;
  const changes = podmanChanges(target, flags, { read, root });
  const path = pathsOf(flags).unit;
  const before = path === undefined ? undefined : read(path);
  if (path !== undefined && before === undefined)
    changes.push({ path, before, after: (await unitText(root))(''), why: 'the engine runs as a service' });
  const dryRun = flags.dryRun === true;
  if (!dryRun && process.getuid?.() === 0) await makeStore(root);
  const next = [...nextSteps(changes, flags, target), 'cofa podman add IMAGE'];
  await carryOut(changes, dryRun, next, context);
}

/** Absolute paths; `unit` is undefined with `--no-unit`. */
export function pathsOf(flags: InstallFlags): Paths {
  return {
    containerd: resolve(flags.containerdConfig),
    docker: resolve(flags.daemonJson),
    unit: typeof flags.unit === 'string' ? resolve(flags.unit) : undefined,
  };
}

/** The text of a file; undefined where there is none. Throws what else the file system says. */
export const read: ReadFile = (path) => {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
};

/** Writes the changes, or shows them, and says what the user has to do then. */
export async function carryOut(
  changes: readonly FileChange[],
  dryRun: boolean,
  next: readonly string[],
  context: Context,
): Promise<void> {
  if (!dryRun && changes.length > 0 && process.getuid?.() !== 0) {
    throw new CofaError('environment', 'the files belong to root', { hint: 'sudo, or --dry-run to look' });
  }
  if (!dryRun) for (const change of changes) await writeChange(change);
  const steps = changes.length === 0 ? [] : next;
  const result = {
    changes: changes.map(({ path, before, after, why }) => ({
      path,
      action: before === undefined ? 'create' : after === undefined ? 'remove' : 'change',
      why,
    })),
    next: steps,
    dryRun,
  };
  context.output.data(result, () => {
    if (context.output.quiet) return '';
    if (changes.length === 0) return 'nothing to do: all is as it should be\n';
    const shown = changes.map((change) => (dryRun ? difference(change) : sentence(change))).join('');
    return `${shown}\n${dryRun ? 'then' : 'now'}:\n${steps.map((step) => `  ${step}\n`).join('')}`;
  });
}

const sentence = ({ path, after, why }: FileChange): string =>
  `${after === undefined ? 'removed' : 'wrote'} ${path}: ${why}\n`;

/** Lines that go and lines that come. */
function difference({ path, before, after, why }: FileChange): string {
  const [old, young] = [before, after].map((text) => (text ?? '').replace(/\n$/, '').split('\n'));
  const lines = [
    ...missingIn(young as string[], old as string[]).map((line) => `- ${line}`),
    ...missingIn(old as string[], young as string[]).map((line) => `+ ${line}`),
  ];
  const what = before === undefined ? 'new file' : after === undefined ? 'removed' : 'changed';
  return `${path} (${what}: ${why})\n${lines.map((line) => `  ${line}\n`).join('')}`;
}

function missingIn(lines: readonly string[], wanted: readonly string[]): string[] {
  const left = [...lines];
  return wanted.filter((line) => {
    const at = left.indexOf(line);
    if (at >= 0) left.splice(at, 1);
    return at < 0 && line !== '';
  });
}

/**
 * A reader sees the old file or the new one, never half of it, also after a power cut. Owner and mode stay, and where the path is a
 * link the file that it leads to is written.
 */
export async function writeChange({ path: name, after, like = name }: FileChange): Promise<void> {
  if (after === undefined) return await rm(name, { force: true });
  const path = await realpath(name).catch(() => name);
  await makeFolder(dirname(path));
  const draft = `${path}.cofa-new`;
  const before = await stat(like).catch(() => undefined);
  try {
    await rm(draft, { force: true });
    await writeFile(draft, after, { mode: 0o600, flag: 'wx' });
    if (before !== undefined) await chown(draft, before.uid, before.gid);
    await chmod(draft, (before?.mode ?? 0o644) & 0o7777);
    await syncFile(draft);
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r');
  await file.sync().finally(() => file.close());
}

/** The judge of its configuration is containerd itself, where it is here. */
async function checkByContainerd(changes: readonly FileChange[], config: string): Promise<void> {
  const text = changes.find(({ path }) => path === resolve(config))?.after;
  if (text === undefined) return;
  const { exec, findProgram } = await import('../container/exec.ts');
  const containerd = findProgram('containerd');
  if (containerd === undefined) return;
  const folder = await mkdtemp(join(tmpdir(), 'cofa-install-'));
  try {
    const draft = join(folder, 'config.toml');
    await writeFile(draft, text);
    const { code, stderr } = await exec(containerd, ['--config', draft, 'config', 'dump'], 30_000);
    if (code === 0) return;
    throw new CofaError('unsupported', `containerd would not take the changed ${config}: ${stderr.trim()}`, {
      hint: 'nothing was written; add the lines of docs/containerd.md by hand',
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Whether what lies below the root can be mounted with other ids; EROFS can wherever cofa runs. Only root can tell. */
async function mapsIds(root: string): Promise<boolean> {
  const [{ canMapIds }, { existingParent }] = await Promise.all([
    import('../kernel/id-mapped.ts'),
    import('./doctor-checks.ts'),
  ]);
  return canMapIds(await existingParent(root)).catch(() => false);
}

/** Undefined where there is no containerd, or it does not say. */
async function containerdMajor(): Promise<number | undefined> {
  const { exec, findProgram } = await import('../container/exec.ts');
  const containerd = findProgram('containerd');
  if (containerd === undefined) return undefined;
  const { stdout } = await exec(containerd, ['--version'], 10_000);
  const [, major] = /\bv?(\d+)\.\d+\.\d+/.exec(stdout) ?? [];
  return major === undefined ? undefined : Number(major);
}

/** The text of the service, by further options of `cofa up`. */
async function unitText(root: string): Promise<(options: string) => string> {
  const template = await readFile(join(CHECKOUT, 'ops/systemd/cofa.service'), 'utf8');
  const values: Record<string, string> = {
    COFA: unitWord(join(CHECKOUT, 'ops/cofa')),
    ROOT: unitWord(root),
    CHECKOUT: resolve(CHECKOUT),
  };
  const text = template.replace(/@([A-Z]+)@/g, (whole, name: string) => values[name] ?? whole);
  return (options) => text.replace(/^ExecStart=.*$/m, (line) => line + options);
}

/** As systemd reads a word of a command: `%` is doubled, and what has blanks is quoted. */
function unitWord(text: string): string {
  const escaped = text.replaceAll('%', '%%').replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return /[\s'"\\;$]/.test(escaped) ? `"${escaped.replaceAll('$', '$$$$')}"` : escaped;
}

function nextSteps(changes: readonly FileChange[], flags: InstallFlags, target: string): string[] {
  const changed = (path: string) => changes.some((change) => change.path === resolve(path));
  const steps: string[] = [];
  if (typeof flags.unit === 'string') {
    if (changed(flags.unit)) steps.push('systemctl daemon-reload', 'systemctl enable --now cofa');
  } else if (flags.daemonset === true) {
    steps.push('kubectl apply -f ops/kubernetes/cofa.yaml');
  } else {
    steps.push('cofa up --snapshotter');
  }
  if (changed(flags.containerdConfig)) steps.push('systemctl restart containerd    # containers go on');
  if (changed(flags.daemonJson)) {
    steps.push('systemctl restart docker        # images of its old store are not seen until cofa uninstall');
  }
  if (target === 'k8s')
    steps.push('systemctl restart kubelet       # where it does not find containerd again by itself');
  if (target === 'crio') steps.push('systemctl restart crio          # containers go on');
  return [...steps, 'cofa doctor'];
}
