/** What is tried in each virtual machine, in this order: later ones find what earlier ones have set up. */
import type { Status } from '../../../schemas/api.ts';
import { patient } from './machine.ts';
import { powerCuts } from './power-cuts.ts';
import { jsonOf, NotHere, type Trial } from './trial.ts';
import { AT, LIBRARY, UNPACK } from './world.ts';

export interface Scenario {
  name: string;
  title: string;
  /** Scenarios that it builds upon. */
  needs: readonly string[];
  /** Returns what is worth to be known, in a few words. Errors: `StepFailed`, `NotHere`. */
  run(trial: Trial): Promise<string>;
}

interface DoctorCheck {
  name: string;
  state: 'ok' | 'warn' | 'fail';
  found: string;
  means?: string;
  fix?: string;
}

/** Since this one EROFS has blocks of 512 bytes. */
export const OLDEST_KERNEL = 6004;
/** Since this one reads survive the process that serves them. */
const HANDOVER_KERNEL = 6009;

/** The pid of a container's first process, by containerd's and by docker's word. */
const CTR_PID = `pid_of() { ctr tasks ls | awk -v name="$1" '$1 == name { print $2 }'; }\n`;
/** The flat image below a container, as the kernel lists it, with the number of its mount. */
const FLAT = `flat_of() {
  flat=$(grep " /run/containerd/[^ ]*/$1/rootfs " /proc/self/mountinfo | grep -o '/var/lib/cofa/flats/[0-9a-f]*' | head -n 1)
  grep " $flat " /proc/self/mountinfo
}\n`;
const DOCKER_PID = `docker_pid() { docker inspect -f '{{.State.Pid}}' "$1"; }\n`;

/** Of the service, where qemu computes all that the machine does. */
const MORE_TIME = `mkdir -p /etc/systemd/system/cofa.service.d
printf '[Service]\\nTimeoutStartSec=900\\nWatchdogSec=600\\n' > /etc/systemd/system/cofa.service.d/slow.conf`;

async function install(trial: Trial): Promise<string> {
  await trial.step('the files of the release are there', () => trial.machine.sh(UNPACK));
  if (patient(1) > 1) await trial.step('a slow machine has more time', () => trial.machine.sh(MORE_TIME));
  await trial.sh('dpkg --install', `dpkg --install ${AT}/cofa.deb\ndpkg --verify cofa`, 180_000);
  await trial.sh(
    'the unit is active, and enabled',
    'systemctl is-active cofa && systemctl is-enabled cofa && [ "$(systemctl show cofa -p Type --value)" = notify ]',
  );
  await trial.sh(
    'the operator’s settings',
    `printf 'insecure-registry = ["%s", "%s"]\\n' ${trial.world.registry} ${trial.world.slow} >> /etc/cofa/config.toml
cofa trust add ${AT}/release.pub
cofa config check
systemctl restart cofa`,
    120_000,
  );
  const checks = await trial.step('cofa doctor', async () => {
    const { said } = await trial.machine.tried('cofa doctor --json', 120_000);
    return jsonOf<{ checks: DoctorCheck[] }>(said).checks;
  });
  const failed = checks.filter(({ state }) => state === 'fail');
  if (trial.kernel < OLDEST_KERNEL) return await refused(trial, failed);
  await trial.step('cofa doctor finds no fault', async () => {
    const faults = failed.map(({ name, found }) => `${name}: ${found}`);
    if (faults.length > 0) throw new Error(faults.join('; '));
  });
  const warned = checks.filter(({ state }) => state === 'warn').map(({ name }) => name);
  return warned.length === 0 ? '' : `doctor warns of: ${warned.join(', ')}`;
}

