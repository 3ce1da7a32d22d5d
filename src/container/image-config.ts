/**
 * The part of an image's configuration that a container needs: OCI image-spec, config.md, "config" object; Docker's
 * schema-2 configuration has the same names. The bytes come from a registry, so this checks every field once.
 */
import { CofaError } from '../../schemas/errors.ts';

export interface ImageConfig {
  entrypoint: string[];
  cmd: string[];
  /** `NAME=value`, in the order of the image. */
  env: string[];
  /** `user[:group]`, names or numbers; empty: root. */
  user: string;
  /** Absolute; `/` where the image says nothing. */
  workingDir: string;
  /** Such as `SIGQUIT` or `3`; undefined where the image says nothing. */
  stopSignal: string | undefined;
}

/** Reads an image configuration. Errors: `integrity`, which names the field that breaks the specification. */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch (cause) {
    throw new CofaError('integrity', 'the image configuration is not JSON', { cause });
  }
  const outer = asObject(parsed, 'the image configuration');
  // Images that hold files only lack it; such an image can still run with a command.
  const config = outer.config === undefined || outer.config === null ? {} : asObject(outer.config, 'config');
  const workingDir = asText(config.WorkingDir, 'WorkingDir');
  return {
    entrypoint: asTexts(config.Entrypoint, 'Entrypoint'),
    cmd: asTexts(config.Cmd, 'Cmd'),
    env: asTexts(config.Env, 'Env').filter((entry) => entry.indexOf('=') > 0),
    user: asText(config.User, 'User'),
    // Hand-written images have Windows-style or relative folders; docker takes them from the root too.
    workingDir: workingDir.startsWith('/') ? workingDir : `/${workingDir}`,
    stopSignal: asText(config.StopSignal, 'StopSignal') || undefined,
  };
}

/** Entries and their total length; far above the limits of execve(2). */
const MAX_ENTRIES = 65_536;

function asObject(value: unknown, field: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(field, 'an object');
  return value as Record<string, unknown>;
}

function asText(value: unknown, field: string): string {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string' || value.includes('\0')) throw wrong(field, 'a string');
  return value;
}

function asTexts(value: unknown, field: string): string[] {
  if (value === undefined || value === null) return [];
  // Docker wrote a plain string for a command in its earliest versions.
  if (typeof value === 'string') return [asText(value, field)];
  if (!Array.isArray(value) || value.length > MAX_ENTRIES) throw wrong(field, 'a list of strings');
  return value.map((entry: unknown) => {
    if (typeof entry !== 'string' || entry.includes('\0')) throw wrong(field, 'a list of strings');
    return entry;
  });
}

function wrong(field: string, what: string): CofaError {
  return new CofaError('integrity', `the image configuration is broken: ${field} must be ${what}`);
}
