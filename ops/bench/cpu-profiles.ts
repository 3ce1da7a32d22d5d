/**
 * CPU profiles that V8 writes (`node --cpu-prof`), of several processes and one stretch of time. Their format: `Profiler.Profile` of
 * the Chrome DevTools Protocol; times are µs of the monotonic clock, which all processes share (v8/src/profiler/cpu-profiler.cc).
 */

export interface CpuProfile {
  nodes: Array<{
    id: number;
    callFrame: { functionName: string; url: string };
    children?: number[];
  }>;
  startTime: number;
  samples: number[];
  timeDeltas: number[];
}

/** A function with what it calls; its time is that of the samples in it or below. */
export interface Frame {
  name: string;
  us: number;
  children: Map<string, Frame>;
}

const emptyFrame = (name: string): Frame => ({ name, us: 0, children: new Map() });

/** V8's words for a thread that does nothing; and where a thread of FUSE waits for the kernel (src/fuse/kernel-thread.ts). */
const IDLE = ['(idle)', 'read'];
/** The root, and what stands for code without a function of JavaScript. */
const OUTER = ['(root)'];

/** What the thread did from `fromUs` to `toUs`, from the outermost function on; without the time in which it did nothing. */
export function foldProfile(
  { nodes, startTime, samples, timeDeltas }: CpuProfile,
  [fromUs, toUs]: readonly [number, number],
): Frame {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(
    nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)),
  );
  const stacks = new Map<number, string[]>();
  const stackOf = (id: number): string[] => {
    const known = stacks.get(id);
    if (known !== undefined) return known;
    const node = byId.get(id);
    const parent = parents.get(id);
    const own = node === undefined ? [] : [nameOf(node.callFrame)].filter((name) => !OUTER.includes(name));
    const stack = [...(parent === undefined ? [] : stackOf(parent)), ...own];
    stacks.set(id, stack);
    return stack;
  };
  const top = emptyFrame('');
  let at = startTime;
  for (const [index, id] of samples.entries()) {
    const since = at;
    at += timeDeltas[index] ?? 0;
    const us = Math.min(at, toUs) - Math.max(since, fromUs);
    const stack = stackOf(id);
    if (us <= 0 || IDLE.includes(stack.at(-1) ?? '')) continue;
    let frame = top;
    frame.us += us;
    for (const name of stack) {
      const next = frame.children.get(name) ?? emptyFrame(name);
      next.us += us;
      frame.children.set(name, next);
      frame = next;
    }
  }
  return top;
}

/** Time in the functions themselves, µs, the longest first. */
export function ownTimes(frames: readonly Frame[]): Array<[name: string, us: number]> {
  const times = new Map<string, number>();
  const visit = ({ name, us, children }: Frame) => {
    const below = [...children.values()];
    const own = us - below.reduce((sum, child) => sum + child.us, 0);
    if (own > 0 && name !== '') times.set(name, (times.get(name) ?? 0) + own);
    for (const child of below) visit(child);
  };
  for (const frame of frames) visit(frame);
  return [...times].toSorted(([, a], [, b]) => b - a);
}

/** Such as `openLayer  src/front-end/open-layers.ts`, `zlib  node:zlib`, `parse  zod`. */
function nameOf({ functionName, url }: CpuProfile['nodes'][number]['callFrame']): string {
  const name = functionName === '' ? '(anonymous)' : functionName;
  const [, source] = /\/((?:src|actors|schemas)\/.*)$/.exec(url) ?? [];
  const [, library] = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url) ?? [];
  const place = library ?? source ?? (url.startsWith('node:') ? url : '');
  return place === '' ? name : `${name}  ${place}`;
}