/** A kernel that is too old: the doctor says so and what to do, and so does the first mount. */
async function refused(trial: Trial, failed: readonly DoctorCheck[]): Promise<string> {
  await trial.step('cofa doctor names the kernel, and where to get another one', async () => {
    const kernel = failed.find(({ name }) => name === 'kernel');
    if (kernel?.fix?.includes('linux-image-amd64') !== true) throw new Error(JSON.stringify(failed));
  });
  await trial.step('cofa mount refuses with a hint', async () => {
    const { code, said } = await trial.machine.tried(
      `mkdir -p /srv/app && cofa mount ${trial.ref()} /srv/app`,
    );
    if (code !== 6 || !/Linux 6\.4/.test(said)) throw new Error(`exit code ${code}: ${said}`);
  });
  return `too old: refused by the doctor and by the mount`;
}

async function lazy(trial: Trial): Promise<string> {
  await trial.sh(
    'cofa mount over a slow link',
    `mkdir -p /srv/app && cofa mount --no-prefetch ${trial.ref(0, 'slow')} /srv/app`,
  );
  const status = await trial.step('it is mounted before it has come', async () => {
    const now = jsonOf<Status>(await trial.machine.sh('cofa status --json'));
    const [image] = now.images;
    if (image?.origin !== 'sidecar') throw new Error(`prepared by ${image?.origin ?? 'nothing'}`);
    if (image.bytes.present >= image.bytes.total) throw new Error('all of it is there');
    return image;
  });
  await trial.sh('all names and bytes are right', 'same /srv/app app-0', 120_000);
  await trial.sh('cofa unmount', 'cofa unmount /srv/app');
  return `${Math.round((100 * status.bytes.present) / status.bytes.total)} % there when mounted`;
}

/** Does what `cofa install` says that is left to do. */
async function installInto(trial: Trial, target: string): Promise<void> {
  const said = await trial.sh(`cofa install ${target}`, `cofa install ${target} --json`);
  const { next } = jsonOf<{ next: string[] }>(said);
  for (const line of next) if (line !== 'cofa doctor') await trial.sh(line, line, 120_000);
}

async function containerd(trial: Trial): Promise<string> {
  await installInto(trial, 'containerd');
  await trial.until(
    'containerd knows the snapshotter',
    "ctr plugins ls | grep -q '[[:space:]]cofa[[:space:]].*ok'",
  );
  const ref = trial.ref(0, 'slow');
  await trial.sh('cofa pull', `cofa pull --insecure-registry ${trial.world.slow} ${ref}`);
  await trial.sh('containerd has no layer', `[ -z "$(ctr content ls -q | grep -F -f ${AT}/app-0.layers)" ]`);
  await trial.sh('ctr run', `ctr run --detach --snapshotter cofa ${ref} first sleep infinity`);
  await trial.sh(
    'all bytes are right below the container',
    `${CTR_PID}sums /proc/$(pid_of first)/root app-0`,
    120_000,
  );
  await trial.sh(
    'ctr rm',
    `ctr task kill --signal KILL first && for _ in $(seq 20); do ! ctr task rm first || break; sleep 0.5; done
ctr container rm first`,
  );
  const version = await trial.sh('its version', "containerd --version | awk '{ print $3 }'");
  return `containerd ${version.trim().replace(/^v/, '')}`;
}

async function docker(trial: Trial): Promise<string> {
  const version = (await trial.sh('its version', "docker version -f '{{.Server.Version}}'")).trim();
  // Debian 12's has a store of its own, for which the image is a standard one.
  if (Number.parseInt(version, 10) < 26) throw new NotHere(`docker ${version} has a store of its own`);
  await trial.sh(
    'docker’s settings',
    `mkdir -p /etc/docker && echo '{ "insecure-registries": ["${trial.world.registry}", "${trial.world.slow}"] }' > /etc/docker/daemon.json`,
  );
  await installInto(trial, 'docker');
  await trial.sh(
    'docker run',
    `docker run --detach --restart always --name keeper ${trial.ref(1, 'slow')} sh -c 'while :; do sleep 1; done'`,
  );
  await trial.sh(
    'docker has no layer as a file',
    `cd /var/lib/containerd/io.containerd.content.v1.content/blobs/sha256
for one in $(sed s/sha256:// ${AT}/app-1.layers); do [ -L $one ] || [ ! -e $one ]; done`,
  );
  await trial.sh(
    'all bytes are right below the container',
    `${DOCKER_PID}sums /proc/$(docker_pid keeper)/root app-1`,
    120_000,
  );
  return `docker ${version}`;
}

