/** The options of commands that talk to registries. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';
import { CONTAINERD_HOSTS } from '../registry/hosts.ts';
import { addOptions } from './context.ts';

export interface RegistryFlags {
  insecureRegistry?: string[];
  certsDir?: string[];
  hostsDir?: string[];
  dockerConfig?: string;
}

/** What the flags say to a registry client; absent: its defaults. */
export interface RegistryChoice {
  insecure?: string[];
  certDirs?: string[];
  hostDirs?: string[];
  dockerConfig?: string;
}

/** Beside the folders that are given. */
const DEFAULT_CERTS = '/etc/cofa/certs.d';

export const REGISTRY_OPTIONS = [
  {
    flags: '--insecure-registry <host>',
    about: 'HOST[:PORT] whose certificate is not checked, and that may speak plain HTTP; again for another',
    parse: collect(host),
    kind: 'strings',
    sample: '["registry.example:5000"]',
  },
  {
    flags: '--certs-dir <dir>',
    about: "certificates in the layout of docker's certs.d, beside those of /etc; again for another",
    parse: collect((path) => resolve(path)),
    kind: 'paths',
    sample: '["/srv/certs.d"]',
  },
  {
    flags: '--hosts-dir <dir>',
    about: "mirrors in containerd's hosts.toml, before those of /etc/containerd/certs.d; again for another",
    parse: collect((path) => resolve(path)),
    kind: 'paths',
    sample: '["/srv/hosts"]',
  },
  {
    flags: '--docker-config <path>',
    about: "docker's config.json, or its folder, for credentials",
    parse: (path: string) => resolve(path),
    kind: 'path',
    sample: '"/root/.docker"',
  },
] as const;

export function addRegistryOptions(command: Command): Command {
  addOptions(command, REGISTRY_OPTIONS);
  return command;
}

export function registryChoice(flags: RegistryFlags): RegistryChoice {
  const { insecureRegistry, certsDir, hostsDir, dockerConfig } = flags;
  const certDirs = certsDir && [...certsDir, DEFAULT_CERTS];
  const hostDirs = hostsDir && [...hostsDir, CONTAINERD_HOSTS];
  return defined({ insecure: insecureRegistry, certDirs, hostDirs, dockerConfig });
}

function collect(parse: (text: string) => string): (text: string, before: unknown) => string[] {
  return (text, before) => [...(Array.isArray(before) ? (before as string[]) : []), parse(text)];
}

function host(text: string): string {
  if (/^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/.test(text)) return text;
  throw new CofaError('invalid-argument', `--insecure-registry: ${JSON.stringify(text)} is not HOST[:PORT]`);
}
