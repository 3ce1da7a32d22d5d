/** Whether the hosts.toml files of this machine can be used, as `cofa doctor` tells it. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { toErrorRecord } from '../../schemas/errors.ts';
import { CONTAINERD_HOSTS, readHosts } from '../registry/hosts.ts';
import type { Check } from './doctor-checks.ts';

/** `dir`: a folder in containerd's layout. */
export async function checkHosts(dir: string = CONTAINERD_HOSTS): Promise<Check> {
  const used: string[] = [];
  const broken: string[] = [];
  for (const name of (await readdir(dir).catch(() => [])).sort()) {
    const file = join(dir, name, 'hosts.toml');
    try {
      const { mirrors } = await readHosts(file, name);
      if (mirrors.length > 0) used.push(`${name} (${mirrors.map(({ origin }) => origin).join(', ')})`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue;
      broken.push(`${file}: ${toErrorRecord(error).message}`);
    }
  }
  const found = used.length === 0 ? `no mirrors in ${dir}` : `mirrors of ${used.join('; ')}`;
  const [first] = broken;
  if (first === undefined) return { name: 'mirrors', state: 'ok', found };
  return {
    name: 'mirrors',
    state: 'warn',
    found: first,
    means:
      'the file is passed over: its registry is asked without mirrors, and without what else the file says',
    fix: 'put it right; its format is that of containerd (docs/mirrors.md)',
  };
}
