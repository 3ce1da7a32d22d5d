/** Control groups that tests make, of version 1 and 2. */
import { existsSync, readdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';

/** Folders of the machine's hierarchies. */
export function cgroupControllers(): string[] {
  const folder = '/sys/fs/cgroup';
  if (existsSync(join(folder, 'cgroup.controllers'))) return [folder];
  return readdirSync(folder)
    .map((name) => join(folder, name))
    .filter((one) => existsSync(join(one, 'cgroup.procs')));
}

/** Removes a group with those below it, of every hierarchy. Throws where a process is in it. */
export function removeCgroups(name: string): void {
  const remove = (folder: string) => {
    for (const entry of readdirSync(folder, { withFileTypes: true }))
      if (entry.isDirectory()) remove(join(folder, entry.name));
    rmdirSync(folder);
  };
  for (const controller of cgroupControllers())
    if (existsSync(join(controller, name))) remove(join(controller, name));
}
