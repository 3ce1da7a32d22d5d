/**
 * The real images that demo, tests and benchmarks use. All have one Debian base layer, as images in a registry do. Each
 * leaves files behind in one layer and removes them in a later one, so that it has the whiteouts of a real build.
 */
import type { ImageConfig } from './layout.ts';

export interface LayerStep {
  /** For the image's history and the progress line. */
  title: string;
  /** Debian packages to install, without recommended ones. */
  packages?: string[];
  /** Packages of PyPI, and what they need: as wheels for the image's own python3, which an earlier step installed. */
  wheels?: string[];
  /** Shell script that runs in the image's root, after the packages. */
  script?: string;
  /** Its compressor: they write gzip differently, and readers have to take them all. */
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

/** Starts any command, as a typical entry point does. */
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
  {
    name: 'postgres',
    steps: [
      {
        title: 'postgresql-15',
        packages: ['postgresql-15'],
        script: 'rm -f /var/cache/apt/archives/*.deb',
        writer: 'pigz',
      },
      { title: 'clean up', script: CLEAN_UP, writer: 'gzip' },
      {
        title: 'application',
        script: `${USER}\n${ENTRY}
cat > /app/once.sh <<'END'
#!/bin/sh -eu
PATH=/usr/lib/postgresql/15/bin:$PATH
export PGDATA=/tmp/data PGHOST=/tmp
# Not synced: what is measured is the arrival of the image, not the disk.
initdb --no-sync --auth=trust --username=app >/dev/null
pg_ctl -s -w -l /tmp/log -o "-k /tmp -c listen_addresses='' -c fsync=off" start
psql -U app -d postgres -Atc "SELECT 'postgres says ' || sum(n * n) FROM generate_series(1, 1000) AS n"
pg_ctl -s -w -m fast stop
END
chmod 755 /app/once.sh`,
        writer: 'gzip',
      },
    ],
    config: {
      Entrypoint: ['/usr/local/bin/entry'],
      Cmd: ['/app/once.sh'],
      Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'LANG=C.UTF-8'],
      WorkingDir: '/app',
      User: 'app',
    },
  },
  {
    name: 'tensorflow',
    steps: [
      { title: 'python3', packages: ['python3'], writer: 'pigz' },
      { title: 'tensorflow', wheels: ['tensorflow==2.19.1'], writer: 'pigz' },
      { title: 'clean up', script: CLEAN_UP, writer: 'gzip' },
      {
        title: 'application',
        script: `${USER}\n${ENTRY}
cat > /app/hello.py <<'END'
import tensorflow
print("tensorflow", tensorflow.__version__, "says", int(tensorflow.reduce_sum(tensorflow.range(10))), flush=True)
END`,
        writer: 'gzip',
      },
    ],
    config: {
      Entrypoint: ['/usr/local/bin/entry'],
      Cmd: ['python3', '/app/hello.py'],
      Env: [
        'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        // It says much about the processor otherwise.
        'TF_CPP_MIN_LOG_LEVEL=3',
        'HOME=/tmp',
      ],
      WorkingDir: '/app',
      User: 'app',
    },
  },
];
