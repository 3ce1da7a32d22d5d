/** The image of the DaemonSet in a registry, as ops/release builds it, or ops/kubernetes/Dockerfile. */
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RELEASE } from '../../ops/images/apt.ts';
import { pushLayout } from '../../ops/images/layout.ts';
import { debianRoot } from '../../ops/images/roots.ts';
import { keptRelease } from '../support/kept-release.ts';
import { startPodman } from '../support/podman.ts';
import { runCommand } from '../support/services.ts';
import type { Cleanup } from '../support/temp.ts';

const CHECKOUT = join(import.meta.dirname, '../..');
const DOCKERFILE = join(CHECKOUT, 'ops/kubernetes/Dockerfile');
/** What the Dockerfile begins with. */
const BASE = 'docker.io/library/debian:12';
const BUILD_MS = 900_000;

/**
 * Pushes that of the release as `cofa:1`, and once more as `cofa:2`. With COFA_ENGINE_IMAGE=dockerfile the Dockerfile's is
 * `cofa:1`: that takes minutes and Debian's and npm's packages each time.
 */
export async function pushEngineImages(work: string, host: string, cleanup: Cleanup): Promise<void> {
  const byDockerfile = process.env.COFA_ENGINE_IMAGE === 'dockerfile';
  await pushReleased(work, host, byDockerfile ? ['2'] : ['1', '2']);
  if (byDockerfile) await buildByDockerfile(work, `${host}/cofa:1`, cleanup);
}

async function pushReleased(work: string, host: string, tags: readonly string[]): Promise<void> {
  const { oci } = await keptRelease(() => {});
  const directory = join(work, 'engine');
  await mkdir(directory);
  await runCommand('tar', ['-C', directory, '-xf', oci]);
  const index = JSON.parse(await readFile(join(directory, 'index.json'), 'utf8')) as {
    manifests: [{ mediaType: string; digest: string; size: number }];
  };
  for (const tag of tags) await pushLayout({ directory, manifest: index.manifests[0] }, host, 'cofa', tag);
}

/** podman builds and pushes it. Its Debian is mmdebstrap's; npm's settings and certificates are this machine's. */
async function buildByDockerfile(work: string, ref: string, cleanup: Cleanup): Promise<void> {
  const debian = await debianRoot(RELEASE, [], { onProgress: (line) => console.log(`cluster: ${line}`) });
  if (debian === undefined) throw new Error(`${BASE} cannot be made here`);
  const { podman } = await startPodman(cleanup, join(work, 'podman'));
  const archive = join(work, 'debian.tar');
  await runCommand('tar', ['-C', debian, '--numeric-owner', '-cf', archive, '.']);
  // Node does not look at Debian's certificates by itself.
  const certificates = 'ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt';
  await podman(['import', '--change', certificates, archive, BASE], { timeoutMs: BUILD_MS });
  const machine = ['/root/.npmrc', '/etc/npmrc', '/usr/local/share/ca-certificates'].filter(existsSync);
  const volumes = machine.map((path) => `--volume=${path}:${path}:ro`);
  const build = ['build', '--network=host', '--pull=never', ...volumes];
  const files = ['--ignorefile', `${DOCKERFILE}.dockerignore`, '--file', DOCKERFILE, '--tag', ref, CHECKOUT];
  await podman([...build, ...files], { timeoutMs: BUILD_MS });
  console.log(`cluster: by the Dockerfile, size: ${await podman(['images', '--format={{.Size}}', ref])}`);
  await podman(['push', '--tls-verify=false', ref], { timeoutMs: BUILD_MS });
}
