/** What indexing an image costs beside decompressing it once: CPU time, wall time, peak memory, size of the sidecar. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { blobPath, type ImageLayout, layoutLayers } from '../images/layout.ts';
import { COFA } from './measure.ts';

export interface Cost {
  cpuS: number;
  wallS: number;
  peakBytes: number;
}

export interface IndexCost {
  gunzip: Cost;
  index: Cost;
  sidecarBytes: number;
}

export async function indexCost(reference: string, layout: ImageLayout): Promise<IndexCost> {
  const layers = await layoutLayers(layout);
  const gunzip: Cost = { cpuS: 0, wallS: 0, peakBytes: 0 };
  for (const { digest } of layers) {
    const { cost } = await costOf([
      'sh',
      '-c',
      `gzip -dc '${blobPath(layout.directory, digest)}' >/dev/null`,
    ]);
    gunzip.cpuS += cost.cpuS;
    gunzip.wallS += cost.wallS;
  }
  const { cost, stdout } = await costOf([COFA, '--json', 'index', '--force', reference]);
  const { sidecarBytes } = JSON.parse(stdout) as { sidecarBytes: number };
  return { gunzip, index: cost, sidecarBytes };
}

/** Runs a command with its children under python's resource module, which reports what wait4(2) says of them. */
export async function costOf(command: string[]): Promise<{ cost: Cost; stdout: string }> {
  const script = `
import json, os, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.call(sys.argv[1:])
u = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stdout.flush()
print(json.dumps({"code": code, "cpuS": u.ru_utime + u.ru_stime, "wallS": time.monotonic() - began, "peakBytes": u.ru_maxrss * 1024}), file=sys.stderr)
`;
  const { stdout, stderr } = await promisify(execFile)('python3', ['-c', script, ...command], {
    maxBuffer: 64 << 20,
  });
  const cost = JSON.parse(stderr.trim().split('\n').at(-1) ?? '{}') as Cost & { code: number };
  if (cost.code !== 0)
    throw new Error(`${command.join(' ')} ended with ${cost.code}: ${stderr.slice(-1000)}`);
  return { cost, stdout };
}
