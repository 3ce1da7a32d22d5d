/**
 * `cofa support` of a real engine, against an adversary: a secret in every place that cofa reads one from, in logs in every form,
 * and in an incident. None of them is in the archive, as it is or decoded.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { emptyNode } from '../../actors/node-state.ts';
import { encode } from '../../src/bus/connection.ts';
import { IncidentFolder } from '../../src/incidents/folder.ts';
import { LogFileReader, LogFileWriter } from '../../src/replay/log-file.ts';
import { decodeRecord } from '../../src/replay/record.ts';
import { pushImage } from '../faults/fault-image.ts';
import { noise } from '../images/nasty.ts';
import { type Engine, mountImage, runCofa, startEngine } from '../support/engine.ts';
import { startRegistry } from '../support/registry-server.ts';
import { runCommand } from '../support/services.ts';
import { Cleanup } from '../support/temp.ts';

const cleanup = new Cleanup();
afterAll(() => cleanup.run());

/** By place. */
const canaries = Object.fromEntries(
  [
    'docker',
    'identity',
    'header',
    'nats',
    'role',
    'api',
    'login',
    'hosts',
    'key',
    'passphrase',
    'home',
    'variable',
    'log',
    'event',
    'state',
    'label',
    'collector',
    'otel',
  ].map((place) => [
    place,
    `canary-${place}-${noise(6, place.length * 977 + (place.codePointAt(0) ?? 0)).toString('hex')}`,
  ]),
) as Record<string, string>;
const c = (place: string) => canaries[place] as string;
const base64 = (text: string) => Buffer.from(text).toString('base64');

let work = '';
let engine: Engine;
let env: Record<string, string>;

beforeAll(async () => {
  work = await cleanup.tempDir('support');
  const file = (name: string, content: string | object) => {
    const path = join(work, name);
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content), { mode: 0o600 });
    return path;
  };
  const account = { user: 'someone', password: c('docker') };
  const registry = await startRegistry({ auth: account });
  cleanup.defer(() => registry.stop());
  const open = await startRegistry();
  cleanup.defer(() => open.stop());
  const auth = base64(`someone:${c('docker')}`);
  file('docker/config.json', {
    auths: { [registry.host]: { auth }, 'other.example': { identitytoken: c('identity') } },
    HttpHeaders: { 'X-Mine': c('header') },
  });
  file('home/.docker/config.json', { auths: { 'third.example': { username: 'x', password: c('home') } } });
  file(
    'hosts/reg.example/hosts.toml',
    `[host."https://m.example"]\n[host."https://m.example".header]\nx-mine = "${c('hosts')}"\n`,
  );
  const key = `-----BEGIN PRIVATE KEY-----\n${base64(c('key'))}\n-----END PRIVATE KEY-----\n`;
  const keyFile = file('metrics.key', key);
  const config = file(
    'config.toml',
    [
      `nats = "nats://cofa:${c('nats')}@nats.example:4222"`,
      `nats-users = "${file('users.json', { v: 1, node: 'n', users: { reader: { user: 'r', password: c('role') } } })}"`,
      `api-users = "${file('api.json', { v: 1, users: { deploy: { password: c('api') } } })}"`,
      `metrics-auth = "${file('login', `prom:${c('login')}\n`)}"`,
      `traces-headers = "${file('headers', `authorization=Bearer ${c('collector')}\n`)}"`,
      `metrics-key = "${keyFile}"`,
      `hosts-dir = ["${join(work, 'hosts')}"]`,
      `docker-config = "${join(work, 'docker')}"`,
    ].join('\n'),
  );
  env = {
    COFA_CONFIG: config,
    HOME: join(work, 'home'),
    COFA_KEY_PASSWORD: c('passphrase'),
    MY_API_TOKEN: c('variable'),
    OTEL_EXPORTER_OTLP_HEADERS: `x-mine=${c('otel')}`,
  };

  // An image that needs the password, pushed by skopeo and mounted with it.
  const image = await pushImage(join(work, 'image'), open.host, 'private', [
    { 'app/data': noise(300_000, 5) },
  ]);
  const ref = `${registry.host}/private:1`;
  await runCommand('skopeo', [
    'copy',
    '--quiet',
    '--src-tls-verify=false',
    '--dest-tls-verify=false',
    '--dest-creds',
    `someone:${c('docker')}`,
    `docker://${image.ref}`,
    `docker://${ref}`,
  ]);
  engine = await startEngine({ workers: 1, args: ['--docker-config', join(work, 'docker')] });
  cleanup.defer(() => engine.stop());
  await mountImage(engine, ref, join(work, 'mnt'));

  // What a careless line could say.
  const secret = c('log');
  const lines = [
    { level: 40, msg: `Authorization: Bearer ${secret}` },
    { level: 40, headers: { authorization: `Basic ${base64(`u:${secret}`)}`, cookie: secret } },
    {
      level: 40,
      error: {
        message: `GET https://u:${secret}@reg.example/v2/?sig=${secret}&X-Amz-Signature=${secret} said {"token":"${secret}"}`,
      },
    },
    {
      level: 40,
      msg: JSON.stringify({ password: secret, nested: JSON.stringify({ identitytoken: secret }) }),
    },
    { level: 40, msg: key },
    {
      level: 40,
      msg: Object.values(canaries)
        .filter((one) => one !== secret && !/-(event|state|label|key)-/.test(one))
        .map((one) => `${one} ${encodeURIComponent(one)} ${base64(one)}`)
        // A line of a key stands alone.
        .concat(base64(c('key')))
        .join(' '),
    },
  ];
  for (const line of lines)
    appendFileSync(join(engine.root, 'log/front-end.log'), `${JSON.stringify(line)}\n`);
  await forgeIncident(new IncidentFolder(join(engine.root, 'incidents')));
}, 120_000);

