/**
 * Images that judge cofa as a stranger's image would: one ecosystem each, built as recipes.ts's are, each with a command
 * that does what a start of such a container does and then ends.
 *
 * Half of them is *held out*: hints, sizes and limits of cofa may be chosen by looking at the others alone, and what is
 * reported of the held-out half then says how cofa does on images that it was not made for. An image never changes its
 * half; a new one takes the half that has fewer.
 */
import type { LayerStep, Recipe } from './recipes.ts';
import type { Sketch } from './sketch.ts';
import { HELD_OUT } from './strangers-held-out.ts';
import { SEEN } from './strangers-seen.ts';

export interface Stranger extends Recipe {
  /** Not to be looked at when something is tuned. */
  heldOut: boolean;
  /** What its start does, for the tables' readers. */
  does: string;
}

const WRITERS: ReadonlyArray<LayerStep['writer']> = ['pigz', 'gzip', 'pigz-independent'];

/** As Dockerfiles do it, in the layer that would have the packages otherwise. */
const TIDY = [
  'rm -rf /var/cache/apt/archives/*.deb /var/log/dpkg.log /var/log/apt/* /var/lib/apt/lists/*',
  'find /usr/share/doc -type f ! -name copyright -delete',
  'rm -rf /usr/share/man /usr/share/info',
].join('\n');

/** Waits until a server answers, a minute at most: `await COMMAND…`. */
const AWAIT = `#!/bin/sh
n=0
until "$@" >/dev/null 2>&1; do
  n=$((n + 1))
  [ $n -lt 600 ] || { echo "no answer: $*" >&2; exit 1; }
  sleep 0.1
done
`;

function stranger(sketch: Sketch, heldOut: boolean): Stranger {
  const { name, does, packages, wheels, command } = sketch;
  const steps: LayerStep[] = packages.map((list, at) => ({
    title: list.join(' '),
    packages: list,
    script: TIDY,
    writer: WRITERS[at % WRITERS.length] as LayerStep['writer'],
  }));
  if (wheels !== undefined) steps.push({ title: wheels.join(' '), wheels, writer: 'pigz' });
  steps.push({ title: 'application', script: applicationOf(sketch), writer: 'gzip' });
  return {
    name,
    heldOut,
    does,
    steps,
    config: {
      Cmd: command,
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'HOME=/tmp',
        'LANG=C.UTF-8',
        ...(sketch.env ?? []),
      ],
      WorkingDir: '/app',
      User: 'app',
    },
  };
}

function applicationOf({ files, setup }: Sketch): string {
  const lines = [
    "echo 'app:x:1000:1000:app:/app:/bin/sh' >> /etc/passwd",
    "echo 'app:x:1000:' >> /etc/group",
    'mkdir -p /app',
    ...(setup === undefined ? [] : [setup]),
  ];
  for (const [path, text] of Object.entries({ '/usr/local/bin/await': AWAIT, ...files }))
    lines.push(`mkdir -p "$(dirname ${path})"`, `cat > ${path} <<'END_OF_FILE'\n${text.trim()}\nEND_OF_FILE`);
  lines.push('chmod 755 /usr/local/bin/await', 'chown -R 1000:1000 /app');
  return lines.join('\n');
}

export const STRANGERS: readonly Stranger[] = [
  ...SEEN.map((sketch) => stranger(sketch, false)),
  ...HELD_OUT.map((sketch) => stranger(sketch, true)),
];
