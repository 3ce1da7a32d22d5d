/** The options of commands that talk to registries. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { defined } from '../../schemas/defined.ts';
import { CofaError } from '../../schemas/errors.ts';

export interface RegistryFlags {
  insecureRegistry?: string[];
  certsDir?: string[];
  dockerConfig?: string;
}

/** What the flags say to a registry client; absent: its defaults. */
export interface RegistryChoice {
  insecure?: string[];
  certDirs?: string[];
  dockerConfig?: string;
}

/** Beside the folders that are given. */
const DEFAULT_CERTS = '/etc/cofa/certs.d';

export function addRegistryOptions(command: Command): Command {
  return command
    .option(
      '--insecure-registry <host>',
      'HOST[:PORT] whose certificate is not checked, and that may speak plain HTTP; again for another',
      collect(host),
    )
    .option(
      '--certs-dir <dir>',
      "certificates in the layout of docker's certs.d, beside those of /etc; again for another",
      collect((path) => resolve(path)),
    )
    .option('--docker-config <path>', "docker's config.json, or its folder, for credentials", (path) =>
      resolve(path),
    );
}

export function registryChoice(flags: RegistryFlags): RegistryChoice {
  const { insecureRegistry, certsDir, dockerConfig } = flags;
  const certDirs = certsDir && [...certsDir, DEFAULT_CERTS];
  return defined({ insecure: insecureRegistry, certDirs, dockerConfig });
}

/** The flags as arguments again. */
export function registryArguments(flags: RegistryFlags): string[] {
  return [
    ...(flags.insecureRegistry ?? []).flatMap((one) => ['--insecure-registry', one]),
    ...(flags.certsDir ?? []).flatMap((one) => ['--certs-dir', one]),
    ...(flags.dockerConfig === undefined ? [] : ['--docker-config', flags.dockerConfig]),
  ];
}

function collect(parse: (text: string) => string): (text: string, before?: string[]) => string[] {
  return (text, before = []) => [...before, parse(text)];
}

function host(text: string): string {
  if (/^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?$/.test(text)) return text;
  throw new CofaError('invalid-argument', `--insecure-registry: ${JSON.stringify(text)} is not HOST[:PORT]`);
}
