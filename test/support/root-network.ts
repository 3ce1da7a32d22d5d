/** How a root (root-machine.ts) reaches others as this machine does: names of hosts, certificates of its own, proxies. */
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

/** What a command in it has of this machine's environment. npx puts its own folders beside, which are not the root's. */
const HANDED_ON =
  /^(?:npm_config_(?:registry|strict_ssl|noproxy|(?:https?_)?proxy)|(?:https?|no|all)_proxy)$/i;
const CERTIFICATES = '/usr/local/share/ca-certificates';

/** Puts names and certificates into the folder that the root sees as /host; `TAKE_NETWORK` takes them there. */
export function lendNetwork(shared: string): void {
  const ours = join(shared, 'machine');
  mkdirSync(join(ours, 'certificates'), { recursive: true });
  for (const name of ['resolv.conf', 'hosts'])
    cpSync(join('/etc', name), join(ours, name), { dereference: true });
  if (existsSync(CERTIFICATES)) cpSync(CERTIFICATES, join(ours, 'certificates'), { recursive: true });
}

/** Lines of shell inside; the root has the package ca-certificates. */
export const TAKE_NETWORK = `
rm -f /etc/resolv.conf
cp /host/machine/resolv.conf /host/machine/hosts /etc/
mkdir -p ${CERTIFICATES}
cp -r /host/machine/certificates/. ${CERTIFICATES}/
update-ca-certificates > /dev/null 2>&1
`;

/** Variables beside the root's own. */
export const networkEnvironment = (): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(process.env).filter(([name]) => HANDED_ON.test(name))),
  NODE_EXTRA_CA_CERTS: '/etc/ssl/certs/ca-certificates.crt',
});
