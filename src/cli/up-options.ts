/**
 * The options of `cofa up`, declared once: for the command line, for the engine that goes to the background, and for the file of
 * settings (config-file.ts), whose keys are the options' names.
 */
import { resolve } from 'node:path';
import { Option } from 'commander';
import { CofaError } from '../../schemas/errors.ts';
import { PREPARE_POLICIES, type PreparePolicy } from '../../schemas/prepare.ts';
import { DEFAULT_TRUST, type TrustPolicy } from '../../schemas/trust.ts';
import { DEFAULT_KEYS } from '../signature/key-directory.ts';
import { byteOption } from './byte-option.ts';
import { numberOption, type OptionWords, oneOf } from './context.ts';
import { INCIDENT_OPTIONS, type IncidentFlags } from './incident-options.ts';
import { FLEET_OPTIONS, type FleetFlags } from './fleet-options.ts';
import { METRICS_OPTIONS, type MetricsFlags } from './metrics-options.ts';
import type { NatsOptions } from './nats-options.ts';
import { REGISTRY_OPTIONS, type RegistryFlags } from './registry-options.ts';
import { TRACES_OPTIONS } from './traces-options.ts';
import type { TracesFlags } from '../traces/settings.ts';
import { TRUST_HELP, trustOption } from './trust-option.ts';

export interface UpOptions
  extends RegistryFlags,
    NatsOptions,
    MetricsFlags,
    TracesFlags,
    FleetFlags,
    IncidentFlags {
  foreground?: boolean;
  takeOver?: boolean;
  /** False: none. */
  config?: string | boolean;
  workers?: number;
  transport: 'kernel' | 'fuse-native';
  readDeadline: number;
  hangDeadline: number;
  logLimit?: number;
  node?: string;
  logLevel: string;
  /** False: none; true: at its default path. */
  snapshotter?: string | boolean;
  imageService?: string | boolean;
  prepare: PreparePolicy;
  /** Names with commas, or `none`. */
  lazyBlobs: string;
  containerd: string;
  imageCredentialProviderConfig?: string;
  imageCredentialProviderBinDir?: string;
  cacheLimit?: number;
  keepFree: number;
  trust: TrustPolicy;
  keys: string;
  rehearsal: boolean;
  defer: boolean;
  wait: number;
}

/** What a key of the file of settings may be: `socket` is true, false or a path, `size` a number of bytes or a string. */
export type ValueKind = 'string' | 'path' | 'paths' | 'strings' | 'number' | 'size' | 'boolean' | 'socket';

export interface UpOption extends OptionWords {
  /** Its value in the file of settings. Without it the option is about one call, and the file may not have it. */
  kind?: ValueKind;
  /** A value as TOML, for an option that has no fallback. */
  sample?: string;
}

/** Where containerd runs on this machine; then the snapshotter is on without being asked for. */
export const CONTAINERD_SOCKET = '/run/containerd/containerd.sock';
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'];
export const LOG_LEVEL_OPTION = {
  flags: '--log-level <level>',
  about: LOG_LEVELS.join(', '),
  parse: oneOf('--log-level', LOG_LEVELS),
  fallback: 'info',
  kind: 'string',
} as const;
const TRANSPORTS = ['kernel', 'fuse-native'];
const SECONDS = { max: 3600, integer: false };

const path = (text: string): string => resolve(text);