/** An incident whose events and state say what none should. */
async function forgeIncident(folder: IncidentFolder): Promise<void> {
  mkdirSync(folder.dir, { recursive: true });
  const state = emptyNode();
  state.snapshots.set('1', { labels: { 'x/token': c('label') } } as never);
  state.images.set('sha256:1', {
    failure: { code: 'unauthorized', message: `Bearer ${c('state')}` },
  } as never);
  const name = '20261201T041226Z-7';
  const writer = await LogFileWriter.create(
    folder.logPath(name),
    { node: 'n', cofa: '1', exportedAt: 1, beginning: { seq: 3, at: 1, reason: 'from' } },
    { beginning: { seq: 3, at: 1, state } },
  );
  const message = `GET https://u:${c('event')}@reg.example/?token=${c('event')}: "password": "${c('event')}"`;
  const event = { v: 1, type: 'image.failed', at: 5, code: 'unavailable', message };
  await writer.add({ seq: 7, subject: 'cofa.v1.n.event.image.1', bytes: encode(event) }, 5);
  await writer.finish();
  const cause = {
    kind: 'integrity',
    of: '1',
    detail: message,
    times: 1,
    seq: 7,
    lastSeq: 7,
    at: 5,
    lastAt: 5,
  } as const;
  const incident = {
    seq: 7,
    at: 5,
    lastAt: 5,
    kind: 'integrity',
    causes: [cause],
    from: 7,
    to: 7,
    more: 0,
    moreAt: null,
  } as const;
  await folder.write(name, {
    v: 1,
    node: 'n',
    cofa: '1',
    incident: { ...incident, causes: [cause] },
    log: null,
  });
}

const everyFile = (dir: string): string[] =>
  readdirSync(dir, { recursive: true, withFileTypes: true }).flatMap((entry) =>
    entry.isFile() ? [join(entry.parentPath, entry.name)] : [],
  );

test('the archive has what helps, says what it has, and holds no secret', async () => {
  const file = join(work, 'support.tar.gz');
  const result = await runCofa(['support', '--json', '--out', file], {
    env: { ...env, COFA_ROOT: engine.root },
    timeoutMs: 200_000,
  });
  expect(result, result.stdout).toMatchObject({ code: 0, stderr: '' });
  const { parts, left } = JSON.parse(result.stdout) as { parts: Array<{ name: string }>; left: string[] };
  expect(left).toEqual([]);
  const names = parts.map(({ name }) => name);
  for (const name of [
    'versions.txt',
    'doctor.json',
    'status.json',
    'settings.json',
    'incidents/20261201T041226Z-7.cofa-log',
    'log/supervisor.log',
    'log/front-end.log',
  ])
    expect(names).toContain(name);
  expect(statSync(file).mode & 0o777).toBe(0o600);

  // GNU tar reads it.
  const out = join(work, 'unpacked');
  mkdirSync(out);
  execFileSync('tar', ['-xzf', file, '-C', out, '--strip-components=1']);
  const files = everyFile(out);
  const contents = readFileSync(join(out, 'CONTENTS.txt'), 'utf8');
  for (const name of names) expect(contents).toContain(name);
  expect(files).toHaveLength(names.length + 1);
  expect(JSON.parse(readFileSync(join(out, 'status.json'), 'utf8'))).toMatchObject({
    exit: 0,
    result: { node: expect.any(String), mounts: [{ dir: join(work, 'mnt') }] },
  });

  const texts = files.map((path) => [path, readFileSync(path, 'latin1')] as const);
  for (const path of files.filter((name) => name.endsWith('.cofa-log'))) {
    const reader = LogFileReader.open(path);
    const said = [
      JSON.stringify(reader.beginning.state, (_, value: unknown) =>
        value instanceof Map ? [...value] : value,
      ),
      JSON.stringify(reader.header),
    ];
    for (const { records } of reader.frames())
      for (const { bytes } of records) said.push(JSON.stringify(decodeRecord(bytes).record));
    reader.close();
    expect(said.join()).toContain('image.failed');
    texts.push([`${path} decoded`, said.join('\n')]);
  }
  const found = texts.flatMap(([path, text]) =>
    Object.entries(canaries).flatMap(([place, secret]) =>
      [
        secret,
        base64(secret),
        base64(`someone:${secret}`),
        base64(`u:${secret}`),
        Buffer.from(secret).toString('hex'),
      ]
        .filter((form) => text.includes(form))
        .map(() => `${place} in ${path}`),
    ),
  );
  expect(found).toEqual([]);
  // The adversary's own words were there to be found.
  const raw = readFileSync(join(engine.root, 'log/front-end.log'), 'utf8');
  expect(
    Object.entries(canaries)
      .filter(
        ([place, secret]) => !['event', 'state', 'label', 'key'].includes(place) && !raw.includes(secret),
      )
      .map(([place]) => place),
  ).toEqual([]);
  // Config files and keys are not in it as a whole either.
  expect(texts.filter(([, text]) => /"auths"|PRIVATE KEY-----\n/.test(text))).toEqual([]);

  const again = await runCofa(['support', '--out', file], { env: { ...env, COFA_ROOT: engine.root } });
  expect(again).toMatchObject({ code: 7, stderr: expect.stringContaining('exists already') });
}, 240_000);
