/**
 * The real images that demo, tests and benchmarks use. All stand on one Debian base layer, as images in a
 * registry do; each leaves files behind in one layer and removes them in a later one, so that whiteouts
 * are the ones that a real build makes.
 */
import type { ImageConfig } from './layout.ts';

export interface LayerStep {
  /** For the image's history and the progress line. */
  title: string;
  /** Debian packages to install, without recommended ones. */
  packages?: string[];
  /** Shell script that runs in the image's root, after the packages. */
  script?: string;
  /** Who compresses it: they write gzip differently, and readers have to take them all. */
  writer: 'gzip' | 'pigz' | 'pigz-independent';
}

export interface Recipe {
  name: string;
  /** Above the shared base layer. */
  steps: LayerStep[];
  config: ImageConfig;
}

const CLEAN_UP = [
  'rm -f /var/cache/apt/archives/*.deb /var/log/dpkg.log /var/log/apt/*',
  'rm -rf /usr/share/man',
  // Removed and made anew: overlayfs marks the folder opaque.
  'rm -rf /usr/share/doc && mkdir /usr/share/doc',
].join('\n');

/** Starts whatever the command is; what a typical entry point does. */
const ENTRY = [
  "printf '%s\\n' '#!/bin/sh' 'exec \"$@\"' > /usr/local/bin/entry",
  'chmod 755 /usr/local/bin/entry',
].join('\n');

const USER =
  "echo 'app:x:1000:1000:app:/app:/bin/sh' >> /etc/passwd\necho 'app:x:1000:' >> /etc/group\nmkdir -p /app";

export const RECIPES: Recipe[] = [
  {
    name: 'demo',
    steps: [
      { title: 'python3', packages: ['python3'], writer: 'pigz' },
      { title: 'numpy and friends', packages: ['python3-numpy', 'python3-pip'], writer: 'pigz' },
      { title: 'clean up', script: CLEAN_UP, writer: 'gzip' },
      {
        title: 'application',
        script: `${USER}\n${ENTRY}
cat > /app/hello.py <<'END'
import numpy
a = numpy.arange(12).reshape(3, 4)
print("numpy", numpy.__version__, "says", int((a @ a.T).trace()), flush=True)
END
chown -R 1000:1000 /app`,
        writer: 'gzip',
      },
    ],
    config: {
      Entrypoint: ['/usr/local/bin/entry'],
      Cmd: ['python3', '/app/hello.py'],
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'OMP_NUM_THREADS=1',
        'GREETING=hello',
      ],
      WorkingDir: '/app',
      User: 'app',
    },
  },
  {
    name: 'node',
    steps: [
      { title: 'nodejs', packages: ['nodejs'], writer: 'pigz-independent' },
      { title: 'clean up', script: CLEAN_UP, writer: 'pigz' },
      {
        title: 'application',
        script: `${USER}\n${ENTRY}
echo 'console.log("node", process.version, "says", [1, 2, 3].map((x) => x * x).join(" "))' > /app/hello.js`,
        writer: 'gzip',
      },
    ],
    config: {
      Entrypoint: ['/usr/local/bin/entry', 'node'],
      Cmd: ['/app/hello.js'],
      Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
      WorkingDir: '/app',
      User: '1000:1000',
    },
  },
  {
    name: 'java',
    steps: [
      {
        title: 'openjdk-17-jre-headless',
        packages: ['openjdk-17-jre-headless'],
        script: 'rm -f /var/cache/apt/archives/*.deb',
        writer: 'gzip',
      },
      { title: 'clean up', script: CLEAN_UP, writer: 'pigz' },
      { title: 'application', script: `${USER}\n${ENTRY}`, writer: 'gzip' },
    ],
    config: {
      Entrypoint: ['/usr/local/bin/entry'],
      Cmd: ['java', '--version'],
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        'JAVA_TOOL_OPTIONS=-XX:+UseSerialGC',
      ],
      WorkingDir: '/app',
      User: 'app',
    },
  },
];