export const UP_OPTIONS: readonly UpOption[] = [
  ...REGISTRY_OPTIONS,
  {
    flags: '--nats <url>',
    about:
      'use this NATS (with JetStream), not a private one; URLs of a cluster: with commas (or: $COFA_NATS)',
    kind: 'string',
    sample: '"tls://nats.example:4222"',
  },
  {
    flags: '--nats-users <file>',
    about: 'users of this node on that NATS, one for each role: cofa nats-config makes it',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/nats-users.json"',
  },
  {
    flags: '--nats-ca <file>',
    about: 'authority that has signed the certificate of that NATS',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/nats-ca.pem"',
  },
  {
    flags: '--api-users <file>',
    about: 'users of the API who may do what this file says, and no more',
    parse: path,
    kind: 'path',
    sample: '"/etc/cofa/api-users.json"',
  },
  { flags: '--foreground', about: 'stay, and log to the terminal' },
  {
    flags: '--take-over',
    about: 'with --foreground: take the place of an engine that runs with this root; no read fails',
  },
  {
    flags: '--config <file>',
    about: 'settings; options win over them (default: $COFA_CONFIG, else /etc/cofa/config.toml)',
    parse: path,
  },
  { flags: '--no-config', about: 'no file of settings' },
  {
    flags: '--workers <n>',
    about: 'fetcher processes (default: one a core)',
    parse: numberOption('--workers', { min: 1, max: 256, integer: true }),
    kind: 'number',
    sample: '4',
  },
  {
    flags: '--transport <name>',
    about: 'how reads reach the engine: kernel or fuse-native',
    parse: oneOf('--transport', TRANSPORTS),
    fallback: 'kernel',
    kind: 'string',
  },
  {
    flags: '--read-deadline <s>',
    about: 'a read that waits longer fails with EIO',
    parse: numberOption('--read-deadline', { min: 0.1, ...SECONDS }),
    fallback: 30,
    kind: 'number',
  },
  {
    flags: '--hang-deadline <s>',
    about: 'a process of the engine that does not answer for so long is started again',
    parse: numberOption('--hang-deadline', { min: 1, ...SECONDS }),
    fallback: 10,
    kind: 'number',
  },
  {
    flags: '--log-limit <size>',
    about: 'event log that is kept, about, such as 64M or 1G (default: 256MiB)',
    parse: logSize,
    kind: 'size',
    sample: '"256MiB"',
  },
  {
    flags: '--cache-limit <size>',
    about:
      'layers may take so much of the disk, such as 20G (default: what the disk has, less 5 %, at most 2 GiB)',
    parse: byteOption('--cache-limit'),
    kind: 'size',
    sample: '"20G"',
  },
  {
    flags: '--keep-free <percent>',
    about:
      'of the disk: with less free, images that nothing runs from leave it, and nothing is fetched ahead',
    parse: numberOption('--keep-free', { min: 0, max: 90, integer: false }),
    fallback: 0,
    kind: 'number',
  },
  {
    flags: '--node <name>',
    about: 'name of this node on NATS (default: the hostname)',
    parse: nodeName,
    kind: 'string',
    sample: '"node-1"',
  },
  LOG_LEVEL_OPTION,
  {
    flags: '--snapshotter [socket]',
    about: 'serve containerd at this socket (default: ROOT/run/snapshotter.sock, where containerd runs)',
    kind: 'socket',
    sample: 'true',
  },
  { flags: '--no-snapshotter', about: 'do not serve containerd' },
  {
    flags: '--prepare <who>',
    about:
      'who prepares an image without a sidecar that containerd pulls: containerd, by unpacking it, or this node (local)',
    parse: oneOf('--prepare', PREPARE_POLICIES),
    fallback: 'containerd',
    kind: 'string',
  },
  {
    flags: '--image-service [socket]',
    about:
      'serve a kubelet as its image service, to learn the credentials of its pulls (default: ROOT/run/image-service.sock)',
    kind: 'socket',
    sample: 'true',
  },
  {
    flags: '--containerd <socket>',
    about: 'whose image service that is, and whose content (--lazy-blobs)',
    parse: path,
    fallback: CONTAINERD_SOCKET,
    kind: 'path',
  },
  {
    flags: '--lazy-blobs <namespaces>',
    about:
      "containerd's namespaces, with commas, whose clients find layers that stay in the registry in its content store, as docker images, save and push want: moby is docker's, default that of ctr and nerdctl; or none",
    parse: lazyBlobsOption,
    fallback: 'moby',
    kind: 'string',
  },
  {
    flags: '--image-credential-provider-config <file>',
    about: "the kubelet's configuration of credential providers, which cofa is to run, too",
    parse: path,
    kind: 'path',
    sample: '"/etc/kubernetes/credential-providers.yaml"',
  },
  {
    flags: '--image-credential-provider-bin-dir <dir>',
    about: 'where these programs are',
    parse: path,
    kind: 'path',
    sample: '"/usr/libexec/kubernetes/credential-providers"',
  },
  ...FLEET_OPTIONS,
  ...METRICS_OPTIONS,
  ...TRACES_OPTIONS,
  ...INCIDENT_OPTIONS,
  {
    flags: '--trust <policy>',
    about: TRUST_HELP,
    parse: trustOption,
    fallback: DEFAULT_TRUST,
    kind: 'string',
  },
  {
    flags: '--keys <dir>',
    about: 'keys that may vouch for sidecars: cofa trust',
    parse: path,
    fallback: DEFAULT_KEYS,
    kind: 'path',
  },
  // Said where a file of settings says the contrary.
  { flags: '--rehearsal', about: '', fallback: true, hidden: true },
  {
    flags: '--no-rehearsal',
    about:
      'leave idle processors and memory alone: the first starts are slower, and those of unprepared images',
    kind: 'boolean',
    sample: 'true',
  },
  { flags: '--defer', about: '', fallback: true, hidden: true },
  {
    flags: '--no-defer',
    about:
      'do what no reader waits for at once, as urgently as all else: the rest of images, hashing, scrubs',
    kind: 'boolean',
    sample: 'true',
  },
  {
    flags: '--wait <s>',
    about: 'wait so long for the engine',
    parse: numberOption('--wait', { min: 1, ...SECONDS }),
    fallback: 60,
    kind: 'number',
  },
];