/** mount(2) by number, since the image has no mount(8): EACCES is AppArmor's answer to one that may do so otherwise. */
const TRY_MOUNT = `perl -e '$r = syscall(165, "none", "/tmp", "tmpfs", 0, 0); exit($r == 0 ? 99 : $! + 0)'`;

async function appArmor(trial: Trial): Promise<string> {
  await trial.sh('the kernel enforces', 'grep -qx Y /sys/module/apparmor/parameters/enabled');
  await trial.sh(
    'docker’s profile confines the container',
    '[ "$(docker exec keeper cat /proc/self/attr/current)" = "docker-default (enforce)" ]',
  );
  const options = '--rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined';
  await trial.sh(
    'it denies what it is to deny, on a lazy image',
    `code=0; docker run ${options} ${trial.ref(0, 'slow')} ${TRY_MOUNT} || code=$?; [ $code = 13 ]`,
  );
  await trial.sh(
    'and without it the same is allowed',
    `code=0; docker run ${options} --security-opt apparmor=unconfined ${trial.ref(0, 'slow')} ${TRY_MOUNT} || code=$?; [ $code = 99 ]`,
  );
  await trial.sh('cofa run, too', `[ "$(cofa run ${trial.ref()} cat /data/deep/file)" = deep ]`);
  const denied = await trial.sh(
    'nothing else was denied',
    `journalctl -k --no-pager | grep 'apparmor="DENIED"' | grep -v 'profile="docker-default" name="/tmp/"' || true`,
  );
  return denied.trim() === '' ? '' : `denied besides: ${denied.trim().split('\n').at(-1)}`;
}

const APP_UNIT = (ref: string): string => `[Unit]
After=cofa.service
Requires=cofa.service
[Service]
ExecStart=/usr/bin/cofa run ${ref} sh -c "while :; do sleep 1; done"
Restart=always
[Install]
WantedBy=multi-user.target
`;

async function reboot(trial: Trial): Promise<string> {
  const hasDocker = trial.passed.has('docker');
  await trial.sh(
    'a mount, of which a part has come, and a service with cofa run',
    `mkdir -p /srv/app && cofa mount --no-prefetch ${trial.ref(0, 'slow')} /srv/app
sha256sum /srv/app/data/noise-1
cat > /etc/systemd/system/app.service <<'END'
${APP_UNIT(trial.ref(1))}END
systemctl daemon-reload && systemctl enable --now app`,
  );
  await trial.until('it runs', 'cofa ps --json | grep -q \'"state": *"running"\'');
  const before = performance.now();
  await trial.step('systemctl reboot', () => trial.machine.reboot());
  const seconds = ((performance.now() - before) / 1000).toFixed(0);
  await trial.until('the engine is back', 'systemctl is-active cofa');
  await trial.until('the mount is back', 'findmnt -n /srv/app');
  await trial.sh('all names and bytes are right', 'same /srv/app app-0', 120_000);
  await trial.until('cofa run is back', 'cofa ps --json | grep -q \'"state": *"running"\'');
  if (hasDocker) {
    await trial.until(
      'docker’s container is back',
      `[ "$(docker inspect -f '{{.State.Running}}' keeper)" = true ]`,
    );
    await trial.sh(
      'all bytes are right below it',
      `${DOCKER_PID}sums /proc/$(docker_pid keeper)/root app-1`,
      120_000,
    );
  }
  await trial.sh(
    'no unit has failed',
    '[ -z "$(systemctl --failed --plain --no-legend)" ] || { systemctl --failed; exit 1; }',
  );
  await trial.until('nothing is degraded', '! cofa status | grep -w degraded', 90_000);
  await trial.sh('the service and the mount go', 'systemctl disable --now app && cofa unmount /srv/app');
  return `back after ${seconds} s`;
}

