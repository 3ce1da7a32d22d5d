/** The Debian package on a machine with systemd: the unit as the package installs it, in a Debian 13 whose first process is systemd. */
import { execFile } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { debianRoot } from '../../ops/images/roots.ts';
import { DEPENDS } from '../../ops/packages/deb.ts';
import { pushImage, twoLayers } from '../faults/fault-image.ts';
import { runCofa } from '../support/engine.ts';
import { keptRelease } from '../support/kept-release.ts';
import { startRegistry } from '../support/registry-server.ts';
import { canBoot, rootMachine } from '../support/root-machine.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

if (!canBoot) console.log('systemd.test.ts is skipped: this machine has no control groups of version 2');

test.runIf(canBoot)(
  'enabled, started, restarted under a mount, killed, reloaded, upgraded, stopped and purged',
  async (context) => {
    const packages = DEPENDS.map((one) => one.split(/ [|(]/)[0] as string).filter(
      (name) => name !== 'libssl3',
    );
    const more = ['libssl3t64', 'ca-certificates', 'systemd-sysv', 'dbus'];
    const root = await debianRoot('trixie', [...packages, ...more], { onProgress: console.log });
    if (root === undefined) return context.skip();
    const directory = await cleanup.tempDir('systemd');
    const { deb } = await keptRelease(console.log);
    const registry = await startRegistry();
    cleanup.defer(() => registry.stop());
    const image = await pushImage(directory, registry.host, 'app', twoLayers(8500));
    expect(await runCofa(['index', image.ref])).toMatchObject({ code: 0 });
    const { stdout: sums } = await promisify(execFile)('sh', [
      '-c',
      'cd "$1" && find . -type f | xargs sha256sum',
      'sh',
      image.expected.root,
    ]);
    const machine = await rootMachine(cleanup, [root]);
    copyFileSync(deb, join(machine.shared, basename(deb)));
    writeFileSync(join(machine.shared, 'sums'), sums);
    const call = await machine.boot();
    const { code, said } = await call(
      `
isActive() { systemctl is-active cofa; }
same() { (cd /srv/app && sha256sum --quiet --check /host/sums); }
systemctl disable --now nats-server
dpkg --install /host/${basename(deb)}
systemd-analyze verify --man=no /usr/lib/systemd/system/cofa.service
[ -z "$(grep '@[A-Z]*@' /usr/lib/systemd/system/cofa.service)" ]
systemctl is-enabled cofa
isActive
[ "$(systemctl show cofa -p Type --value)" = notify ]
printf 'trust = "registry"\\n' >> /etc/cofa/config.toml
systemctl restart cofa
mkdir -p /srv/app
cofa mount --no-prefetch ${image.ref} /srv/app
exec 3< /srv/app/app/noise
systemctl restart cofa
isActive
sha256sum <&3 | grep -q "$(sed -n 's/ .*app.noise//p' /host/sums)"
same
kill -9 "$(systemctl show cofa -p MainPID --value)"
restarts() { systemctl show cofa -p NRestarts --value; }
for _ in $(seq 60); do [ "$(restarts)-$(systemctl is-active cofa)" != 1-active ] || break; sleep 1; done
[ "$(restarts)" = 1 ]
isActive
same
systemctl reload cofa
same
pid=$(systemctl show cofa -p MainPID --value)
dpkg --install /host/${basename(deb)}
isActive
[ "$(systemctl show cofa -p MainPID --value)" != "$pid" ]
same
exec 3<&-
systemctl stop cofa
[ -z "$(findmnt -n /srv/app)" ]
[ -z "$(grep ' /var/lib/cofa/' /proc/self/mountinfo)" ]
journalctl -u cofa -o cat | grep -q '"msg":"ready"'
systemctl start cofa
dpkg --purge cofa
[ "$(systemctl is-active cofa)" = inactive ]
[ ! -e /etc/systemd/system/multi-user.target.wants/cofa.service ] && [ -z "$(ls /var/lib/cofa)" ]
echo all is well`,
      480_000,
    );
    expect(said).toMatch(/all is well\n$/);
    expect(code).toBe(0);
  },
  600_000,
);