/** The option's name without dashes, which is its key in a file of settings: `no-defer` is `defer`. */
export const keyOf = ({ flags }: OptionWords): string => /--(?:no-)?([\w-]+)/.exec(flags)?.[1] ?? '';

/** Where commander keeps what the option says. */
export const attributeOf = ({ flags }: OptionWords): string => new Option(flags).attributeName();

/** What the options say, as arguments of another `cofa up`: of the engine in the background. It reads no file of settings. */
export function upArguments(options: UpOptions): string[] {
  const said = new Map<string, unknown>(Object.entries(options));
  const args = ['--no-config'];
  for (const words of UP_OPTIONS.filter(({ kind }) => kind !== undefined)) {
    const [key, value] = [keyOf(words), said.get(attributeOf(words))];
    // In the environment: a command line can be read by every user.
    if (value === undefined || key === 'nats' || key === 'wait') continue;
    if (typeof value === 'boolean') {
      if (value || UP_OPTIONS.some(({ flags }) => flags === `--no-${key}`))
        args.push(value ? `--${key}` : `--no-${key}`);
    } else for (const one of Array.isArray(value) ? value : [value]) args.push(`--${key}=${String(one)}`);
  }
  return args;
}

const anyLogSize = byteOption('--log-limit');

/** Bytes, as of other options; the log needs a megabyte at least. */
function logSize(text: string): number {
  const bytes = anyLogSize(text);
  if (bytes >= 1e6 && bytes <= 2 ** 40) return bytes;
  throw new CofaError(
    'invalid-argument',
    `--log-limit: ${JSON.stringify(text)} is not a size from 1M to 1TiB`,
    { hint: 'such as 256M, 1G or 256MiB' },
  );
}

/** One token of a NATS subject. Error: `invalid-argument`. */
export function nodeName(text: string): string {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(text)) {
    throw new CofaError('invalid-argument', `--node: ${JSON.stringify(text)} is not allowed`, {
      hint: 'letters, digits, _ and -, at most 64',
    });
  }
  return text;
}

/** The name of a node where none was chosen: that of its machine. Error: `invalid-argument`. */
export const ownNode = (host: string): string => nodeName(host.replace(/[^A-Za-z0-9_-]+/g, '-'));

/** containerd's pkg/identifiers. */
const NAMESPACE = /^(?=.{1,76}$)[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;

function lazyBlobsOption(text: string): string {
  const names = [...new Set(text.split(','))];
  const wrong = names.find((name) => !NAMESPACE.test(name));
  if (wrong === undefined) return names.join(',');
  throw new CofaError(
    'invalid-argument',
    `--lazy-blobs: ${JSON.stringify(wrong)} is no namespace of containerd`,
    { hint: 'docker has moby, ctr and nerdctl default: --lazy-blobs moby,default' },
  );
}
