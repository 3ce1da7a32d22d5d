/** Where the kubelet of this machine has its images from, for `cofa doctor`. */
import { readdir, readFile } from 'node:fs/promises';
import { parseYaml } from '../registry/yaml.ts';

export interface Kubelet {
  /** The words that it was started with; none where it does not run. */
  args: readonly string[];
  /** Text of its configuration, where it has one. */
  config: string | undefined;
}

/** As kubeadm writes it. */
const CONFIG = '/var/lib/kubelet/config.yaml';

/** Undefined where none runs and none is configured. */
export async function findKubelet(proc = '/proc', defaultConfig = CONFIG): Promise<Kubelet | undefined> {
  const args = await runningKubelet(proc);
  const path = args === undefined ? defaultConfig : optionOf(args, 'config');
  const config = path === undefined ? undefined : await readFile(path, 'utf8').catch(() => undefined);
  return args === undefined && config === undefined ? undefined : { args: args ?? [], config };
}

/** The path of the socket; empty: the same as for containers. An option on its command line counts more than its configuration. */
export async function imageEndpointOf({ args, config }: Kubelet): Promise<string> {
  const given = optionOf(args, 'image-service-endpoint') ?? (await inConfig(config)) ?? '';
  return given.replace(/^unix:\/\//, '');
}

async function inConfig(config: string | undefined): Promise<string | undefined> {
  if (config === undefined) return undefined;
  try {
    const value = await parseYaml(config, 'the kubelet’s configuration');
    const endpoint = (value as Record<string, unknown> | null)?.imageServiceEndpoint;
    return typeof endpoint === 'string' ? endpoint : undefined;
  } catch {
    // The file may be broken elsewhere: the one line will do.
    return /^imageServiceEndpoint:\s*["']?([^\s"'#]+)/m.exec(config)?.[1];
  }
}

/** `--name=value` or `--name value`; the last one counts. */
function optionOf(args: readonly string[], name: string): string | undefined {
  const at = args.findLastIndex((arg) => arg === `--${name}` || arg.startsWith(`--${name}=`));
  const arg = args[at];
  if (arg === undefined) return undefined;
  return arg.includes('=') ? arg.slice(arg.indexOf('=') + 1) : args[at + 1];
}

async function runningKubelet(proc: string): Promise<string[] | undefined> {
  for (const pid of await readdir(proc).catch(() => [])) {
    if (!/^\d+$/.test(pid)) continue;
    const command = await readFile(`${proc}/${pid}/cmdline`, 'utf8').catch(() => '');
    const args = command.split('\0').filter((word) => word !== '');
    if (args[0]?.split('/').at(-1) === 'kubelet') return args;
  }
  return undefined;
}