async function upgrade(trial: Trial): Promise<string> {
  const ref = trial.ref(2, 'slow');
  await trial.sh(
    'a container that reads all the time, and readers of it on the node',
    `cofa pull --insecure-registry ${trial.world.slow} ${ref}
ctr run --detach --snapshotter cofa --log-uri file:///tmp/inside ${ref} reader sh -c \\
  'while :; do if cat /data/noise-? /data/prose > /dev/null; then echo whole; else echo failed; fi; sleep 0.3; done'
rm -f /tmp/enough /tmp/outside
cat > /tmp/read-on <<'END'
${LIBRARY}
until [ -e /tmp/enough ]; do
  if sums "/proc/$1/root" app-2; then echo whole; else echo failed; fi >> /tmp/outside
  cofa --quiet prune --all > /tmp/prune 2>&1 || true
done
END
${CTR_PID}
systemd-run --quiet --unit read-on bash /tmp/read-on "$(pid_of reader)"
systemctl show cofa -p MainPID --value > /tmp/pid-before
${FLAT}flat_of reader > /tmp/flat-before`,
  );
  await trial.until('they read', '[ "$(wc -l < /tmp/outside)" -ge 1 ]', 120_000);
  const said = await trial.sh('dpkg --install again', `dpkg --install ${AT}/cofa.deb`, 240_000);
  const moves = trial.kernel >= HANDOVER_KERNEL;
  await trial.sh(
    moves ? 'another engine runs' : 'the old engine runs on, and the package says so',
    moves
      ? '[ "$(systemctl show cofa -p MainPID --value)" != "$(cat /tmp/pid-before)" ] && systemctl is-active cofa'
      : '[ "$(systemctl show cofa -p MainPID --value)" = "$(cat /tmp/pid-before)" ] && systemctl is-active cofa',
  );
  if (!moves && !said.includes('the engine of the version before goes on'))
    await trial.step('the package says so', () => Promise.reject(new Error(said)));
  await trial.until(
    'they have read on',
    'n=$(wc -l < /tmp/outside); sleep 20; [ "$(wc -l < /tmp/outside)" -gt $((n + 1)) ]',
    180_000,
  );
  const passes = await trial.sh(
    'no read has failed',
    `touch /tmp/enough
[ "$(cat /tmp/outside /tmp/inside | sort -u)" = whole ]
${FLAT}[ -s /tmp/flat-before ] && flat_of reader | cmp - /tmp/flat-before
cat /tmp/outside /tmp/inside | wc -l`,
  );
  await trial.sh(
    'the container ends',
    `for _ in $(seq 60); do systemctl is-active -q read-on || break; sleep 1; done
ctr task kill --signal KILL reader && for _ in $(seq 20); do ! ctr task rm reader || break; sleep 0.5; done
ctr container rm reader`,
    120_000,
  );
  return `${passes.trim()} passes, 0 failed${moves ? '' : '; before Linux 6.9 the old engine goes on'}`;
}

export const SCENARIOS: readonly Scenario[] = [
  { name: 'install', title: 'the package, cofa doctor, the service', needs: [], run: install },
  { name: 'lazy', title: 'a lazy mount, all bytes', needs: ['install'], run: lazy },
  { name: 'containerd', title: 'cofa install containerd, ctr run', needs: ['lazy'], run: containerd },
  { name: 'docker', title: 'cofa install docker, docker run', needs: ['containerd'], run: docker },
  { name: 'apparmor', title: 'AppArmor enforces, on a lazy image', needs: ['docker'], run: appArmor },
  { name: 'reboot', title: 'a reboot with mounts and containers', needs: ['containerd'], run: reboot },
  { name: 'upgrade', title: 'the package again, under readers', needs: ['containerd'], run: upgrade },
  {
    name: 'power',
    title: 'power cuts while images are fetched and written',
    needs: ['containerd'],
    run: powerCuts,
  },
];
