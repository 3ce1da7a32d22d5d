/** The cgroup of a container of `cofa run`. */
import { sha256Hex } from './digest.ts';

/** Two roots may each have a container of the same name, so the root is part of it. */
export function cgroupOf(root: string, id: string): string {
  return `/cofa/${sha256Hex(root).slice(0, 8)}.${id}`;
}
